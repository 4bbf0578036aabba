"""Asks: what a device wants at least for an hour of the reference device's work."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field, Session, SQLModel, select

from billing.ids import new_id
from marketplace.database import UTC_TIME
from marketplace.errors import InvalidInput


class Ask(SQLModel, table=True):
    """A device's standing ask, one a device."""

    __tablename__ = "ask"

    id: str = Field(primary_key=True)
    device_id: str = Field(foreign_key="device.id", unique=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    reserve_micros_per_hour: int = Field(sa_type=BigInteger)
    placed_at: datetime = Field(sa_type=UTC_TIME)
    lost_clearings: int = 0
    """How many clearings in a row it has lost at this reserve."""
    last_loss: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


def place(
    session: Session, *, device_id: str, account_id: str, reserve_micros_per_hour: int, price_max: int, at: datetime
) -> Ask:
    """Place a device's ask or change its reserve. A lease that runs keeps its price: it was locked at the award.

    Raises InvalidInput for a reserve below zero or above the market's highest price.
    """
    if not 0 <= reserve_micros_per_hour <= price_max:
        raise InvalidInput(
            f"a reserve of {reserve_micros_per_hour} micro-dollars an hour is out of bounds",
            hint=f"ask between 0 and {price_max / 1e6:.2f} dollars an hour",
        )
    ask = session.exec(select(Ask).where(Ask.device_id == device_id).with_for_update()).first()
    if ask is None:
        ask = Ask(id=new_id("ask"), device_id=device_id, account_id=account_id)  # type: ignore[call-arg]
    elif ask.reserve_micros_per_hour == reserve_micros_per_hour:
        return ask
    ask.reserve_micros_per_hour = reserve_micros_per_hour
    ask.placed_at = at
    ask.lost_clearings, ask.last_loss = 0, None
    session.add(ask)
    session.flush()
    return ask
