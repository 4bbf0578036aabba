"""A buyer's credit."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import select

from billing import wallets
from billing.ids import now_utc
from marketplace.api.doors import Buyer, InContext, InSession
from marketplace.errors import NotFound

router = APIRouter(prefix="/v1/wallet", tags=["wallet"])


class Wallet(BaseModel):
    """Credit in micro-dollars: what can be spent, and what is held for leases."""

    available_micros: int
    held_micros: int


class TopUpRequest(BaseModel):
    """How much to add, in cents."""

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_cents: int = Field(ge=1, le=10**9)


class TopUpView(BaseModel):
    """A top-up: pay at ``url``; the credit is there once ``status`` is ``paid``."""

    topup_id: str
    amount_cents: int
    status: str
    url: str


@router.get("")
def show(session: InSession, caller: Buyer) -> Wallet:
    """Say what there is."""
    return Wallet(
        available_micros=wallets.available_micros(session, caller.account_id),
        held_micros=wallets.held_micros(session, caller.account_id),
    )


@router.post("/topups", status_code=201)
def start(body: TopUpRequest, request: Request, context: InContext, caller: Buyer) -> TopUpView:
    """Open a Checkout Session."""
    base = str(request.base_url).rstrip("/")
    topup = wallets.start_topup(
        context.sessions,
        context.gateway,
        buyer_id=caller.account_id,
        amount_cents=body.amount_cents,
        success_url=f"{base}/v1/wallet/topups/done",
        cancel_url=f"{base}/v1/wallet/topups/cancelled",
    )
    return _view(topup)


@router.get("/topups/done", include_in_schema=False)
def done() -> dict[str, str]:
    """Where the buyer lands after paying."""
    return {"detail": "thank you: the credit arrives within seconds"}


@router.get("/topups/cancelled", include_in_schema=False)
def cancelled() -> dict[str, str]:
    """Where the buyer lands after giving up."""
    return {"detail": "nothing was charged"}


@router.get("/topups/{topup_id}")
def topup(topup_id: str, context: InContext, caller: Buyer) -> TopUpView:
    """Say how a top-up stands, asking the payment service when it is still open."""
    with context.sessions() as session:
        found = session.exec(
            select(wallets.TopUp).where(wallets.TopUp.id == topup_id, wallets.TopUp.buyer_id == caller.account_id)
        ).first()
    if found is None:
        raise NotFound(f"no top-up {topup_id[:40]!r}")
    return _view(wallets.refresh_topup(context.sessions, context.gateway, topup_id=topup_id, at=now_utc()))


def _view(found: wallets.TopUp) -> TopUpView:
    return TopUpView(topup_id=found.id, amount_cents=found.amount_cents, status=found.status, url=found.url)
