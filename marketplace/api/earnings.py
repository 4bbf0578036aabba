"""A provider's earnings, and where they are paid."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from billing import connect, earnings
from marketplace import accounts
from marketplace.api.doors import InContext, InSession, Provider

router = APIRouter(prefix="/v1/earnings", tags=["earnings"])


class Balance(BaseModel):
    """Micro-dollars: inside the verification window, payable, on its way, paid; and why nothing can be paid, if so."""

    pending_micros: int
    payable_micros: int
    in_flight_micros: int
    paid_micros: int
    not_payable: str


class Link(BaseModel):
    """Where to give the payment service one's details; good for one use."""

    url: str


@router.get("")
def show(session: InSession, caller: Provider) -> Balance:
    """Say what was earned."""
    found = earnings.balances(session, caller.account_id)
    account = connect.payout_account(session, caller.account_id)
    return Balance(
        pending_micros=found.pending_micros,
        payable_micros=found.payable_micros,
        in_flight_micros=found.in_flight_micros,
        paid_micros=found.paid_micros,
        not_payable="no payout account yet" if account is None else account.not_payable,
    )


@router.post("/onboarding")
def onboard(request: Request, context: InContext, caller: Provider) -> Link:
    """Open a payout account or go on with it."""
    with context.sessions() as session:
        account = accounts.account(session, caller.account_id)
    base = str(request.base_url).rstrip("/")
    url = connect.start_onboarding(
        context.sessions,
        context.gateway,
        provider_id=account.id,
        email=account.email,
        country=account.country,
        return_url=f"{base}/v1/earnings",
        refresh_url=f"{base}/v1/earnings",
    )
    return Link(url=url)
