"""A lease: one device bought by one cluster for a few minutes at a locked price."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, text
from sqlmodel import Field, Session, SQLModel, col, select

from marketplace import bids, clusters
from marketplace.database import UTC_TIME
from marketplace.devices import Device
from marketplace.wakeups import wake


class Lease(SQLModel, table=True):
    """``next`` (begins when the one it renews ends), ``open``, ``closed`` (over, usage still judged), ``settled``.

    Money in micro-dollars. The rate is the device's own: price × its score, locked at the award.
    """

    __tablename__ = "lease"
    __table_args__ = (
        Index("lease_one_open_a_device", "device_id", unique=True, postgresql_where=text("state = 'open'")),
        Index("lease_one_next_a_device", "device_id", unique=True, postgresql_where=text("state = 'next'")),
        Index("lease_one_open_a_bid", "bid_id", unique=True, postgresql_where=text("state = 'open'")),
    )

    id: str = Field(primary_key=True)
    bid_id: str = Field(foreign_key="bid.id", index=True)
    cluster_id: str = Field(foreign_key="cluster.id", index=True)
    buyer_id: str
    provider_id: str = Field(index=True)
    device_id: str = Field(foreign_key="device.id")
    device_class: str
    tick: int = Field(sa_type=BigInteger)
    """The clearing that awarded it."""
    renews_id: str | None = None
    price_micros_per_hour: int = Field(sa_type=BigInteger)
    """The clearing price per compute-hour."""
    score_millis: int
    rate_micros_per_hour: int = Field(sa_type=BigInteger)
    """What an hour of this device costs before the fee: price × score_millis // 1000."""
    fee_bps: int
    hold_micros: int = Field(sa_type=BigInteger)
    state: str = Field(default="open", index=True)
    started_at: datetime = Field(sa_type=UTC_TIME)
    ends_at: datetime = Field(sa_type=UTC_TIME)
    """When it ends unless something ends it before; once closed, when it ended."""
    notice: str = ""
    """Why it is not renewed; set when the device is told to drain."""
    close_reason: str = ""
    joined_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    """When the warden first saw the node alive."""
    last_alive_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    last_busy_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    claimed_ms: int = Field(default=0, sa_type=BigInteger)
    """What the device says that it ran: shown, never paid."""
    judged_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    verified_ms: int = Field(default=0, sa_type=BigInteger)
    charge_micros: int = Field(default=0, sa_type=BigInteger)
    earning_micros: int = Field(default=0, sa_type=BigInteger)
    settled_at: datetime | None = Field(default=None, sa_type=UTC_TIME)


UNSETTLED = ("next", "open", "closed")


def committed_micros(session: Session, cluster_id: str) -> int:
    """Return what a cluster has spent or may still have to pay: charges of settled leases, holds of the others."""
    found = session.exec(select(Lease).where(Lease.cluster_id == cluster_id)).all()
    return sum(lease.charge_micros if lease.state == "settled" else lease.hold_micros for lease in found)


def open_of(session: Session, cluster_id: str) -> list[Lease]:
    """Return the open leases of a cluster."""
    return list(session.exec(select(Lease).where(Lease.cluster_id == cluster_id, Lease.state == "open")))


def lock(session: Session, lease_id: str) -> Lease:
    """Return a lease whose row nobody else changes until this session ends."""
    query = select(Lease).where(Lease.id == lease_id).with_for_update().execution_options(populate_existing=True)
    return session.exec(query).one()


def close(session: Session, lease_id: str, reason: str, *, at: datetime) -> bool:
    """End an open lease now and close its bid; a renewal that had not begun ends with it, uncharged.

    The hold stays until settlement. Returns whether there was anything to end.
    """
    lease = lock(session, lease_id)
    if lease.state != "open":
        return False
    lease.state, lease.close_reason = "closed", reason
    lease.ends_at = max(lease.started_at, min(at, lease.ends_at))
    session.add(lease)
    for renewal in session.exec(
        select(Lease).where(Lease.renews_id == lease_id, Lease.state == "next").with_for_update()
    ):
        renewal.state, renewal.close_reason, renewal.ends_at = "closed", reason, renewal.started_at
        session.add(renewal)
    bids.close(session, bids.bid(session, lease.bid_id, cluster_id=lease.cluster_id), reason, at=at)
    device = session.get(Device, lease.device_id)
    name = device.name if device else lease.device_id
    clusters.note(
        session, lease.cluster_id, "lease-ended", f"{name}: {reason}", at=at, lease=lease.id, node=lease.bid_id
    )
    wake(session)
    session.flush()
    return True


def end_or_renew(session: Session, lease_id: str, *, at: datetime) -> None:
    """At a lease's end: begin its renewal, in which case the node stays, or close it."""
    lease = lock(session, lease_id)
    if lease.state != "open" or lease.ends_at > at:
        return
    renewal = session.exec(
        select(Lease).where(Lease.renews_id == lease_id, Lease.state == "next").with_for_update()
    ).first()
    if renewal is None:
        bid = bids.bid(session, lease.bid_id, cluster_id=lease.cluster_id)
        lost = (bid.last_loss or {}).get("text")
        reason = f"not renewed: {lost}" if lost else "the lease ended and was not renewed"
        close(session, lease_id, lease.notice or reason, at=at)
        return
    lease.state, lease.close_reason = "closed", "renewed"
    session.add(lease)
    session.flush()
    renewal.state, renewal.joined_at, renewal.last_alive_at = "open", lease.joined_at, lease.last_alive_at
    renewal.last_busy_at = lease.last_busy_at
    session.add(renewal)
    session.flush()


def orders(session: Session, device_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return what each device should be running: the frames of its open leases, by device id."""
    found: dict[str, list[dict[str, Any]]] = {device_id: [] for device_id in device_ids}
    query = (
        select(Lease, clusters.Cluster, Device)
        .join(clusters.Cluster, col(clusters.Cluster.id) == col(Lease.cluster_id))
        .join(Device, col(Device.id) == col(Lease.device_id))
        .where(col(Lease.device_id).in_(device_ids), Lease.state == "open")
    )
    for lease, cluster, device in session.exec(query):
        found[device.id].append(_order(lease, cluster, device))
    return found


def _order(lease: Lease, cluster: clusters.Cluster, device: Device) -> dict[str, Any]:
    labels = {
        "spare-node": lease.bid_id,
        "spare-lease": lease.id,
        "spare-device": device.id,
        "spare-class": lease.device_class,
        "spare-region": device.region,
        "spare-trust": lease.device_class.rsplit(".", 1)[-1],
    }
    resources = {f"class:{lease.device_class}": 1, f"device:{device.id}": 1, f"lease:{lease.id}": 1}
    return {
        "lease_id": lease.id,
        "node_id": lease.bid_id,
        "cluster_id": lease.cluster_id,
        "device_class": lease.device_class,
        "state": "drain" if lease.notice else "run",
        "ends_at_ms": int(lease.ends_at.timestamp() * 1000),
        "head_address": cluster.head_address,
        "resources": resources,
        "labels": labels,
        "cpus": device.cpus,
        "memory_bytes": device.memory_bytes,
        "gpus": device.gpus,
    }


def heard(
    session: Session, device_id: str, lease_id: str, *, phase: str, claimed_ms: int, detail: str, at: datetime
) -> None:
    """Note what a device says of its lease: what it claims is shown, never paid; a node that failed ends the lease."""
    query = select(Lease).where(Lease.id == lease_id, Lease.device_id == device_id).with_for_update()
    lease = session.exec(query).first()
    if lease is None or lease.state == "settled":
        return
    length_ms = int((lease.ends_at - lease.started_at).total_seconds() * 1000)
    lease.claimed_ms = max(lease.claimed_ms, min(claimed_ms, length_ms))
    session.add(lease)
    if phase == "failed" and lease.state == "open":
        close(session, lease_id, f"the device could not run the node: {detail or 'no reason given'}"[:300], at=at)
