"""Webhooks: an event is verified and stored once, then processed by fetching its object anew.

What an event says is never believed, only which object to look at; so duplicates, disorder and replays change nothing.
"""

from datetime import datetime, timedelta

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, Session, SQLModel, col, select

from billing.connect import apply_account
from billing.errors import Breach, InvalidInput, NotFound, SpareError
from billing.gateway import Endpoint, Gateway
from billing.sessions import Sessions, transaction
from billing.wallets import apply_checkout

PAYLOAD_BYTES_MAX = 1_000_000
BATCH_MAX = 500
BACKOFF_MAX = timedelta(hours=1)

CHECKOUT_TYPES = {
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
}


class WebhookEvent(SQLModel, table=True):
    """One event as it came, and whether it was processed; ``problem`` says why not, or why there was nothing to do."""

    __tablename__ = "webhook_event"

    id: str = Field(primary_key=True)
    endpoint: str
    type: str
    object_id: str
    account_id: str
    payload: str
    received_at: datetime
    due_at: datetime
    processed_at: datetime | None = Field(default=None, index=True)
    attempts: int = 0
    problem: str = ""


def receive(
    session: Session, gateway: Gateway, *, payload: bytes, signature: str, endpoint: Endpoint, at: datetime
) -> None:
    """Verify an event and store it once; InvalidInput when it is not the payment service's, or too large."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise InvalidInput("a webhook has at most a million bytes")
    event = gateway.open_event(payload=payload, signature=signature, endpoint=endpoint)
    statement = insert(WebhookEvent).values(
        id=event.id,
        endpoint=endpoint,
        type=event.type,
        object_id=event.object_id,
        account_id=event.account_id,
        payload=payload.decode(),
        received_at=at,
        due_at=at,
        attempts=0,
        problem="",
    )
    session.exec(statement.on_conflict_do_nothing(index_elements=["id"]))


def process(sessions: Sessions, gateway: Gateway, *, at: datetime) -> int:
    """Process the stored events that are due and return how many were; the rest stays for later, with its problem.

    Raises Breach, once all were tried, when an event contradicts our books: somebody must look.
    """
    with sessions() as session:
        statement = (
            select(WebhookEvent)
            .where(col(WebhookEvent.processed_at).is_(None), col(WebhookEvent.due_at) <= at)
            .order_by(col(WebhookEvent.received_at), col(WebhookEvent.id))
            .limit(BATCH_MAX)
        )
        events = session.exec(statement).all()
    done, breach = 0, None
    for event in events:
        try:
            _apply(sessions, gateway, event, at)
            done += 1
        except SpareError as error:
            _put_off(sessions, event.id, error, at)
            breach = error if isinstance(error, Breach) else breach
    if breach is not None:
        raise breach
    return done


def _apply(sessions: Sessions, gateway: Gateway, event: WebhookEvent, at: datetime) -> None:
    """Fetch the event's object and apply it; two processes doing so at once change nothing twice."""
    note = ""
    if event.endpoint == "platform" and event.type in CHECKOUT_TYPES:
        checkout = gateway.checkout(event.object_id)
        with transaction(sessions) as session:
            try:
                apply_checkout(session, checkout, at=at, failed=event.type.endswith("payment_failed"))
            except NotFound as error:
                note = error.message  # the payment service may be used for more than this market
            _mark_processed(session, event.id, note, at)
        return
    with transaction(sessions) as session:
        if event.endpoint != "connect" or event.type != "account.updated":
            _mark_processed(session, event.id, "not an event we act on", at)
            return
    account = gateway.account(event.account_id or event.object_id)
    with transaction(sessions) as session:
        try:
            apply_account(session, account, at=at)
        except NotFound as error:
            note = error.message
        _mark_processed(session, event.id, note, at)


def _mark_processed(session: Session, event_id: str, note: str, at: datetime) -> None:
    event = session.exec(select(WebhookEvent).where(WebhookEvent.id == event_id).with_for_update()).one()
    event.processed_at, event.problem = event.processed_at or at, note


def _put_off(sessions: Sessions, event_id: str, error: SpareError, at: datetime) -> None:
    with transaction(sessions) as session:
        event = session.exec(select(WebhookEvent).where(WebhookEvent.id == event_id).with_for_update()).one()
        if event.processed_at is None:
            event.attempts, event.problem = event.attempts + 1, error.message
            event.due_at = at + min(timedelta(seconds=2 ** min(event.attempts, 12)), BACKOFF_MAX)
