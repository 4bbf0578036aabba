"""What the warden of a cluster reported, kept as it came: each reading and each check of a node once."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Limit
from sqlalchemy import BigInteger
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, Session, SQLModel, col, delete, func, select

from marketplace import leases
from marketplace.bids import Bid
from marketplace.database import UTC_TIME
from marketplace.errors import InvalidInput
from marketplace.leases import Lease
from ray_cluster.usage import Probe, Reading

CLOCK_AHEAD_MS_MAX = 60_000


class ReadingRow(SQLModel, table=True):
    """Whether a node was alive at a time of the warden's clock."""

    __tablename__ = "reading"

    node_id: str = Field(primary_key=True)
    at_ms: int = Field(primary_key=True, sa_type=BigInteger)
    alive: bool


class ProbeRow(SQLModel, table=True):
    """One answered check of a node."""

    __tablename__ = "probe"

    node_id: str = Field(primary_key=True)
    at_ms: int = Field(primary_key=True, sa_type=BigInteger)
    outcome: str
    detail: str = ""


class WardenSeen(SQLModel, table=True):
    """Up to when a cluster's warden has reported, by its own clock."""

    __tablename__ = "warden_seen"

    cluster_id: str = Field(primary_key=True)
    until_ms: int = Field(sa_type=BigInteger)
    received_at: datetime = Field(sa_type=UTC_TIME)


class ReadingIn(BaseModel):
    """A reading as the warden sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    node_id: str = Limit(max_length=60)
    at_ms: int = Limit(ge=0, le=2**50)
    alive: bool
    busy: bool


class ProbeIn(BaseModel):
    """A check's outcome as the warden sends it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    node_id: str = Limit(max_length=60)
    at_ms: int = Limit(ge=0, le=2**50)
    outcome: Literal["passed", "failed"]
    detail: str = Limit(default="", max_length=400)


class Report(BaseModel):
    """What a warden saw since its last report."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cluster_id: str = Limit(max_length=60)
    readings: list[ReadingIn] = Limit(max_length=5_000)
    probes: list[ProbeIn] = Limit(max_length=5_000)


def store(session: Session, report: Report, *, at: datetime) -> None:
    """Keep a report; one that comes twice changes nothing. Nodes of other clusters are ignored.

    Raises InvalidInput for times ahead of the market's clock.
    """
    ahead_ms = int(at.timestamp() * 1000) + CLOCK_AHEAD_MS_MAX
    times = [*(r.at_ms for r in report.readings), *(p.at_ms for p in report.probes)]
    if max(times, default=0) > ahead_ms:
        raise InvalidInput("the warden's clock is ahead of the market's", hint="set the clock")
    known = set(session.exec(select(Bid.id).where(Bid.cluster_id == report.cluster_id)))
    readings = [r for r in report.readings if r.node_id in known]
    probes = [p for p in report.probes if p.node_id in known]
    if readings:
        rows = [r.model_dump(exclude={"busy"}) for r in readings]
        session.execute(insert(ReadingRow).values(rows).on_conflict_do_nothing())
    if probes:
        session.execute(insert(ProbeRow).values([p.model_dump() for p in probes]).on_conflict_do_nothing())
    _touch(session, readings)
    until_ms = max((r.at_ms for r in report.readings), default=0)
    if until_ms:
        seen = insert(WardenSeen).values(cluster_id=report.cluster_id, until_ms=until_ms, received_at=at)
        newest = {"until_ms": seen.excluded.until_ms, "received_at": at}
        session.execute(
            seen.on_conflict_do_update(
                index_elements=["cluster_id"], set_=newest, where=seen.excluded.until_ms > WardenSeen.until_ms
            )
        )


def evidence(session: Session, lease: Lease, *, margin_ms: int = 60_000) -> tuple[list[Reading], list[Probe]]:
    """Return what is known of a lease's node during the lease and ``margin_ms`` around it."""
    first = int(lease.started_at.timestamp() * 1000) - margin_ms
    last = int(lease.ends_at.timestamp() * 1000) + margin_ms
    seen = select(ReadingRow).where(ReadingRow.node_id == lease.bid_id, col(ReadingRow.at_ms).between(first, last))
    checked = select(ProbeRow).where(ProbeRow.node_id == lease.bid_id, col(ProbeRow.at_ms).between(first, last))
    return (
        [Reading(row.at_ms, row.alive) for row in session.exec(seen)],
        [Probe(row.at_ms, row.outcome, row.detail) for row in session.exec(checked)],  # type: ignore[arg-type]
    )


def reported_until(session: Session, cluster_id: str) -> int:
    """Return up to when the cluster's warden has reported, in epoch milliseconds; 0 when it never did."""
    seen = session.get(WardenSeen, cluster_id)
    return seen.until_ms if seen else 0


def last_passed(session: Session, lease: Lease) -> int:
    """Return when a lease's node last passed a check, or when it joined if it never did, in epoch milliseconds."""
    passed = select(func.max(ProbeRow.at_ms)).where(ProbeRow.node_id == lease.bid_id, ProbeRow.outcome == "passed")
    joined_at = lease.joined_at or lease.started_at
    return session.exec(passed).one() or int(joined_at.timestamp() * 1000)


def forget(session: Session, *, before_ms: int) -> None:
    """Delete what was seen before a time; the judged windows stay."""
    session.exec(delete(ReadingRow).where(col(ReadingRow.at_ms) < before_ms))
    session.exec(delete(ProbeRow).where(col(ProbeRow.at_ms) < before_ms))


def over(session: Session, report: Report) -> list[str]:
    """Return which of a report's nodes need no more checks: their leases are over."""
    named = {r.node_id for r in report.readings if r.alive}
    return list(session.exec(select(Bid.id).where(col(Bid.id).in_(named), Bid.state == "closed")))


def _touch(session: Session, readings: list[ReadingIn]) -> None:
    """Note on each node's open lease when it joined, was last alive and last busy; end the lease of a dead node.

    Readings no newer than what is known say nothing: a report that comes again, or late, changes no lease.
    """
    by_node: defaultdict[str, list[ReadingIn]] = defaultdict(list)
    for reading in sorted(readings, key=lambda r: r.at_ms):
        by_node[reading.node_id].append(reading)
    query = select(Lease).where(col(Lease.bid_id).in_(by_node), Lease.state == "open").order_by(Lease.id)
    for lease in session.exec(query.with_for_update()).all():
        died_at: datetime | None = None
        for reading in by_node[lease.bid_id]:
            seen_at = datetime.fromtimestamp(reading.at_ms / 1000, UTC)
            if lease.last_alive_at is not None and seen_at <= lease.last_alive_at:
                continue
            if reading.alive:
                lease.joined_at, lease.last_alive_at, died_at = lease.joined_at or seen_at, seen_at, None
                lease.last_busy_at = seen_at if reading.busy else lease.last_busy_at
            elif lease.joined_at is not None:
                died_at = died_at or seen_at
        session.add(lease)
        if died_at is not None:
            leases.close(session, lease.id, "the node died: Ray lost it", at=died_at)
