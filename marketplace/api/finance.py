"""What finance needs: the ledger's proof, payouts, reports."""

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel
from sqlmodel import col, select

from billing import ledger, payouts, reports
from billing.ids import now_utc
from marketplace.api.doors import Finance, InContext, InSession
from marketplace.errors import InvalidInput
from marketplace.wakeups import wake

router = APIRouter(prefix="/v1", tags=["finance"])
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


class Balance(BaseModel):
    """A line of the trial balance, in micro-dollars."""

    account: str
    debits_micros: int
    credits_micros: int
    balance_micros: int


class Proof(BaseModel):
    """Whether the ledger holds, and if not, what is wrong."""

    ok: bool
    problems: list[str]
    total_debits_micros: int
    total_credits_micros: int
    accounts: list[Balance]


class PayoutView(BaseModel):
    """A payout."""

    payout_id: str
    provider_id: str
    status: str
    amount_cents: int
    transfer_id: str | None
    created_at: datetime
    sent_at: datetime | None
    failure: str


@router.get("/ledger/check")
def check(session: InSession, caller: Finance) -> Proof:
    """Prove the trial balance and the holds from the transfers themselves."""
    found = ledger.check(session)
    return Proof(
        ok=found.ok,
        problems=list(found.problems),
        total_debits_micros=sum(row.debits_micros for row in found.rows),
        total_credits_micros=sum(row.credits_micros for row in found.rows),
        accounts=[
            Balance(
                account=row.name,
                debits_micros=row.debits_micros,
                credits_micros=row.credits_micros,
                balance_micros=row.balance_micros,
            )
            for row in found.rows
        ],
    )


@router.post("/payouts", status_code=201)
def run(session: InSession, context: InContext, caller: Finance) -> list[PayoutView]:
    """Reserve a payout for every provider that can be paid; the background sends them, each once."""
    wake(session)
    reserved = payouts.reserve_due(session, minimum_cents=context.settings.payout_minimum_cents, at=now_utc())
    return [_view(payout) for payout in reserved]


@router.get("/payouts")
def all_payouts(session: InSession, caller: Finance) -> list[PayoutView]:
    """List the newest payouts."""
    newest = select(payouts.Payout).order_by(col(payouts.Payout.created_at).desc()).limit(1000)
    return [_view(payout) for payout in session.exec(newest)]


@router.get("/reports/{name}", response_class=Response)
def report(
    name: Literal["payouts", "earnings", "summary"],
    session: InSession,
    caller: Finance,
    start: Annotated[datetime, Query(alias="from")],
    end: Annotated[datetime, Query(alias="to")],
    form: Annotated[Literal["csv", "xlsx"], Query(alias="format")] = "csv",
) -> Response:
    """Return a report of ``from`` ≤ time < ``to`` as a file."""
    if start.tzinfo is None or end.tzinfo is None:
        raise InvalidInput("from and to need a time zone", hint="for example 2026-01-01T00:00:00+00:00")
    if start >= end:
        raise InvalidInput(f"from {start.isoformat()} is not before to {end.isoformat()}", hint="swap them")
    frame = {"payouts": reports.payouts, "earnings": reports.earnings, "summary": reports.summary}[name](
        session, start=start, end=end
    )
    with tempfile.TemporaryDirectory() as folder:
        content = reports.write(frame, Path(folder) / f"{name}.{form}", title=name).read_bytes()
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    return Response(content, media_type=MEDIA_TYPES[form], headers=headers)


def _view(payout: payouts.Payout) -> PayoutView:
    fields: dict[str, Any] = {name: getattr(payout, name) for name in PayoutView.model_fields if name != "payout_id"}
    return PayoutView(payout_id=payout.id, **fields)
