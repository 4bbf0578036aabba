"""One cent's whole way through the real SDK against the Stripe fake, and what each of Stripe's answers becomes."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing import reports
from billing.connect import payout_account, start_onboarding
from billing.earnings import Earnings, balances, verify_lease
from billing.errors import InvalidInput
from billing.gateway import GatewayOutage, GatewayRefusal
from billing.ids import now_utc
from billing.ledger import balance_micros, check
from billing.money import charge_micros, earning_micros, hold_micros
from billing.payouts import estimate, reconcile_ambiguous, reserve_due, send_due
from billing.sessions import Sessions, transaction
from billing.stripe_gateway import StripeGateway
from billing.testing.running import Inbox, RunningFake, running_fake, running_inbox
from billing.testing.state import FakeConfig
from billing.testing.testdata import funded, onboarded
from billing.wallets import available_micros, capture, hold, release, start_topup, topup
from billing.webhooks import process, receive

RATE, FEE_BPS, LEASE_MS = 60_000_000, 1_000, 600_000


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with running_inbox() as inbox:
        yield inbox


@pytest.fixture
def fake(inbox: Inbox) -> Iterator[RunningFake]:
    """A fake that sends its webhooks to the inbox."""
    urls = {"webhook_url": f"{inbox.url}/platform", "connect_webhook_url": f"{inbox.url}/connect"}
    with running_fake(FakeConfig(**urls, retry_seconds=(0, 0, 0))) as fake:
        yield fake


@pytest.fixture
def stripe_gateway(fake: RunningFake) -> StripeGateway:
    """Our gateway, pointed at the fake."""
    secrets = {
        "webhook_secret": FakeConfig.webhook_secret,
        "connect_webhook_secret": FakeConfig.connect_webhook_secret,
    }
    return StripeGateway("sk_test_fake", api_base=fake.url, timeout_seconds=2, **secrets)


def hear(sessions: Sessions, gateway: StripeGateway, inbox: Inbox, kind: str, at: datetime) -> None:
    """Receive webhooks, each twice, until one of ``kind`` came, and process them."""
    while True:
        letter = inbox.next()
        for _ in range(2):
            with transaction(sessions) as session:
                receive(
                    session,
                    gateway,
                    payload=letter.payload,
                    signature=letter.signature,
                    endpoint="connect" if letter.path == "/connect" else "platform",
                    at=at,
                )
        if f'"{kind}"'.encode() in letter.payload:
            process(sessions, gateway, at=at)
            return


def pay_in(sessions: Sessions, gateway: StripeGateway, fake: RunningFake, inbox: Inbox, at: datetime) -> None:
    """Top buyer ``b`` up with 50 dollars on Stripe's page."""
    urls = {"success_url": "https://example.com/ok", "cancel_url": "https://example.com/no"}
    made = start_topup(sessions, gateway, buyer_id="b", amount_cents=5_000, **urls)
    httpx.post(made.url, data={"outcome": "paid"}, trust_env=False)
    hear(sessions, gateway, inbox, "checkout.session.completed", at)
    with sessions() as session:
        assert topup(session, made.id).status == "paid"
        assert available_micros(session, "b") == 50_000_000


def run_lease(sessions: Sessions, at: datetime) -> int:
    """Hold, charge, release and verify one lease of provider ``p``; return its earning in micros."""
    held = hold_micros(RATE, LEASE_MS, FEE_BPS)
    charge, earning = charge_micros(RATE, 590_001, FEE_BPS), earning_micros(RATE, 590_001)
    with transaction(sessions) as session:
        hold(session, lease_id="ls", buyer_id="b", amount_micros=held, at=at)
    with transaction(sessions) as session:
        totals = {"charge_total_micros": charge, "earning_total_micros": earning}
        capture(session, lease_id="ls", provider_id="p", at=at, **totals)
        release(session, lease_id="ls", buyer_id="b", at=at)
        verify_lease(session, lease_id="ls", provider_id="p", amount_micros=earning, at=at)
        assert available_micros(session, "b") == 50_000_000 - charge
        assert balance_micros(session, "platform:fee") == charge - earning
    return earning


def onboard(sessions: Sessions, gateway: StripeGateway, fake: RunningFake, inbox: Inbox, at: datetime) -> None:
    """Take provider ``p`` through Stripe's onboarding."""
    urls = {"return_url": "https://example.com/back", "refresh_url": "https://example.com/again"}
    link = start_onboarding(sessions, gateway, provider_id="p", email="p@example.com", country="US", **urls)
    with sessions() as session:
        assert "Stripe" in estimate(session, "p", minimum_cents=500).blocked
        assert reserve_due(session, minimum_cents=500, at=at) == []
    httpx.post(link, trust_env=False)
    hear(sessions, gateway, inbox, "account.updated", at)
    with sessions() as session:
        found = payout_account(session, "p")
        assert found is not None
        assert found.enabled


def test_top_up_to_payout_report(
    sessions: Sessions, stripe_gateway: StripeGateway, fake: RunningFake, inbox: Inbox, tmp_path: Path
) -> None:
    """A buyer's money becomes a provider's payout, through faults, once; Stripe, ledger and report say the same."""
    at = now_utc()
    pay_in(sessions, stripe_gateway, fake, inbox, at)
    earning = run_lease(sessions, at)
    onboard(sessions, stripe_gateway, fake, inbox, at)
    fake.control("settle")
    with transaction(sessions) as session:
        (reserved,) = reserve_due(session, minimum_cents=500, at=at)
    fake.control("faults", kind="error_after", path="/v1/transfers", method="POST")
    assert send_due(sessions, stripe_gateway, at=at) == 0
    assert reconcile_ambiguous(sessions, stripe_gateway, at=at) == 1
    assert send_due(sessions, stripe_gateway, at=at + timedelta(days=1)) == 0
    (transfer,) = fake.snapshot()["transfers"]
    assert (transfer["amount"], transfer["transfer_group"]) == (earning // 10_000, reserved.id)
    with sessions() as session:
        paid = earning // 10_000 * 10_000
        assert balances(session, "p") == Earnings(0, earning - paid, 0, paid)
        assert check(session).ok
        frame = reports.payouts(session, start=at, end=at + timedelta(days=1))
        assert list(frame["transfer_id"]) == [transfer["id"]]
        assert list(frame["destination_payment_id"]) == [transfer["destination_payment"]]
        summary = reports.summary(session, start=at, end=at + timedelta(days=1))
        assert reports.totals(summary)["paid_micros"] == paid
        assert transfer["id"] in reports.write(frame, tmp_path / "payouts.csv", title="Payouts").read_text()


def params(account: str) -> dict[str, Any]:
    """Parameters of a transfer of one dollar."""
    return {"amount": 100, "currency": "usd", "destination": account, "transfer_group": "po_1", "metadata": {"a": "b"}}


@pytest.mark.parametrize(
    ("kind", "doubt", "carried_out"),
    [
        ("timeout_before", "lost", 0),
        ("timeout_after", "lost", 1),
        ("reset_before", "lost", 0),
        ("reset_after", "lost", 1),
        ("rate_limit", "none", 0),
        ("error_before", "failed", 0),
        ("error_after", "failed", 1),
    ],
)
def test_one_attempt_and_its_doubt(
    stripe_gateway: StripeGateway, fake: RunningFake, kind: str, doubt: str, carried_out: int
) -> None:
    """A transfer is attempted once a call, and the error tells exactly what may be true."""
    funded(fake)
    account = onboarded(fake)
    fake.control("faults", kind=kind, path="/v1/transfers", method="POST")
    with pytest.raises(GatewayOutage) as outage:
        stripe_gateway.create_transfer(params(account), key="k1")
    assert outage.value.doubt == doubt
    assert len(stripe_gateway.transfers(group="po_1")) == carried_out
    if doubt != "failed":
        again = stripe_gateway.create_transfer(params(account), key="k1")
        assert [sent.id for sent in stripe_gateway.transfers(group="po_1")] == [again.id]
        assert (again.destination, again.amount_cents, dict(again.metadata)) == (account, 100, {"a": "b"})


def test_stripes_own_words_and_a_used_key(stripe_gateway: StripeGateway, fake: RunningFake) -> None:
    """A refusal keeps Stripe's words and code; a key used for another payload is a doubt, never a refusal."""
    account = onboarded(fake)
    with pytest.raises(GatewayRefusal) as refusal:
        stripe_gateway.create_transfer(params(account), key="k1")
    assert (refusal.value.code, refusal.value.status_received) == ("balance_insufficient", 400)
    assert "insufficient" in refusal.value.message
    with pytest.raises(GatewayOutage) as outage:
        stripe_gateway.create_transfer(params(account) | {"amount": 1}, key="k1")
    assert outage.value.doubt == "failed"


def test_reading_is_retried(stripe_gateway: StripeGateway, fake: RunningFake) -> None:
    """Reads are tried three times by the SDK, so one fault is not seen."""
    account = onboarded(fake)
    fake.control("faults", kind="reset_before", path="/v1/accounts/*", method="GET")
    assert stripe_gateway.account(account).not_payable == ""


def test_forged_and_misdirected_webhooks(
    sessions: Sessions, stripe_gateway: StripeGateway, inbox: Inbox, fake: RunningFake
) -> None:
    """A signature holds for one body and one endpoint."""
    funded(fake)
    letter = inbox.next()
    for payload, signature, endpoint in [
        (letter.payload + b" ", letter.signature, "platform"),
        (letter.payload, letter.signature, "connect"),
        (letter.payload, "", "platform"),
        (b"\xff", letter.signature, "platform"),
        (letter.payload, letter.signature, "other"),
    ]:
        with pytest.raises(InvalidInput):
            stripe_gateway.open_event(payload=payload, signature=signature, endpoint=endpoint)  # type: ignore[arg-type]
