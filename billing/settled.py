"""Settled leases: the facts behind each charge and earning, written once when a lease is final."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field, Session, SQLModel

from billing.errors import Conflict
from billing.sessions import run_sql


class SettledLease(SQLModel, table=True):
    """One final lease: seconds claimed and verified, why the rest is unpaid, and the money, in micros."""

    __tablename__ = "settled_lease"
    __table_args__ = (
        CheckConstraint("charge_micros = earning_micros + fee_micros", name="settled_lease_adds_up"),
        CheckConstraint(
            "least(rate_micros_per_hour, fee_bps, claimed_ms, verified_ms, earning_micros, fee_micros) >= 0",
            name="settled_lease_not_negative",
        ),
    )

    lease_id: str = Field(primary_key=True)
    buyer_id: str = Field(index=True)
    provider_id: str = Field(index=True)
    cluster_id: str
    device_id: str
    device_class: str
    rate_micros_per_hour: int = Field(sa_type=BigInteger)
    fee_bps: int
    claimed_ms: int = Field(sa_type=BigInteger)
    verified_ms: int = Field(sa_type=BigInteger)
    unpaid_reason: str = ""
    charge_micros: int = Field(sa_type=BigInteger)
    earning_micros: int = Field(sa_type=BigInteger)
    fee_micros: int = Field(sa_type=BigInteger)
    started_at: datetime
    ended_at: datetime
    settled_at: datetime = Field(index=True)


def record(session: Session, lease: SettledLease) -> None:
    """Write a settled lease once; again with the same facts changes nothing, ``settled_at`` aside.

    Raises Conflict when the lease was settled before with other facts.
    """
    # Two settlements of one lease queue here instead of one of them failing on the key.
    run_sql(
        session, "SELECT pg_advisory_xact_lock(hashtextextended('settled:' || :lease_id, 0))", lease_id=lease.lease_id
    )
    before = session.get(SettledLease, lease.lease_id)
    if before is None:
        session.add(lease)
        session.flush()
    elif before.model_dump(exclude={"settled_at"}) != lease.model_dump(exclude={"settled_at"}):
        raise Conflict(f"lease {lease.lease_id} was settled before with other facts")
