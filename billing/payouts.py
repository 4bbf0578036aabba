"""Payouts: what is reserved for a provider and sent to it exactly once, whatever crashes or stays unanswered.

A payout is reserved in one transaction with the operation that will send it (the outbox). An operation is claimed and
committed before the call, so every attempt is known:

queued ──claim──► sending ──transfer──► done
   ▲                 ├──no answer, slow down──► queued   same idempotency key, within 23 h of its first attempt
   │                 ├──refused at the first attempt──► refused   the money goes back to the provider's payable balance
   │                 └──fault, or refused later──► unsure ──found──► done
   └──────────── a new key ◄── replaced ◄──absent twice, an hour apart──┘
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, text
from sqlmodel import Field, Session, SQLModel, and_, col, or_, select

from billing.connect import payout_account
from billing.errors import Breach, InvalidInput, NotFound, Outage
from billing.gateway import Gateway, GatewayOutage, GatewayRefusal, SentTransfer
from billing.ids import new_id
from billing.ledger import Movement, balance_micros, lock, post
from billing.money import CURRENCY, MICROS_PER_CENT, format_usd
from billing.sessions import Sessions, run_sql, transaction

KEY_LIFE = timedelta(hours=23)
"""Stripe forgets an idempotency key after 24 h."""
CLAIM_LIFE = timedelta(minutes=10)
"""Whoever claimed an operation and has not answered for this long is gone; far longer than a call's timeout."""
ABSENCE = timedelta(hours=1)
VOID_PAUSE = timedelta(hours=1)
"""How long a provider waits for its next payout after one was refused."""
BACKOFF_MAX = timedelta(hours=1)
BATCH_MAX = 1000


class Payout(SQLModel, table=True):
    """Money for one provider: ``reserved``, then ``sent`` or ``void``. gross + carried in = amount + carried out."""

    __tablename__ = "payout"

    id: str = Field(primary_key=True)
    provider_id: str = Field(index=True)
    stripe_account_id: str
    status: str = "reserved"
    amount_cents: int = Field(sa_type=BigInteger)
    currency: str = CURRENCY
    gross_micros: int = Field(sa_type=BigInteger)
    carried_in_micros: int = Field(sa_type=BigInteger)
    carried_out_micros: int = Field(sa_type=BigInteger)
    created_at: datetime = Field(index=True)
    sent_at: datetime | None = None
    voided_at: datetime | None = None
    transfer_id: str | None = Field(default=None, unique=True)
    destination_payment_id: str = ""
    failure: str = ""


class PayoutOperation(SQLModel, table=True):
    """One idempotency key of one payout, its exact parameters, and how far it got."""

    __tablename__ = "payout_operation"
    __table_args__ = (
        Index(
            "payout_operation_one_live",
            "payout_id",
            unique=True,
            postgresql_where=text("status IN ('queued', 'sending', 'unsure')"),
        ),
    )

    key: str = Field(primary_key=True)
    payout_id: str = Field(foreign_key="payout.id", index=True)
    params: dict[str, Any] = Field(sa_type=JSON)
    status: str = "queued"
    attempts: int = 0
    due_at: datetime = Field(index=True)
    first_sent_at: datetime | None = None
    claimed_at: datetime | None = None
    absent_at: datetime | None = None
    last_error: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a provider's next payout would be, and why it would not be made (``blocked``, empty when it would)."""

    payable_micros: int
    amount_cents: int
    carried_micros: int
    blocked: str


def estimate(session: Session, provider_id: str, *, minimum_cents: int) -> Estimate:
    """Return what a payout made now would pay; the rest below a cent is carried to the next one."""
    payable = balance_micros(session, f"provider:{provider_id}:payable")
    cents, rest = divmod(payable, MICROS_PER_CENT)
    account = payout_account(session, provider_id)
    blocked = ""
    if account is None:
        blocked = "set up where you are paid first"
    elif not account.enabled:
        blocked = account.not_payable
    elif cents < minimum_cents:
        missing = minimum_cents * MICROS_PER_CENT - payable
        blocked = f"{format_usd(missing)} more are needed; what you have stays yours and never expires"
    return Estimate(payable, 0 if blocked else cents, payable if blocked else rest, blocked)


def reserve_due(session: Session, *, minimum_cents: int, at: datetime) -> list[Payout]:
    """Reserve a payout for every provider that can be paid and has at least ``minimum_cents`` payable.

    The payout, its journal and its operation are in the caller's one transaction; nothing is sent yet.
    """
    if minimum_cents < 1:
        raise InvalidInput("a payout is at least one cent")
    found = run_sql(
        session,
        "SELECT provider_id FROM payout_account"
        " JOIN ledger_account ON name = 'provider:' || provider_id || '\\:payable'"
        " WHERE not_payable = '' AND credits_micros - debits_micros >= :minimum_micros AND NOT EXISTS ("
        "  SELECT 1 FROM payout WHERE payout.provider_id = payout_account.provider_id AND voided_at > :voided_after)"
        " ORDER BY name",
        minimum_micros=minimum_cents * MICROS_PER_CENT,
        voided_after=at - VOID_PAUSE,
    )
    reserved = [_reserve(session, provider_id, minimum_cents, at) for (provider_id,) in found.all()]
    return [payout for payout in reserved if payout is not None]


def send_due(sessions: Sessions, gateway: Gateway, *, at: datetime) -> int:
    """Send the operations that are due and return how many payouts were sent; safe to kill and to run twice at once."""
    sent = 0
    for _ in range(BATCH_MAX):
        claimed = _claim(sessions, at)
        if claimed is None:
            break
        sent += _send(sessions, gateway, claimed, at)
    return sent


def reconcile_ambiguous(sessions: Sessions, gateway: Gateway, *, at: datetime) -> int:
    """Look up the transfers of payouts that may or may not have been sent; return how many were found.

    Raises Breach when a payout has two transfers, or one of another amount or destination: somebody must look.
    """
    adopted = 0
    for _ in range(BATCH_MAX):
        unsure = _next_unsure(sessions, at)
        if unsure is None:
            break
        try:
            found = gateway.transfers(group=unsure.payout_id)
        except (Outage, GatewayRefusal) as error:
            _put_off(sessions, unsure, error.message, at)
            continue
        ours = [sent for sent in found if sent.metadata.get("spare_payout_id") == unsure.payout_id]
        if len(ours) > 1:
            raise Breach(f"payout {unsure.payout_id} has {len(ours)} transfers: {[sent.id for sent in ours]}")
        if ours:
            adopted += _adopt(sessions, unsure, ours[0], at)
        else:
            _note_absence(sessions, unsure, at)
    return adopted


def payout(session: Session, payout_id: str) -> Payout:
    """Return a payout; NotFound when there is none of that id."""
    found = session.get(Payout, payout_id)
    if found is None:
        raise NotFound(f"no payout {payout_id}")
    return found


def _reserve(session: Session, provider_id: str, minimum_cents: int, at: datetime) -> Payout | None:
    payable = f"provider:{provider_id}:payable"
    balance = lock(session, [payable])[payable]
    cents, carried_out = divmod(balance, MICROS_PER_CENT)
    account = payout_account(session, provider_id)
    if cents < minimum_cents or account is None:
        return None  # another process reserved it since
    payout_id = new_id("po")
    lines = run_sql(
        session,
        "UPDATE lease_earning SET payout_id = :payout_id WHERE provider_id = :provider_id AND payout_id IS NULL"
        " RETURNING amount_micros",
        payout_id=payout_id,
        provider_id=provider_id,
    )
    gross = sum(amount for (amount,) in lines.all())
    reserved = Payout(
        id=payout_id,
        provider_id=provider_id,
        stripe_account_id=account.stripe_account_id,
        amount_cents=cents,
        gross_micros=gross,
        carried_in_micros=balance - gross,
        carried_out_micros=carried_out,
        created_at=at,
    )
    session.add(reserved)
    session.flush()
    session.add(_operation(reserved, generation=1, at=at))
    movements = [Movement(payable, f"payout:{payout_id}:in_flight", cents * MICROS_PER_CENT)]
    key = f"payout:reserve:{payout_id}"
    post(session, key=key, kind="payout:reserve", reference=payout_id, movements=movements, at=at)
    return reserved


def _operation(payout: Payout, *, generation: int, at: datetime) -> PayoutOperation:
    params = {
        "amount": payout.amount_cents,
        "currency": payout.currency,
        "destination": payout.stripe_account_id,
        "transfer_group": payout.id,
        "metadata": {"spare_payout_id": payout.id, "spare_provider_id": payout.provider_id},
    }
    return PayoutOperation(key=f"{payout.id}-{generation}", payout_id=payout.id, params=params, due_at=at)


def _claim(sessions: Sessions, at: datetime) -> PayoutOperation | None:
    """Claim one operation that is due, or one whose claimer is gone; the claim is committed before anything is sent."""
    due = or_(
        and_(PayoutOperation.status == "queued", col(PayoutOperation.due_at) <= at),
        and_(PayoutOperation.status == "sending", col(PayoutOperation.claimed_at) <= at - CLAIM_LIFE),
    )
    statement = select(PayoutOperation).where(due).order_by(col(PayoutOperation.due_at), col(PayoutOperation.key))
    while True:
        with transaction(sessions) as session:
            found = session.exec(statement.limit(1).with_for_update(skip_locked=True)).one_or_none()
            if found is None:
                return None
            if found.first_sent_at is None or at - found.first_sent_at <= KEY_LIFE:
                found.status, found.claimed_at, found.attempts = "sending", at, found.attempts + 1
                found.first_sent_at = found.first_sent_at or at
                return found
            found.status, found.due_at = "unsure", at


def _send(sessions: Sessions, gateway: Gateway, claimed: PayoutOperation, at: datetime) -> int:
    try:
        sent = gateway.create_transfer(claimed.params, key=claimed.key)
    except GatewayRefusal as error:
        # Definite only if nothing was sent under this key before: an earlier attempt may have been carried out.
        _after_failure(sessions, claimed, "void" if claimed.attempts == 1 else "unsure", error.message, at)
    except GatewayOutage as error:
        _after_failure(sessions, claimed, "unsure" if error.doubt == "failed" else "queued", error.message, at)
    else:
        return _adopt(sessions, claimed, sent, at)
    return 0


def _after_failure(sessions: Sessions, claimed: PayoutOperation, then: str, message: str, at: datetime) -> None:
    with transaction(sessions) as session:
        payout, operation = _locked(session, claimed)
        if (operation.status, operation.attempts) != ("sending", claimed.attempts):
            return  # somebody took the operation over; what happens next is theirs to say
        operation.last_error = message
        if then == "void":
            operation.status = "refused"
            _void(session, payout, message, at)
        else:
            operation.status = then
            operation.due_at = at if then == "unsure" else at + _backoff(operation.attempts)


def _void(session: Session, payout: Payout, message: str, at: datetime) -> None:
    """Give the money back to the provider's payable balance, and its leases to the next payout."""
    payout.status, payout.failure, payout.voided_at = "void", message, at
    amount = payout.amount_cents * MICROS_PER_CENT
    movements = [Movement(f"payout:{payout.id}:in_flight", f"provider:{payout.provider_id}:payable", amount)]
    key = f"payout:void:{payout.id}"
    post(session, key=key, kind="payout:void", reference=payout.id, movements=movements, at=at)
    run_sql(session, "UPDATE lease_earning SET payout_id = NULL WHERE payout_id = :payout_id", payout_id=payout.id)


def _adopt(sessions: Sessions, claimed: PayoutOperation, sent: SentTransfer, at: datetime) -> int:
    """Store that a payout was sent, with its journal; return 1, or 0 when that was known."""
    with transaction(sessions) as session:
        payout, operation = _locked(session, claimed)
        if payout.transfer_id == sent.id:
            return 0
        facts = (sent.destination, sent.amount_cents, sent.currency)
        if facts != (payout.stripe_account_id, payout.amount_cents, payout.currency):
            raise Breach(f"transfer {sent.id} is not what payout {payout.id} ordered: {facts}")
        if payout.status != "reserved":
            raise Breach(f"payout {payout.id} is {payout.status}, and yet there is the transfer {sent.id}")
        payout.status, payout.sent_at = "sent", at
        payout.transfer_id, payout.destination_payment_id = sent.id, sent.destination_payment_id
        live = select(PayoutOperation).where(
            PayoutOperation.payout_id == payout.id, col(PayoutOperation.status).in_(["queued", "sending", "unsure"])
        )
        for each in session.exec(live.with_for_update()).all():
            each.status = "done"
        operation.status = "done"
        amount = payout.amount_cents * MICROS_PER_CENT
        movements = [Movement(f"payout:{payout.id}:in_flight", "stripe:available", amount)]
        key = f"payout:sent:{payout.id}"
        post(session, key=key, kind="payout:sent", reference=payout.id, movements=movements, at=at)
    return 1


def _next_unsure(sessions: Sessions, at: datetime) -> PayoutOperation | None:
    statement = (
        select(PayoutOperation)
        .where(PayoutOperation.status == "unsure", col(PayoutOperation.due_at) <= at)
        .order_by(col(PayoutOperation.due_at), col(PayoutOperation.key))
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with transaction(sessions) as session:
        found = session.exec(statement).one_or_none()
        if found is not None:
            found.due_at = at + CLAIM_LIFE  # nobody else looks meanwhile, and a crash here is retried
        return found


def _put_off(sessions: Sessions, unsure: PayoutOperation, message: str, at: datetime) -> None:
    with transaction(sessions) as session:
        _, operation = _locked(session, unsure)
        operation.last_error, operation.due_at = message, at + CLAIM_LIFE


def _note_absence(sessions: Sessions, unsure: PayoutOperation, at: datetime) -> None:
    """Note that no transfer is there; the second time, an hour later, it never was and a new key may send."""
    with transaction(sessions) as session:
        payout, operation = _locked(session, unsure)
        if operation.status != "unsure":
            return
        if operation.absent_at is None:
            operation.absent_at = at
        if at - operation.absent_at < ABSENCE:
            operation.due_at = operation.absent_at + ABSENCE
            return
        operation.status = "replaced"
        session.flush()  # only one live operation a payout
        session.add(_operation(payout, generation=int(operation.key.rpartition("-")[2]) + 1, at=at))


def _locked(session: Session, claimed: PayoutOperation) -> tuple[Payout, PayoutOperation]:
    """Lock a payout, then its operation: always in this order."""
    fresh = {"populate_existing": True}
    payouts = select(Payout).where(Payout.id == claimed.payout_id).with_for_update()
    operations = select(PayoutOperation).where(PayoutOperation.key == claimed.key).with_for_update()
    payout = session.exec(payouts.execution_options(**fresh)).one()
    return payout, session.exec(operations.execution_options(**fresh)).one()


def _backoff(attempts: int) -> timedelta:
    return min(timedelta(seconds=2**attempts), BACKOFF_MAX) if attempts < 12 else BACKOFF_MAX
