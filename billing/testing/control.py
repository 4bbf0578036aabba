"""Control endpoints under /_control: time, money, people and failures, moved by a test or a demonstration."""

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from billing.testing import accounts, balances, checkout, events, transfers
from billing.testing.state import Fake
from billing.testing.values import JsonObject, StripeRefusal


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClockOrder(_Order):
    """Move the clock forward; freeze it (or, with False, let it run on from where it stands)."""

    advance_seconds: int = Field(0, ge=0)
    freeze: bool | None = None


class FaultOrder(_Order):
    """A failure for the next requests to a path (a glob)."""

    kind: Literal[
        "timeout_before", "timeout_after", "reset_before", "reset_after", "rate_limit", "error_before", "error_after"
    ]
    path: str = "/v1/*"
    method: str = "*"
    times: int = Field(1, ge=1)
    status: int = Field(500, ge=400, le=599)  # of error_before and error_after; saved under the idempotency key
    error: JsonObject | None = None  # the error's fields; an api_error when None


class PayOrder(_Order):
    """What becomes of a Checkout Session."""

    session: str
    outcome: Literal["paid", "declined", "async", "async_paid", "async_failed", "expired"] = "paid"
    decline_code: str = "card_declined"


class OnboardOrder(_Order):
    """Complete an account, or flip the fields given."""

    account: str
    capabilities: dict[str, Literal["active", "inactive", "pending"]] | None = None
    payouts_enabled: bool | None = None
    charges_enabled: bool | None = None
    details_submitted: bool | None = None
    disabled_reason: str | None = None
    currently_due: list[str] | None = None


class PayoutOrder(_Order):
    """Stripe pays a connected account's balance out to its bank."""

    account: str
    currency: str = "usd"
    failure_code: str = ""


class WebhookOrder(_Order):
    """Hold webhooks back from now on, or release those held: in which order, how many copies of each."""

    hold: bool
    order: Literal["created", "reversed"] = "created"
    copies: int = Field(1, ge=1, le=10)


def router(fake: Fake) -> APIRouter:
    """The control endpoints of one fake."""
    routes = APIRouter(prefix="/_control")

    @routes.post("/clock")
    async def clock(order: ClockOrder) -> JsonObject:
        """Move the clock forward, freeze it or let it run; what falls due settles and expires."""
        now = fake.now() + order.advance_seconds
        if order.freeze is not None:
            fake.state.clock_frozen_at = now if order.freeze else None
        fake.state.clock_offset_seconds += now - fake.now()
        checkout.expire_due(fake)
        balances.settle(fake)
        fake.save()
        return {"now": fake.now()}

    @routes.post("/settle")
    async def settle() -> JsonObject:
        """Make all pending money available at once."""
        settled = balances.settle(fake, everything=True)
        fake.save()
        return {"settled": settled, "balance": balances.of_account(fake, "")}

    @routes.post("/faults")
    async def add_fault(order: FaultOrder) -> JsonObject:
        """Plan a failure."""
        fake.state.faults.append(order.model_dump())
        fake.save()
        return {"faults": fake.state.faults}

    @routes.delete("/faults")
    async def clear_faults() -> JsonObject:
        """Plan no failures."""
        fake.state.faults.clear()
        fake.save()
        return {"faults": []}

    @routes.post("/pay")
    async def pay(order: PayOrder) -> JsonObject:
        """Let a Checkout Session end in one way."""
        session = fake.get(checkout.NOUN, order.session, param="session")
        checkout.finish(fake, session, order.outcome, order.decline_code)
        fake.save()
        return session

    @routes.post("/payout")
    async def payout(order: PayoutOrder) -> JsonObject:
        """Let Stripe pay out a connected account."""
        paid = transfers.pay_out(fake, order.account, order.currency, failure_code=order.failure_code)
        fake.save()
        return paid

    @routes.get("/snapshot")
    async def snapshot() -> JsonObject:
        """All that a test wants to assert on."""
        return _snapshot(fake)

    _add_onboarding(routes, fake)
    _add_webhooks(routes, fake)
    return routes


def _add_onboarding(routes: APIRouter, fake: Fake) -> None:
    @routes.post("/onboard")
    async def onboard(order: OnboardOrder) -> JsonObject:
        """Complete an account's onboarding, or only flip the fields given."""
        given = order.model_dump(exclude_unset=True, exclude={"account"})
        account = accounts.flip(fake, order.account, **given) if given else accounts.onboard(fake, order.account)
        fake.save()
        return account


def _add_webhooks(routes: APIRouter, fake: Fake) -> None:
    @routes.post("/webhooks")
    async def webhooks(order: WebhookOrder) -> JsonObject:
        """Hold webhooks back, or release what was held."""
        fake.state.hold_webhooks = order.hold
        held = [item for item in fake.state.deliveries if item["status"] == "held"]
        released = 0
        if not order.hold:
            fake.state.deliveries = [item for item in fake.state.deliveries if item["status"] != "held"]
            for item in reversed(held) if order.order == "reversed" else held:
                for _ in range(order.copies):
                    events.queue(fake, item["event"])
                    released += 1
        fake.save()
        return {"hold": order.hold, "released": released}

    @routes.post("/webhooks/resend")
    async def resend(event: Annotated[str, Body(embed=True)]) -> JsonObject:
        """Deliver an event once more."""
        found = fake.state.objects.get(event)
        if found is None or found["object"] != "event":
            raise StripeRefusal(f"No such event: '{event}'", status=404, code="resource_missing")
        events.queue(fake, event)
        fake.save()
        return found


def _snapshot(fake: Fake) -> JsonObject:
    return {
        "now": fake.now(),
        "balance": balances.of_account(fake, ""),
        "account_balances": {item["id"]: balances.of_account(fake, item["id"]) for item in fake.all("account")},
        "sessions": fake.all(checkout.NOUN),
        "payment_intents": fake.all("payment_intent"),
        "accounts": fake.all("account"),
        "transfers": fake.all("transfer"),
        "reversals": fake.all("transfer_reversal"),
        "payouts": fake.all("payout", None),
        "balance_transactions": fake.all("balance_transaction"),
        "events": fake.all("event", None),
        "deliveries": fake.state.deliveries,
        "faults": fake.state.faults,
        "breaches": fake.state.breaches,
    }
