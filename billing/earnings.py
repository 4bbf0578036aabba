"""A provider's balance: pending, payable, on its way, paid; and which payout paid for which lease."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Index, text
from sqlmodel import Field, Session, SQLModel

from billing.errors import Conflict, InvalidInput
from billing.ledger import Movement, balance_micros, lock, post
from billing.sessions import run_sql


class LeaseEarning(SQLModel, table=True):
    """What one lease earned once it became payable, and the payout that it was put into."""

    __tablename__ = "lease_earning"
    __table_args__ = (Index("lease_earning_unpaid", "provider_id", postgresql_where=text("payout_id IS NULL")),)

    lease_id: str = Field(primary_key=True)
    provider_id: str
    amount_micros: int = Field(sa_type=BigInteger)
    payable_at: datetime = Field(index=True)
    payout_id: str | None = Field(default=None, index=True)


@dataclass(frozen=True)
class Earnings:
    """A provider's balance in micros: pending until verified, payable, in flight to it, and paid so far."""

    pending_micros: int
    payable_micros: int
    in_flight_micros: int
    paid_micros: int


def balances(session: Session, provider_id: str) -> Earnings:
    """Return a provider's balance; all zeros for one that never earned."""
    sums = run_sql(
        session,
        "SELECT coalesce(sum(amount_cents) FILTER (WHERE status = 'reserved'), 0) * 10000,"
        " coalesce(sum(amount_cents) FILTER (WHERE status = 'sent'), 0) * 10000"
        " FROM payout WHERE provider_id = :provider_id",
        provider_id=provider_id,
    ).one()
    return Earnings(
        pending_micros=balance_micros(session, f"provider:{provider_id}:pending"),
        payable_micros=balance_micros(session, f"provider:{provider_id}:payable"),
        in_flight_micros=int(sums[0]),
        paid_micros=int(sums[1]),
    )


def verify_lease(session: Session, *, lease_id: str, provider_id: str, amount_micros: int, at: datetime) -> None:
    """Make a final lease's earning payable, once; nothing happens for 0 micros.

    Raises Conflict when the lease was made payable before with another amount or provider, Breach when the provider
    has less pending.
    """
    if amount_micros < 0:
        raise InvalidInput("an earning cannot be negative")
    if amount_micros == 0:
        return
    pending, payable = f"provider:{provider_id}:pending", f"provider:{provider_id}:payable"
    lock(session, [pending, payable])
    before = session.get(LeaseEarning, lease_id)
    if before is not None:
        if (before.provider_id, before.amount_micros) != (provider_id, amount_micros):
            raise Conflict(f"lease {lease_id} was made payable before with another amount or provider")
        return
    movements = [Movement(pending, payable, amount_micros)]
    post(session, key=f"verify:{lease_id}", kind="verify", reference=lease_id, movements=movements, at=at)
    session.add(LeaseEarning(lease_id=lease_id, provider_id=provider_id, amount_micros=amount_micros, payable_at=at))
    session.flush()
