"""A buyer's credit: what is available, what is held for leases, and how it is topped up.

Every step of a lease locks its hold first, so that steps of one lease queue instead of waiting in a circle. A
transaction that settles several leases does them one after the other, each from capture to release.
"""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, Session, SQLModel, select

from billing.errors import Breach, Conflict, InsufficientCredit, InvalidInput, NotFound
from billing.gateway import Checkout, Gateway
from billing.ids import new_id, now_utc
from billing.ledger import Movement, balance_micros, lock, post
from billing.money import CURRENCY, MICROS_PER_CENT, format_usd
from billing.sessions import Sessions, run_sql, transaction

TOPUP_CENTS_MIN = 50
TOPUP_CENTS_MAX = 1_000_000


class Hold(SQLModel, table=True):
    """Credit set aside for one lease; ``released_at`` is empty while the lease can still be charged."""

    __tablename__ = "wallet_hold"

    lease_id: str = Field(primary_key=True)
    buyer_id: str = Field(index=True)
    amount_micros: int = Field(sa_type=BigInteger)
    held_at: datetime
    released_at: datetime | None = None


class TopUp(SQLModel, table=True):
    """A buyer's payment through Checkout: ``open``, then ``paid``, ``failed`` or ``expired``."""

    __tablename__ = "wallet_topup"

    id: str = Field(primary_key=True)
    buyer_id: str = Field(index=True)
    amount_cents: int
    status: str = "open"
    url: str = ""
    checkout_id: str | None = Field(default=None, unique=True)
    created_at: datetime
    paid_at: datetime | None = None


def available_micros(session: Session, buyer_id: str) -> int:
    """Return the credit that a buyer can still spend."""
    return balance_micros(session, f"buyer:{buyer_id}:available")


def held_micros(session: Session, buyer_id: str) -> int:
    """Return the credit that is held for a buyer's leases and not yet charged."""
    found = run_sql(
        session,
        "SELECT coalesce(sum(credits_micros - debits_micros), 0) FROM ledger_account"
        " JOIN wallet_hold ON name = 'hold:' || lease_id WHERE buyer_id = :buyer_id AND released_at IS NULL",
        buyer_id=buyer_id,
    )
    return int(found.scalar_one())


def hold(session: Session, *, lease_id: str, buyer_id: str, amount_micros: int, at: datetime) -> None:
    """Set credit aside for a lease, once.

    Raises InsufficientCredit when the buyer has less, Conflict when the lease has a hold of another buyer or amount.
    """
    if amount_micros <= 0:
        raise InvalidInput("a hold needs a positive amount")
    wallet, held = f"buyer:{buyer_id}:available", f"hold:{lease_id}"
    lock(session, [held])
    available = lock(session, [wallet])[wallet]
    before = session.get(Hold, lease_id)
    if before is not None:
        if (before.buyer_id, before.amount_micros) != (buyer_id, amount_micros):
            raise Conflict(f"lease {lease_id} already has a hold of another buyer or amount")
        return
    if available < amount_micros:
        raise InsufficientCredit(
            f"{format_usd(amount_micros)} are needed, {format_usd(available)} are available",
            hint="top up your credit, then try again",
        )
    session.add(Hold(lease_id=lease_id, buyer_id=buyer_id, amount_micros=amount_micros, held_at=at))
    movements = [Movement(wallet, held, amount_micros)]
    post(session, key=f"hold:{lease_id}", kind="hold", reference=lease_id, movements=movements, at=at)


def capture(
    session: Session,
    *,
    lease_id: str,
    provider_id: str,
    charge_total_micros: int,
    earning_total_micros: int,
    at: datetime,
) -> int:
    """Charge a lease up to its totals so far and return the micros newly charged; 0 when they were charged before.

    What the provider earned goes to its pending balance, the rest is the market's fee. Raises InvalidInput for totals
    that do not fit together, NotFound without a hold, Conflict when another provider earned it before, Breach when the
    hold is too small.
    """
    if not 0 <= earning_total_micros <= charge_total_micros:
        raise InvalidInput("an earning lies between nothing and the charge")
    held, pending = f"hold:{lease_id}", f"provider:{provider_id}:pending"
    if session.get(Hold, lease_id) is None:
        raise NotFound(f"lease {lease_id} has no hold")
    left = lock(session, [held, pending])[held]
    charged, earned = _captured(session, lease_id, held, pending)
    charge, earning = charge_total_micros - charged, earning_total_micros - earned
    if charge < 0 or earning < 0 or charge == earning == 0:
        return 0  # settled later than this total was computed
    if charge > left:
        raise Breach(f"lease {lease_id} is charged {charge} micros more, its hold has {left} left")
    moves = [Movement(held, pending, min(charge, earning)), Movement(held, "platform:fee", charge - earning)]
    # The earning's floor may step up where the charge's does not: the fee so far gives way, by one micro.
    moves.append(Movement("platform:fee", pending, earning - charge))
    post(
        session,
        key=f"usage:{lease_id}:{charge_total_micros}:{earning_total_micros}",
        kind="usage",
        reference=lease_id,
        movements=[move for move in moves if move.amount_micros > 0],
        at=at,
    )
    return charge


def release(session: Session, *, lease_id: str, buyer_id: str, at: datetime) -> int:
    """Give what is left of a lease's hold back to the buyer and return it in micros; once, then 0.

    Raises NotFound when that buyer has no hold for the lease.
    """
    wallet, held = f"buyer:{buyer_id}:available", f"hold:{lease_id}"
    left = lock(session, [held])[held]
    lock(session, [wallet])
    found = session.get(Hold, lease_id, populate_existing=True)
    if found is None or found.buyer_id != buyer_id:
        raise NotFound(f"lease {lease_id} has no hold of buyer {buyer_id}")
    if found.released_at is not None:
        return 0
    found.released_at = at
    if left > 0:
        movements = [Movement(held, wallet, left)]
        post(session, key=f"release:{lease_id}", kind="release", reference=lease_id, movements=movements, at=at)
    return left


def start_topup(
    sessions: Sessions, gateway: Gateway, *, buyer_id: str, amount_cents: int, success_url: str, cancel_url: str
) -> TopUp:
    """Open a Checkout Session for a buyer; its ``url`` is where the buyer pays. Nothing is credited before it did.

    Raises InvalidInput for an amount out of bounds, Outage when the payment service cannot be reached.
    """
    if not TOPUP_CENTS_MIN <= amount_cents <= TOPUP_CENTS_MAX:
        low, high = format_usd(TOPUP_CENTS_MIN * MICROS_PER_CENT, 2), format_usd(TOPUP_CENTS_MAX * MICROS_PER_CENT, 2)
        raise InvalidInput(f"a top-up is {low} to {high}", hint=f"try {low}")
    topup_id = new_id("tu")
    with transaction(sessions) as session:
        session.add(TopUp(id=topup_id, buyer_id=buyer_id, amount_cents=amount_cents, created_at=now_utc()))
    checkout = gateway.create_checkout(
        topup_id=topup_id,
        buyer_id=buyer_id,
        amount_cents=amount_cents,
        success_url=success_url,
        cancel_url=cancel_url,
    )
    with transaction(sessions) as session:
        found = _topup_locked(session, topup_id)
        found.checkout_id, found.url = checkout.id, checkout.url
        return found


def topup(session: Session, topup_id: str) -> TopUp:
    """Return a top-up; NotFound when there is none of that id."""
    found = session.get(TopUp, topup_id)
    if found is None:
        raise NotFound(f"no top-up {topup_id}")
    return found


def refresh_topup(sessions: Sessions, gateway: Gateway, *, topup_id: str, at: datetime) -> TopUp:
    """Ask the payment service how a top-up stands, for a buyer who is back before the webhook came."""
    with sessions() as session:
        found = topup(session, topup_id)
    if found.status == "open" and found.checkout_id is not None:
        checkout = gateway.checkout(found.checkout_id)
        with transaction(sessions) as session:
            apply_checkout(session, checkout, at=at)
            return topup(session, topup_id)
    return found


def apply_checkout(session: Session, checkout: Checkout, *, at: datetime, failed: bool = False) -> None:
    """Credit a buyer exactly once for a Checkout Session that is paid; note one that expired or failed.

    Raises NotFound when the session is none of ours, Breach when it is not for what the buyer was asked to pay.
    """
    found = _topup_locked(session, checkout.topup_id)
    if found.checkout_id not in (None, checkout.id):
        raise Breach(f"top-up {found.id} has the checkout {found.checkout_id}, not {checkout.id}")
    found.checkout_id = checkout.id
    if not checkout.paid:
        if found.status == "open" and (failed or checkout.status == "expired"):
            found.status = "failed" if failed else "expired"
        return
    if (checkout.amount_cents, checkout.currency) != (found.amount_cents, CURRENCY):
        raise Breach(
            f"{checkout.id} paid {checkout.amount_cents} {checkout.currency}, not {found.amount_cents} {CURRENCY}"
        )
    movements = [
        Movement("stripe:pending", f"buyer:{found.buyer_id}:available", checkout.amount_cents * MICROS_PER_CENT)
    ]
    post(session, key=f"topup:{checkout.id}", kind="topup", reference=found.id, movements=movements, at=at)
    if found.status != "paid":
        found.status, found.paid_at = "paid", at


def _topup_locked(session: Session, topup_id: str) -> TopUp:
    statement = select(TopUp).where(TopUp.id == topup_id).with_for_update().execution_options(populate_existing=True)
    found = session.exec(statement).one_or_none()
    if found is None:
        raise NotFound(f"no top-up {topup_id!r}")
    return found


def _captured(session: Session, lease_id: str, held: str, pending: str) -> tuple[int, int]:
    """Return what a lease was charged and what its provider earned so far, in micros."""
    found = run_sql(
        session,
        "SELECT coalesce(sum(amount_micros) FILTER (WHERE debit_account = :held), 0),"
        " coalesce(sum(amount_micros) FILTER (WHERE credit_account = :pending), 0),"
        " coalesce(bool_or(credit_account NOT IN (:pending, 'platform:fee')), false)"
        " FROM ledger_transfer JOIN ledger_journal AS journal ON journal.id = journal_id"
        " WHERE journal.reference = :lease_id AND journal.kind = 'usage'",
        held=held,
        pending=pending,
        lease_id=lease_id,
    ).one()
    if found[2]:
        raise Conflict(f"lease {lease_id} was charged before for another provider")
    return int(found[0]), int(found[1])
