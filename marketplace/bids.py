"""Bids: a cluster wants one more node of a class, as Ray's autoscaler says."""

import re
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field, Session, SQLModel, col, func, select

from marketplace import clusters, device_classes
from marketplace.database import UTC_TIME
from marketplace.errors import Conflict, InvalidInput, NotFound
from marketplace.wakeups import wake

KEEP_PLACE_SECONDS = 120
"""Ray gives up a node that stays pending for minutes and asks anew: the new bid takes the old one's place."""
_NODE_ID = re.compile(r"nd_[0-9a-f]{8,40}")


class Bid(SQLModel, table=True):
    """A bid for one node, which is the node itself once it has won: ``standing``, ``leased``, then ``closed``."""

    __tablename__ = "bid"

    id: str = Field(primary_key=True)
    """Also the node's id in Ray (its cloud instance id)."""
    cluster_id: str = Field(foreign_key="cluster.id", index=True)
    device_class: str
    limit_micros_per_hour: int = Field(sa_type=BigInteger)
    """The most the buyer pays per compute-hour, fee included."""
    request_id: str = ""
    state: str = Field(default="standing", index=True)
    placed_at: datetime = Field(sa_type=UTC_TIME)
    closed_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    close_reason: str = ""
    lost_clearings: int = 0
    last_loss: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


def place(
    session: Session, *, cluster_id: str, device_class: str, node_ids: list[str], request_id: str, at: datetime
) -> list[Bid]:
    """Place one bid a node id; ids that were placed before are left as they are.

    Raises InvalidInput for a malformed id or a class outside the cluster's, Conflict when the cluster is not running
    or would have more than ``max_nodes``.
    """
    cluster = clusters.lock(session, cluster_id)
    device_classes.kind_of(device_class)
    if device_class not in device_classes.node_types(cluster.region, cluster.trust, cluster.kinds):  # type: ignore[arg-type]
        raise InvalidInput(f"this cluster does not buy {device_class}")
    if any(not _NODE_ID.fullmatch(node_id) for node_id in node_ids):
        raise InvalidInput("a node id is nd_ and 8 to 40 hex digits")
    known = {bid.id: bid for bid in session.exec(select(Bid).where(col(Bid.id).in_(node_ids)))}
    if any(bid.cluster_id != cluster_id for bid in known.values()):
        raise Conflict("a node id is in use")
    new = [node_id for node_id in dict.fromkeys(node_ids) if node_id not in known]
    if new and cluster.state not in ("starting", "running"):
        raise Conflict(f"the cluster is {cluster.state}: {cluster.reason}")
    count = session.exec(
        select(func.count()).select_from(Bid).where(Bid.cluster_id == cluster_id, Bid.state != "closed")
    ).one()
    if count + len(new) > cluster.max_nodes:
        raise Conflict(
            f"{count} of at most {cluster.max_nodes} nodes stand already", hint="open the cluster with more max_nodes"
        )
    places = _given_up(session, cluster_id, device_class, at, count=len(new))
    for number, node_id in enumerate(new):
        bid = Bid(
            id=node_id,
            cluster_id=cluster_id,
            device_class=device_class,
            limit_micros_per_hour=cluster.max_price_micros_per_hour,
            request_id=request_id,
            placed_at=places[number] if number < len(places) else at,
        )
        session.add(bid)
        known[node_id] = bid
    session.flush()
    if new:
        wake(session)
        text = f"bid for {len(new)} × {device_class}"
        clusters.note(session, cluster_id, "bid", text, at=at, nodes=new)
    return [known[node_id] for node_id in node_ids]


def standing(session: Session, cluster_id: str) -> list[Bid]:
    """Return a cluster's bids and nodes that are not closed."""
    query = select(Bid).where(Bid.cluster_id == cluster_id, Bid.state != "closed").order_by(col(Bid.placed_at), Bid.id)
    return list(session.exec(query))


def bid(session: Session, bid_id: str, *, cluster_id: str) -> Bid:
    """Return a bid of a cluster. Raises NotFound, also for another cluster's."""
    found = session.get(Bid, bid_id)
    if found is None or found.cluster_id != cluster_id:
        raise NotFound(f"no node {bid_id[:40]!r}")
    return found


def lock(session: Session, bid_id: str) -> Bid:
    """Return a bid whose row nobody else changes until this session ends."""
    query = select(Bid).where(Bid.id == bid_id).with_for_update().execution_options(populate_existing=True)
    return session.exec(query).one()


def close(session: Session, found: Bid, reason: str, *, at: datetime) -> None:
    """End a bid; ending an ended one changes nothing."""
    if found.state != "closed":
        found.state, found.closed_at, found.close_reason = "closed", at, reason
        session.add(found)


def _given_up(session: Session, cluster_id: str, device_class: str, at: datetime, *, count: int) -> list[datetime]:
    """Return at most ``count`` places of bids withdrawn before they won, oldest first, and take them away."""
    query = select(Bid).where(
        Bid.cluster_id == cluster_id,
        Bid.device_class == device_class,
        Bid.close_reason == "withdrawn",
        col(Bid.closed_at) > at - timedelta(seconds=KEEP_PLACE_SECONDS),
    )
    places = []
    for given_up in session.exec(query.order_by(col(Bid.placed_at)).limit(count)):
        given_up.close_reason = "withdrawn, its place taken over"
        session.add(given_up)
        places.append(given_up.placed_at)
    return places
