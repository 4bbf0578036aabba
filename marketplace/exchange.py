"""The tick: freeze the book, clear it, open the leases, tell the losers why, publish the record.

One PostgreSQL transaction from the frozen book to the last lease, under an advisory lock and a unique tick number: it
happens whole or not at all, and once however many servers try.
"""

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, text
from sqlmodel import Field, Session, SQLModel, col, or_, select

from billing import money, wallets
from billing.ids import new_id
from marketplace import auction, bids, clusters, leases, offers
from marketplace.clusters import Cluster
from marketplace.database import UTC_TIME, Sessions, transaction
from marketplace.devices import Device
from marketplace.leases import Lease
from marketplace.settings import Settings
from marketplace.wakeups import wake

_LOCK = 0x5350415245  # one advisory lock of our own: nobody else clears meanwhile
CHAIN_LENGTH = 17_280


class Tick(SQLModel, table=True):
    """The published record of one clearing."""

    __tablename__ = "tick"

    number: int = Field(primary_key=True, sa_type=BigInteger)
    at: datetime = Field(sa_type=UTC_TIME)
    book_hash: str
    seed: str
    record: dict[str, Any] = Field(sa_column=Column(JSON))


@dataclass
class Entry:
    """A bid in the frozen book: a new one, or an open lease that asks to be renewed."""

    bid: bids.Bid
    cluster: Cluster
    renews: Lease | None = None


@dataclass
class Frozen:
    """The book with what stands behind each order, and the orders that may not take part, with the reason."""

    entries: dict[str, Entry] = field(default_factory=dict)
    devices: dict[str, tuple[offers.Ask, Device]] = field(default_factory=dict)
    due: dict[str, Lease] = field(default_factory=dict)
    """The open leases whose renewal is decided now, by device."""
    excluded: list[Entry] = field(default_factory=list)
    book: auction.Book = field(default_factory=auction.Book)


def tick(sessions: Sessions, settings: Settings, *, at: datetime, secret: bytes, devices_since: datetime) -> int | None:
    """Clear once and return the tick's number, or None when this tick was cleared already or there is nothing to clear.

    ``devices_since``: devices not heard of since then take no part.
    """
    number = int(at.timestamp() / settings.tick_seconds)
    with sessions() as session:
        if not _anything_due(session, settings, at):
            return None
    with transaction(sessions) as session:
        session.connection().execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if session.get(Tick, number) is not None:
            return None
        frozen = freeze(session, settings, at=at, devices_since=devices_since)
        if not frozen.entries and not frozen.excluded:
            return None
        seed, committed, steps = seed_of(secret, number)
        clearing = auction.clear(frozen.book, seed=seed)
        _award(session, settings, frozen, clearing, number, at)
        _explain(session, settings, frozen, clearing, at)
        record = auction.record(frozen.book, clearing, seed=seed, revealed=committed, steps=steps)
        session.add(Tick(number=number, at=at, book_hash=clearing.book_hash, seed=seed.hex(), record=record))
    return number


def seed_of(secret: bytes, number: int) -> tuple[bytes, bytes, int]:
    """Return a tick's seed, the commitment that its chain of seeds was opened with, and how far it lies after that.

    Every 17,280 ticks (a day of five-second ticks) begin a new chain, so that a seed takes milliseconds to find; its
    commitment can be computed, and published, at any time before.
    """
    chain, position = divmod(number, CHAIN_LENGTH)
    end = hmac.new(secret, f"chain:{chain}".encode(), hashlib.sha256).digest()
    committed = auction.commitment(end, length=CHAIN_LENGTH)
    return auction.seed_at(end, position + 1, length=CHAIN_LENGTH), committed, position + 1


def freeze(session: Session, settings: Settings, *, at: datetime, devices_since: datetime) -> Frozen:
    """Read every order that may take part in this tick."""
    frozen = Frozen()
    # Clusters first, then leases, then bids: everybody locks in this order, so nobody waits in a circle.
    wanted = select(bids.Bid.cluster_id).where(bids.Bid.state == "standing")
    locked = select(Cluster.id).where(Cluster.state == "running", col(Cluster.id).in_(wanted)).order_by(Cluster.id)
    session.exec(locked.with_for_update(key_share=True)).all()
    scores = _supply(session, frozen, settings, at=at, devices_since=devices_since)
    by_cluster: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in frozen.entries.values():
        by_cluster[entry.cluster.id].append(entry)
    standing = (
        select(bids.Bid, Cluster)
        .join(Cluster, col(Cluster.id) == col(bids.Bid.cluster_id))
        .where(bids.Bid.state == "standing", Cluster.state == "running")
        .order_by(col(bids.Bid.placed_at), bids.Bid.id)
        .with_for_update(of=bids.Bid)
        .execution_options(populate_existing=True)
    )
    for bid, cluster in session.exec(standing):
        by_cluster[cluster.id].append(Entry(bid, cluster))
    frozen.entries.clear()
    for entries in by_cluster.values():
        _eligible(session, settings, frozen, entries, scores)
    frozen.book = auction.Book(
        bids=tuple(
            auction.Bid(
                id=bid_id,
                value_micros=money.value_micros(entry.bid.limit_micros_per_hour, settings.fee_bps),
                quantity=1,
                device_classes=(entry.bid.device_class,),
                owner=entry.cluster.account_id,
            )
            for bid_id, entry in frozen.entries.items()
        ),
        asks=tuple(
            auction.Ask(
                id=ask_id,
                reserve_micros=ask.reserve_micros_per_hour,
                slots=1,
                device_class=device.device_class,
                owner=ask.account_id,
            )
            for ask_id, (ask, device) in frozen.devices.items()
        ),
        incumbents={
            bid_id: next(a for a, (_, d) in frozen.devices.items() if d.id == entry.renews.device_id)
            for bid_id, entry in frozen.entries.items()
            if entry.renews is not None and any(d.id == entry.renews.device_id for _, d in frozen.devices.values())
        },
    )
    return frozen


def _anything_due(session: Session, settings: Settings, at: datetime) -> bool:
    """Whether any bid stands or any lease nears its end: most ticks have nothing to clear, and find out by one look."""
    soon = at + timedelta(milliseconds=settings.notice_ms)
    bid = select(bids.Bid.id).where(bids.Bid.state == "standing").exists()
    lease = select(Lease.id).where(Lease.state == "open", Lease.ends_at <= soon, Lease.notice == "").exists()
    return bool(session.exec(select(or_(bid, lease))).one())


def notice_ms(settings: Settings, lease_ms: int) -> int:
    """Return how long before a lease's end its renewal is decided: the notice, or a third of a short lease."""
    return min(settings.notice_ms, lease_ms // 3)


def _supply(
    session: Session, frozen: Frozen, settings: Settings, *, at: datetime, devices_since: datetime
) -> dict[str, int]:
    """Read the asks of present, free devices and the leases due for renewal; return the best score of each class."""
    open_leases = {
        lease.device_id: lease for lease in session.exec(select(Lease).where(col(Lease.state).in_(["open", "next"])))
    }
    open_query = select(Lease).where(Lease.state == "open", Lease.notice == "").order_by(Lease.id)
    for lease in session.exec(open_query).all():
        cluster = clusters.cluster(session, lease.cluster_id)
        renewed = (
            open_leases[lease.device_id].state == "next"
            or session.exec(select(Lease).where(Lease.renews_id == lease.id)).first()
        )
        decide_at = lease.ends_at - timedelta(milliseconds=notice_ms(settings, cluster.lease_ms))
        if decide_at > at or renewed or cluster.state != "running":
            continue
        # From here on nobody ends it: a renewal of a lease that is over would never begin.
        if leases.lock(session, lease.id).state == "open":
            frozen.due[lease.device_id] = lease
            frozen.entries[lease.bid_id] = Entry(
                bids.bid(session, lease.bid_id, cluster_id=lease.cluster_id), cluster, lease
            )
    scores: dict[str, int] = {}
    present = (
        select(offers.Ask, Device)
        .join(Device, col(Device.id) == col(offers.Ask.device_id))
        .where(col(Device.last_seen_at) >= devices_since, col(Device.left_at).is_(None))
        .order_by(offers.Ask.id)
    )
    for ask, device in session.exec(present):
        if device.id not in open_leases or device.id in frozen.due:
            frozen.devices[ask.id] = (ask, device)
            scores[device.device_class] = max(scores.get(device.device_class, 0), device.score_millis)
    return scores


def _eligible(
    session: Session, settings: Settings, frozen: Frozen, entries: list[Entry], scores: dict[str, int]
) -> None:
    """Let in as many of a cluster's bids as its credit and budget can surely hold, renewals first."""
    cluster = entries[0].cluster
    free, short_of = _free_micros(session, cluster)
    for entry in sorted(entries, key=lambda e: e.renews is None):
        value = money.value_micros(entry.bid.limit_micros_per_hour, settings.fee_bps)
        rate = -(-value * scores.get(entry.bid.device_class, 1000) // 1000)
        least = money.hold_micros(rate, settings.lease_ms_min, settings.fee_bps)
        if free >= least:
            free -= least
            frozen.entries[entry.bid.id] = entry
        else:
            frozen.excluded.append(entry)
            text_ = (
                f"credit and budget have {money.format_usd(free)} left for it; "
                f"the shortest lease at your limit needs {money.format_usd(least)}"
            )
            _lose(session, entry, {"code": "no_money", "short_of": short_of, "text": text_})


def _free_micros(session: Session, cluster: Cluster) -> tuple[int, str]:
    """Return what a cluster can still have held, and what bounds it: ``budget`` or ``credit``."""
    budget = cluster.budget_micros - leases.committed_micros(session, cluster.id)
    credit = wallets.available_micros(session, cluster.account_id)
    return max(0, min(budget, credit)), "budget" if budget <= credit else "credit"


def _award(
    session: Session, settings: Settings, frozen: Frozen, clearing: auction.Clearing, number: int, at: datetime
) -> None:
    by_cluster: defaultdict[str, list[auction.Award]] = defaultdict(list)
    for award in clearing.awards:
        by_cluster[frozen.entries[award.bid_id].cluster.id].append(award)
    for cluster_id in sorted(by_cluster):
        cluster = clusters.lock(session, cluster_id)
        awards = by_cluster[cluster_id]
        for position, award in enumerate(awards):
            # An equal share of what is free: one node's long lease must not leave the next without any.
            share = _free_micros(session, cluster)[0] // (len(awards) - position)
            _open_lease(session, settings, frozen, award, share, number, at)


def _open_lease(
    session: Session, settings: Settings, frozen: Frozen, award: auction.Award, share: int, number: int, at: datetime
) -> None:
    """Hold the money and open the lease, as long as the cluster asked for or as its share of the money lasts."""
    entry, (_, device) = frozen.entries[award.bid_id], frozen.devices[award.ask_id]
    old = entry.renews
    if old is not None and old.device_id != device.id:
        # Its lease ends, and Ray asks for another node.
        text_ = f"its bid won {device.name}, which asks less, and a running node cannot move"
        _lose(session, entry, {"code": "cheaper_device", "text": text_})
        return
    if old is None and device.id in frozen.due:
        free_in = (frozen.due[device.id].ends_at - at).total_seconds()
        _lose(session, entry, {"code": "not_free_yet", "text": f"won {device.name}, which is free in {free_in:.0f} s"})
        return
    rate = award.price_micros * device.score_millis // 1000
    full = money.hold_micros(rate, entry.cluster.lease_ms, settings.fee_bps)
    length_ms = entry.cluster.lease_ms if full <= share else entry.cluster.lease_ms * share // full
    if length_ms < settings.lease_ms_min:
        _lose(session, entry, {"code": "no_money", "text": "credit and budget do not last for the shortest lease"})
        return
    hold = money.hold_micros(rate, length_ms, settings.fee_bps)
    starts_at = old.ends_at if old else at
    lease = Lease(
        id=new_id("ls"),
        bid_id=entry.bid.id,
        cluster_id=entry.cluster.id,
        buyer_id=entry.cluster.account_id,
        provider_id=device.account_id,
        device_id=device.id,
        device_class=entry.bid.device_class,
        tick=number,
        renews_id=old.id if old else None,
        price_micros_per_hour=award.price_micros,
        score_millis=device.score_millis,
        rate_micros_per_hour=rate,
        fee_bps=settings.fee_bps,
        hold_micros=hold,
        state="next" if old else "open",
        started_at=starts_at,
        ends_at=starts_at + timedelta(milliseconds=length_ms),
    )
    if hold:
        wallets.hold(session, lease_id=lease.id, buyer_id=lease.buyer_id, amount_micros=hold, at=at)
    entry.bid.state, entry.bid.last_loss, entry.bid.lost_clearings = "leased", None, 0
    session.add_all([lease, entry.bid])
    session.flush()
    wake(session)
    verb = "renewed" if old else "awarded"
    text_ = (
        f"{verb} {device.name} ({lease.device_class}) at {money.format_usd(award.price_micros)} a compute-hour "
        f"for {length_ms // 1000} s; {money.format_usd(hold)} held"
    )
    clusters.note(session, lease.cluster_id, verb, text_, at=at, lease=lease.id, node=lease.bid_id, tick=number)


def _explain(session: Session, settings: Settings, frozen: Frozen, clearing: auction.Clearing, at: datetime) -> None:
    """Write each loser's reason where it will look for it, and tell a lost renewal to drain."""
    won = {award.bid_id: award.ask_id for award in clearing.awards}
    for loser in clearing.losers:
        loss = asdict(loser)
        if loser.side == "ask":
            ask, _ = frozen.devices[loser.order_id]
            ask.lost_clearings += 1
            ask.last_loss = loss
            session.add(ask)
        else:
            for key in ("would_win_at_micros", "limit_micros", "price_micros"):
                loss[f"all_in_{key}"] = _with_fee(loss[key], settings.fee_bps)
            _lose(session, frozen.entries[loser.order_id], loss)
    for ask_id in won.values():
        ask, _ = frozen.devices[ask_id]
        ask.lost_clearings, ask.last_loss = 0, None
        session.add(ask)
    _give_notice(session, [*_renewals_lost(frozen, won), *frozen.excluded], at)


def _renewals_lost(frozen: Frozen, won: dict[str, str]) -> Iterable[Entry]:
    for bid_id, entry in frozen.entries.items():
        ask_id = won.get(bid_id)
        kept = ask_id is not None and entry.renews and frozen.devices[ask_id][1].id == entry.renews.device_id
        if entry.renews is not None and not kept:
            yield entry


def _give_notice(session: Session, entries: Iterable[Entry], at: datetime) -> None:
    for entry in entries:
        if entry.renews is None:
            continue
        lease = leases.lock(session, entry.renews.id)
        why = (entry.bid.last_loss or {}).get("text", "it lost its device")
        lease.notice = f"not renewed: {why}"
        session.add(lease)
        clusters.note(session, lease.cluster_id, "notice", lease.notice, at=at, lease=lease.id, node=lease.bid_id)


def _lose(session: Session, entry: Entry, loss: dict[str, Any]) -> None:
    entry.bid.lost_clearings += 1
    entry.bid.last_loss = loss
    session.add(entry.bid)


def _with_fee(micros: int | None, fee_bps: int) -> int | None:
    """Return the all-in price, rounded up: a limit of that much is enough."""
    return None if micros is None else -(-micros * (10_000 + fee_bps) // 10_000)
