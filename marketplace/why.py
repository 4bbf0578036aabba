"""Why a cluster waits, in words and numbers, and what would help."""

from datetime import datetime

from pydantic import BaseModel
from sqlmodel import Session, col, func, select

from billing import money, wallets
from marketplace import bids, leases
from marketplace.clusters import Cluster
from marketplace.devices import Device
from marketplace.leases import Lease


class Waiting(BaseModel):
    """One bid that has not won."""

    node_id: str
    device_class: str
    waits_seconds: int
    lost_clearings: int
    limit_micros_per_hour: int
    """The most the buyer pays, fee included."""
    would_win_at_micros_per_hour: int | None
    """The all-in price that would have won the last clearing; none where no price would have."""
    reason: str
    hint: str


class Explanation(BaseModel):
    """What a cluster waits for."""

    cluster_id: str
    state: str
    summary: str
    waiting: list[Waiting]


def explain(session: Session, cluster: Cluster, *, at: datetime) -> Explanation:
    """Explain a cluster's state to its buyer."""
    waiting = [_waiting(session, bid, at) for bid in bids.standing(session, cluster.id) if bid.state == "standing"]
    open_leases = leases.open_of(session, cluster.id)
    joining = [lease for lease in open_leases if lease.joined_at is None]
    if cluster.state in ("stopping", "stopped"):
        summary = f"{cluster.state}: {cluster.reason}"
    elif cluster.state == "starting":
        summary = (
            f"the Ray head is starting, {(at - cluster.created_at).total_seconds():.0f} s so far; about 10 s are usual"
        )
    elif waiting:
        summary = f"{len(waiting)} of {len(waiting) + len(open_leases)} nodes wait: {waiting[0].reason}"
    elif joining:
        summary = f"{len(joining)} of {len(open_leases)} devices are joining; about 15 s are usual"
    elif open_leases:
        summary = f"{len(open_leases)} nodes run; nothing waits"
    else:
        available = money.format_usd(wallets.available_micros(session, cluster.account_id), 2)
        summary = f"no task asks for a node; {available} of credit is free"
    return Explanation(cluster_id=cluster.id, state=cluster.state, summary=summary, waiting=waiting)


def _waiting(session: Session, bid: bids.Bid, at: datetime) -> Waiting:
    loss = bid.last_loss or {}
    would_win = loss.get("all_in_would_win_at_micros")
    if loss.get("code") == "no_money":
        hint = "top up your credit, or open a cluster with a larger budget"
    elif would_win is not None and would_win > bid.limit_micros_per_hour:
        hint = f"a max_price of {money.format_usd(would_win)}/h would have won"
    else:
        hint = _supply_hint(session, bid)
    return Waiting(
        node_id=bid.id,
        device_class=bid.device_class,
        waits_seconds=int((at - bid.placed_at).total_seconds()),
        lost_clearings=bid.lost_clearings,
        limit_micros_per_hour=bid.limit_micros_per_hour,
        would_win_at_micros_per_hour=would_win,
        reason=loss.get("text", "waiting for the next clearing"),
        hint=hint,
    )


def _supply_hint(session: Session, bid: bids.Bid) -> str:
    known = select(func.count()).select_from(Device).where(Device.device_class == bid.device_class)
    enrolled = session.exec(known.where(col(Device.left_at).is_(None))).one()
    leased = session.exec(
        select(func.count()).select_from(Lease).where(Lease.device_class == bid.device_class, Lease.state == "open")
    ).one()
    return f"{enrolled} devices of {bid.device_class} are enrolled, {leased} of them leased; it wins when one is free"
