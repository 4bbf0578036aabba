"""The receipt: job → leases → seconds claimed, verified, unpaid and why → price → charge → earning → payout."""

from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from billing.earnings import LeaseEarning
from marketplace import clusters, jobs, settlement
from marketplace.devices import Device
from marketplace.leases import Lease


def receipt(session: Session, cluster_id: str, *, at: datetime) -> dict[str, Any]:
    """Return a cluster's receipt as data; money in micro-dollars, durations in milliseconds.

    It is final once every lease is settled; before that, charges are what has been verified so far.
    """
    cluster = clusters.cluster(session, cluster_id)
    rows = [_line(session, lease) for lease in _leases(session, cluster_id)]
    totals = {
        key: sum(row[key] for row in rows)
        for key in ("claimed_ms", "verified_ms", "unpaid_ms", "charge_micros", "earning_micros", "fee_micros")
    }
    return {
        "cluster_id": cluster.id,
        "name": cluster.name,
        "state": cluster.state,
        "reason": cluster.reason,
        "final": cluster.state == "stopped" and all(row["state"] == "settled" for row in rows),
        "issued_at": at.isoformat(),
        "max_price_micros_per_hour": cluster.max_price_micros_per_hour,
        "budget_micros": cluster.budget_micros,
        "jobs": [
            {
                "submission_id": job.submission_id,
                "entrypoint": job.entrypoint,
                "status": job.status,
                "submitted_at": job.submitted_at.isoformat(),
                "finished_at": job.finished_at.isoformat() if job.finished_at else None,
            }
            for job in jobs.of_cluster(session, cluster_id)
        ],
        "leases": rows,
        "totals": totals,
    }


def _leases(session: Session, cluster_id: str) -> list[Lease]:
    return list(
        session.exec(select(Lease).where(Lease.cluster_id == cluster_id).order_by(col(Lease.started_at), Lease.id))
    )


def _line(session: Session, lease: Lease) -> dict[str, Any]:
    device = session.get(Device, lease.device_id)
    earning = session.get(LeaseEarning, lease.id)
    unpaid = settlement.unpaid_by_reason(settlement.windows_of(session, lease.id))
    # As the windows count: whole milliseconds of the clock, so that verified and unpaid add up to it.
    leased_ms = _ms(lease.ends_at) - _ms(lease.started_at) if lease.state != "open" else None
    return {
        "lease_id": lease.id,
        "node_id": lease.bid_id,
        "device_id": lease.device_id,
        "device_name": device.name if device else "",
        "device_class": lease.device_class,
        "state": lease.state,
        "renews_id": lease.renews_id,
        "tick": lease.tick,
        "started_at": lease.started_at.isoformat(),
        "ended_at": lease.ends_at.isoformat() if lease.state != "open" else None,
        "close_reason": lease.close_reason,
        "leased_ms": leased_ms,
        "claimed_ms": lease.claimed_ms,
        "verified_ms": lease.verified_ms,
        "unpaid_ms": sum(unpaid.values()),
        "unpaid": unpaid,
        "price_micros_per_hour": lease.price_micros_per_hour,
        "score_millis": lease.score_millis,
        "rate_micros_per_hour": lease.rate_micros_per_hour,
        "fee_bps": lease.fee_bps,
        "hold_micros": lease.hold_micros,
        "charge_micros": lease.charge_micros,
        "earning_micros": lease.earning_micros,
        "fee_micros": lease.charge_micros - lease.earning_micros,
        "payout_id": earning.payout_id if earning else None,
    }


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
