"""A payment service in a dictionary, with faults: what the payout and webhook rules are tested against."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.errors import InvalidInput
from billing.gateway import Checkout, ConnectedAccount, Endpoint, Event, GatewayOutage, GatewayRefusal, SentTransfer


@dataclass
class DoubleGateway:
    """Keeps idempotency as Stripe documents it: the first answer of a key, a 500 too, is repeated for 24 hours.

    ``faults`` holds what befalls the next transfers: ok, lost_before, lost_after, failed_before, failed_after,
    slow_down, refused.
    """

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    faults: list[str] = field(default_factory=list)
    blind: int = 0  # how many listings fail before one succeeds
    sent: list[SentTransfer] = field(default_factory=list)
    checkouts: dict[str, Checkout] = field(default_factory=dict)
    accounts: dict[str, ConnectedAccount] = field(default_factory=dict)
    answers: dict[str, tuple[datetime, Mapping[str, Any], SentTransfer | Exception]] = field(default_factory=dict)
    fetched: int = 0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create_transfer(self, params: Mapping[str, Any], *, key: str) -> SentTransfer:
        fault = self.faults.pop(0) if self.faults else "ok"
        if fault == "lost_before":
            raise GatewayOutage("timeout", doubt="lost")
        if fault == "slow_down":
            raise GatewayOutage("429", doubt="none")
        if fault == "refused":  # at the door, so even for a key whose first attempt was carried out
            raise GatewayRefusal("Your destination account needs a capability", code="x", status=400)
        kept = self.answers.get(key)
        if kept is None or self.at - kept[0] > timedelta(hours=24):
            kept = self.answers[key] = (self.at, params, self._carry_out(params, fault))
        assert kept[1] == params, "a key was used for another payload"
        if fault == "lost_after":
            raise GatewayOutage("timeout", doubt="lost")
        if isinstance(kept[2], Exception):
            raise kept[2]
        return kept[2]

    def _carry_out(self, params: Mapping[str, Any], fault: str) -> SentTransfer | Exception:
        transfer = SentTransfer(
            id=f"tr_{next(self.numbers)}",
            destination=params["destination"],
            amount_cents=params["amount"],
            currency=params["currency"],
            group=params["transfer_group"],
            reversed=False,
            destination_payment_id="py_1",
            metadata=params["metadata"],
        )
        if fault != "failed_before":
            self.sent.append(transfer)
        return GatewayOutage("500", doubt="failed") if fault.startswith("failed") else transfer

    def transfers(self, *, group: str) -> list[SentTransfer]:
        if self.blind > 0:
            self.blind -= 1
            raise GatewayOutage("503", doubt="failed")
        return [transfer for transfer in self.sent if transfer.group == group]

    def create_checkout(
        self, *, topup_id: str, buyer_id: str, amount_cents: int, success_url: str, cancel_url: str
    ) -> Checkout:
        made = Checkout(f"cs_{topup_id}", "https://pay.example/1", "open", False, topup_id, amount_cents, "usd")
        return self.checkouts.setdefault(made.id, made)

    def checkout(self, checkout_id: str) -> Checkout:
        self.fetched += 1
        if checkout_id not in self.checkouts:
            raise GatewayRefusal("No such checkout.session", code="resource_missing", status=404)
        return self.checkouts[checkout_id]

    def pay(self, checkout_id: str, **changes: Any) -> None:
        self.checkouts[checkout_id] = replace(
            self.checkouts[checkout_id], **({"status": "complete", "paid": True} | changes)
        )

    def create_account(self, *, provider_id: str, email: str, country: str) -> ConnectedAccount:
        made = ConnectedAccount(f"acct_{len(self.accounts)}_{provider_id}", country, "Stripe still needs a name")
        self.accounts[made.id] = made
        return made

    def account(self, account_id: str) -> ConnectedAccount:
        return self.accounts[account_id]

    def account_link(self, *, account_id: str, return_url: str, refresh_url: str) -> str:
        return f"https://connect.example/{account_id}"

    def open_event(self, *, payload: bytes, signature: str, endpoint: Endpoint) -> Event:
        if signature != "good":
            raise InvalidInput("bad signature")
        return Event(*payload.decode().split(" "), "")


@pytest.fixture
def gateway() -> DoubleGateway:
    """A payment service without faults."""
    return DoubleGateway()
