"""The Stripe fake, driven by the real SDK: what a top-up, an onboarding and a payout need."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from billing.testing.running import Inbox, RunningFake, running_fake, running_inbox
from billing.testing.state import FakeConfig
from billing.testing.testdata import EXPRESS, funded, onboarded, topup


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with running_inbox() as inbox:
        yield inbox


@pytest.fixture
def fake(inbox: Inbox) -> Iterator[RunningFake]:
    """A fake whose webhooks go to the inbox and are tried again at once."""
    urls = {"webhook_url": f"{inbox.url}/platform", "connect_webhook_url": f"{inbox.url}/connect"}
    with running_fake(FakeConfig(**urls, retry_seconds=(0, 0, 0))) as fake:
        yield fake


def heard(inbox: Inbox, kind: str) -> tuple[str, stripe.Event]:
    """The next event of this kind, its signature verified by the SDK, with the endpoint that it came to."""
    secrets = {"/platform": FakeConfig.webhook_secret, "/connect": FakeConfig.connect_webhook_secret}
    while True:
        letter = inbox.next()
        event = stripe.Webhook.construct_event(letter.payload, letter.signature, secrets[letter.path])
        if event.type == kind:
            return letter.path, event


def test_a_paid_topup_arrives_as_a_signed_webhook_and_settles_into_the_balance(fake: RunningFake, inbox: Inbox) -> None:
    """A buyer's payment on the page is one signed event, one charge less the card fee, pending and then available."""
    client = fake.client()
    session = topup(client)
    assert (session.status, session.payment_status, session.amount_total) == ("open", "unpaid", 10_000)
    assert "Pay 100.00 USD" in httpx.get(session.url, trust_env=False).text
    paid = httpx.post(session.url, data={"outcome": "paid"}, trust_env=False)
    assert paid.headers["Location"] == f"https://example.com/done?session={session.id}"
    path, event = heard(inbox, "checkout.session.completed")
    assert (path, event.data.object["id"], event.data.object["payment_status"]) == ("/platform", session.id, "paid")
    found: Any = client.v1.checkout.sessions.retrieve(
        session.id, {"expand": ["payment_intent.latest_charge.balance_transaction"]}
    )
    entry = found.payment_intent.latest_charge.balance_transaction
    assert (entry.amount, entry.fee, entry.net, entry.status) == (10_000, 320, 9_680, "pending")
    assert found.payment_intent.metadata["topup_id"] == "top_1"
    balance = client.v1.balance.retrieve()
    assert (balance.available[0].amount, balance.pending[0].amount) == (0, 9_680)
    fake.control("clock", advance_seconds=2 * 86_400)
    balance = client.v1.balance.retrieve()
    assert (balance.available[0].amount, balance.pending[0].amount) == (9_680, 0)
    assert [row.type for row in client.v1.balance_transactions.list({"type": "charge"}).data] == ["charge"]


def test_a_declined_card_leaves_the_session_open_for_another(fake: RunningFake, inbox: Inbox) -> None:
    """A decline charges nothing and says why; a second try pays the same PaymentIntent."""
    client = fake.client()
    session = topup(client)
    fake.control("pay", session=session.id, outcome="declined", decline_code="insufficient_funds")
    _, event = heard(inbox, "payment_intent.payment_failed")
    assert event.data.object["last_payment_error"]["decline_code"] == "insufficient_funds"
    assert client.v1.checkout.sessions.retrieve(session.id).status == "open"
    fake.control("pay", session=session.id)
    assert client.v1.checkout.sessions.retrieve(session.id).payment_intent == event.data.object["id"]


def test_a_delayed_payment_completes_first_and_pays_later(fake: RunningFake, inbox: Inbox) -> None:
    """A session may be complete and unpaid: only async_payment_succeeded brings the money."""
    session = topup(fake.client())
    fake.control("pay", session=session.id, outcome="async")
    _, event = heard(inbox, "checkout.session.completed")
    assert event.data.object["payment_status"] == "unpaid"
    fake.control("pay", session=session.id, outcome="async_paid")
    _, event = heard(inbox, "checkout.session.async_payment_succeeded")
    assert event.data.object["payment_status"] == "paid"


def test_an_unpaid_session_expires_with_the_clock(fake: RunningFake, inbox: Inbox) -> None:
    """After its 24 hours a session is expired, says so, and can no longer be paid."""
    session = topup(fake.client())
    fake.control("clock", advance_seconds=86_400)
    heard(inbox, "checkout.session.expired")
    assert fake.client().v1.checkout.sessions.retrieve(session.id).status == "expired"
    with pytest.raises(httpx.HTTPStatusError):
        fake.control("pay", session=session.id)


def test_onboarding_flips_capabilities_and_tells_the_connect_endpoint(fake: RunningFake, inbox: Inbox) -> None:
    """Only a finished onboarding makes an account payable; its link works once; the event comes to Connect."""
    client = fake.client()
    account: Any = client.v1.accounts.create(EXPRESS)
    assert (account.payouts_enabled, account.capabilities.transfers) == (False, "inactive")
    assert account.requirements.disabled_reason == "requirements.past_due"
    link = client.v1.account_links.create(
        {
            "account": account.id,
            "type": "account_onboarding",
            "refresh_url": "https://example.com/refresh",
            "return_url": "https://example.com/return",
        }
    )
    assert "Finish onboarding" in httpx.get(link.url, trust_env=False).text
    assert httpx.post(link.url, trust_env=False).headers["Location"] == "https://example.com/return"
    path, event = heard(inbox, "account.updated")
    assert (path, event.account) == ("/connect", account.id)
    assert event.data.object["capabilities"]["transfers"] == "active"
    account = client.v1.accounts.retrieve(account.id)
    assert (account.payouts_enabled, account.requirements.disabled_reason) == (True, None)
    assert httpx.get(link.url, trust_env=False).headers["Location"] == "https://example.com/refresh"
    fake.control("onboard", account=account.id, payouts_enabled=False, disabled_reason="rejected.fraud")
    _, event = heard(inbox, "account.updated")
    assert event.data.previous_attributes["payouts_enabled"] is True


@pytest.mark.parametrize(("change", "code", "param"), [
    ({"amount": None}, "parameter_missing", "amount"),
    ({"destination": None}, "parameter_missing", "destination"),
    ({"amount": "ten"}, "parameter_invalid_integer", "amount"),
    ({"destination": "acct_nobody"}, "resource_missing", "destination"),
    ({"amount": 9_681}, "balance_insufficient", None),
])  # fmt: skip
def test_a_transfer_that_cannot_be_is_refused_as_stripe_does(
    fake: RunningFake, change: dict[str, Any], code: str, param: str | None
) -> None:
    """Each refusal carries Stripe's code and names the parameter; nothing moved."""
    funded(fake)
    params = {"amount": 1, "currency": "usd", "destination": onboarded(fake), **change}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        fake.client().v1.transfers.create({name: value for name, value in params.items() if value is not None})  # type: ignore[arg-type]
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, code, param)
    assert fake.snapshot()["transfers"] == []


def test_pending_money_and_inactive_destinations_cannot_be_used(fake: RunningFake) -> None:
    """A top-up that has not settled pays nobody, and neither does an account that was not onboarded."""
    client = fake.client()
    fake.control("pay", session=topup(client).id)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.transfers.create({"amount": 1, "currency": "usd", "destination": onboarded(fake)})
    assert refused.value.code == "balance_insufficient"
    inactive = client.v1.accounts.create(EXPRESS)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.transfers.create({"amount": 1, "currency": "usd", "destination": inactive.id})
    assert refused.value.code == "insufficient_capabilities_for_transfer"


def test_a_reversal_needs_the_money_to_be_there_still(fake: RunningFake, inbox: Inbox) -> None:
    """A part comes back once; after the provider's payout the rest cannot."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    transfer = client.v1.transfers.create({"amount": 1_000, "currency": "usd", "destination": destination})
    client.v1.transfers.reversals.create(transfer.id, {"amount": 400})
    transfer = client.v1.transfers.retrieve(transfer.id)
    assert (transfer.amount_reversed, transfer.reversed, len(transfer.reversals.data)) == (400, False, 1)
    heard(inbox, "transfer.reversed")
    fake.control("payout", account=destination)
    path, event = heard(inbox, "payout.paid")
    assert (path, event.data.object["amount"]) == ("/connect", 600)
    assert client.v1.payouts.list({}, {"stripe_account": destination}).data[0].amount == 600
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.transfers.reversals.create(transfer.id)
    assert refused.value.code == "balance_insufficient"


def test_a_failed_payout_returns_the_money_to_the_connected_account(fake: RunningFake, inbox: Inbox) -> None:
    """payout.failed concerns the provider's own balance; the platform's is untouched."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    client.v1.transfers.create({"amount": 1_000, "currency": "usd", "destination": destination})
    before = client.v1.balance.retrieve().available[0].amount
    fake.control("payout", account=destination, failure_code="account_closed")
    _, event = heard(inbox, "payout.failed")
    assert event.data.object["failure_code"] == "account_closed"
    assert client.v1.balance.retrieve({}, {"stripe_account": destination}).available[0].amount == 1_000
    assert client.v1.balance.retrieve().available[0].amount == before


def test_only_a_test_key_and_the_sdk_version_are_let_in(fake: RunningFake) -> None:
    """No key, a live key, another API version and an unknown route are each refused in Stripe's form."""

    def ask(path: str, **headers: str) -> httpx.Response:
        return httpx.get(fake.url + path, headers=headers, trust_env=False)

    key = "Bearer sk_test_x"
    assert ask("/v1/balance").status_code == 401
    live = ask("/v1/balance", Authorization="Bearer sk_live_secret")
    assert (live.status_code, "sk_live" in live.text) == (401, False)
    old = ask("/v1/balance", Authorization=key, **{"Stripe-Version": "2019-01-01"})
    assert old.json()["error"]["message"].startswith("Invalid Stripe API version")
    lost = ask("/v1/nothing", Authorization=key)
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "invalid_request_error")
    assert lost.json()["error"]["message"].startswith("Unrecognized request URL (GET: /v1/nothing)")
    assert ask("/v1/balance", Authorization=key).headers["Stripe-Version"] == stripe.api_version


def test_lists_page_through_everything_once(fake: RunningFake) -> None:
    """The SDK's auto-paging sees each object once, newest first."""
    client = fake.client()
    made = [topup(client).id for _ in range(5)]
    pages = client.v1.checkout.sessions.list({"limit": 2})
    assert pages.has_more
    assert [session.id for session in pages.auto_paging_iter()] == made[::-1]
