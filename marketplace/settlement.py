"""From usage and verdicts to money: what was verified is charged and earned, the rest of the hold goes back."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import BigInteger
from sqlmodel import Field, Session, SQLModel, col, delete, select

from billing import earnings, money, settled, wallets
from marketplace import clusters, leases, readings
from marketplace.devices import Device
from marketplace.leases import Lease
from marketplace.settings import Settings
from ray_cluster.verification import verdicts

LATE_READINGS_MS = 30_000
"""How long a closed lease waits for a warden that reports nothing newer; then what is known decides."""


class UsageWindow(SQLModel, table=True):
    """A judged window of a lease, [start_ms, end_ms) in epoch milliseconds."""

    __tablename__ = "usage_window"

    lease_id: str = Field(foreign_key="lease.id", primary_key=True)
    start_ms: int = Field(primary_key=True, sa_type=BigInteger)
    end_ms: int = Field(sa_type=BigInteger)
    verdict: str
    reason: str


def settle(
    session: Session, lease_id: str, settings: Settings, *, at: datetime, listening_since: datetime | None = None
) -> bool:
    """Charge what has been verified of a lease so far; settle it for good once it is over and its readings are in.

    Can be called any number of times. ``listening_since`` is when this market last began to hear its wardens; they need
    time to deliver what they saw before. Returns whether the lease is settled now.
    """
    lease = leases.lock(session, lease_id)
    if lease.state not in ("open", "closed"):
        return lease.state == "settled"
    final = lease.state == "closed" and _readings_are_in(session, lease, at, listening_since)
    windows = _judge(session, lease, settings, closed=final, at=at)
    verified = verdicts.verified_ms(windows)
    lease.judged_at = at
    # What was once verified and charged stays so: later evidence can add, never take back.
    lease.verified_ms = max(lease.verified_ms, verified)
    lease.charge_micros = money.charge_micros(lease.rate_micros_per_hour, lease.verified_ms, lease.fee_bps)
    lease.earning_micros = money.earning_micros(lease.rate_micros_per_hour, lease.verified_ms)
    if lease.charge_micros:
        wallets.capture(
            session,
            lease_id=lease.id,
            provider_id=lease.provider_id,
            charge_total_micros=lease.charge_micros,
            earning_total_micros=lease.earning_micros,
            at=at,
        )
    if final:
        _finish(session, lease, windows, at)
    session.add(lease)
    session.flush()
    return final


def mature(session: Session, settings: Settings, *, at: datetime) -> int:
    """Make the earnings of settled leases payable once the verification hold has passed; return of how many."""
    since = at - timedelta(milliseconds=settings.verification_hold_ms)
    payable = select(earnings.LeaseEarning.lease_id)
    query = select(Lease).where(
        Lease.state == "settled",
        col(Lease.settled_at) <= since,
        Lease.earning_micros > 0,
        col(Lease.id).not_in(payable),
    )
    matured = session.exec(query.limit(500)).all()
    for lease in matured:
        earnings.verify_lease(
            session, lease_id=lease.id, provider_id=lease.provider_id, amount_micros=lease.earning_micros, at=at
        )
    return len(matured)


def windows_of(session: Session, lease_id: str) -> list[UsageWindow]:
    """Return a lease's judged windows in order."""
    query = select(UsageWindow).where(UsageWindow.lease_id == lease_id).order_by(col(UsageWindow.start_ms))
    return list(session.exec(query))


def unpaid_by_reason(windows: list[UsageWindow]) -> dict[str, int]:
    """Return the milliseconds that are not paid, by verdict and reason."""
    unpaid: Counter[str] = Counter()
    for window in windows:
        if window.verdict != "verified":
            unpaid[f"{window.verdict}: {window.reason}"] += window.end_ms - window.start_ms
    return dict(unpaid)


def _readings_are_in(session: Session, lease: Lease, at: datetime, listening_since: datetime | None) -> bool:
    """Whether the warden has reported past the lease's end, or has had its time to."""
    ended_ms = int(lease.ends_at.timestamp() * 1000)
    if lease.ends_at == lease.started_at:
        return True  # a renewal that never began
    if lease.close_reason == "renewed":
        # The next check of the same node vouches for the last window; it comes within seconds.
        known = readings.evidence(session, lease)[1]
        if any(probe.at_ms >= ended_ms for probe in known):
            return True
    elif readings.reported_until(session, lease.cluster_id) > ended_ms + 1000:
        return True
    waiting_since = max(lease.ends_at, listening_since or lease.ends_at)
    return at - waiting_since > timedelta(milliseconds=LATE_READINGS_MS)


def _judge(session: Session, lease: Lease, settings: Settings, *, closed: bool, at: datetime) -> list[verdicts.Window]:
    """Judge the lease's windows anew and keep them."""
    seen, checked = readings.evidence(session, lease)
    end = lease.ends_at if closed else max(lease.started_at, min(lease.ends_at, at))
    judged = verdicts.judge(
        start_ms=int(lease.started_at.timestamp() * 1000),
        end_ms=int(end.timestamp() * 1000),
        window_ms=settings.window_ms,
        readings=seen,
        probes=checked,
        closed=closed,
    )
    session.exec(delete(UsageWindow).where(col(UsageWindow.lease_id) == lease.id))
    session.add_all(_rows(lease.id, judged))
    return list(judged)


def _finish(session: Session, lease: Lease, windows: list[verdicts.Window], at: datetime) -> None:
    released = 0
    if lease.hold_micros:
        released = wallets.release(session, lease_id=lease.id, buyer_id=lease.buyer_id, at=at)
    lease.state, lease.settled_at = "settled", at
    rows = _rows(lease.id, windows)
    settled.record(
        session,
        settled.SettledLease(
            lease_id=lease.id,
            buyer_id=lease.buyer_id,
            provider_id=lease.provider_id,
            cluster_id=lease.cluster_id,
            device_id=lease.device_id,
            device_class=lease.device_class,
            rate_micros_per_hour=lease.rate_micros_per_hour,
            fee_bps=lease.fee_bps,
            claimed_ms=lease.claimed_ms,
            verified_ms=lease.verified_ms,
            unpaid_reason="; ".join(f"{ms / 1000:.1f} s {why}" for why, ms in unpaid_by_reason(rows).items()),
            charge_micros=lease.charge_micros,
            earning_micros=lease.earning_micros,
            fee_micros=lease.charge_micros - lease.earning_micros,
            started_at=lease.started_at,
            ended_at=lease.ends_at,
            settled_at=at,
        ),
    )
    device = session.get(Device, lease.device_id)
    text = (
        f"{device.name if device else lease.device_id}: {lease.verified_ms / 1000:.1f} s verified, "
        f"{money.format_usd(lease.charge_micros)} charged, {money.format_usd(released)} of the hold released"
    )
    clusters.note(session, lease.cluster_id, "settled", text, at=at, lease=lease.id)


def _rows(lease_id: str, windows: Iterable[verdicts.Window]) -> list[UsageWindow]:
    return [
        UsageWindow(lease_id=lease_id, start_ms=w.start_ms, end_ms=w.end_ms, verdict=w.verdict, reason=w.reason)
        for w in windows
    ]
