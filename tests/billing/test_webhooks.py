"""Webhooks and top-ups: credited exactly once, whatever is duplicated, reordered, forged or unreachable."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session, select

from billing.connect import payout_account, refresh, start_onboarding
from billing.errors import Breach, InvalidInput, NotFound
from billing.gateway import ConnectedAccount, Endpoint, GatewayOutage
from billing.ledger import check
from billing.sessions import Sessions, transaction
from billing.wallets import TopUp, available_micros, refresh_topup, start_topup, topup
from billing.webhooks import WebhookEvent, process, receive

AT = datetime(2026, 1, 1, tzinfo=UTC)
PAID = "checkout.session.completed"


def start(sessions: Sessions, gateway: Any, amount_cents: int = 2_500) -> TopUp:
    """Start a top-up of buyer ``b``."""
    urls = {"success_url": "https://a/ok", "cancel_url": "https://a/no"}
    return start_topup(sessions, gateway, buyer_id="b", amount_cents=amount_cents, **urls)


def tell(
    sessions: Sessions, gateway: Any, event_id: str, kind: str, object_id: str, endpoint: Endpoint = "platform"
) -> None:
    """Deliver one signed event."""
    payload = f"{event_id} {kind} {object_id}".encode()
    with transaction(sessions) as session:
        receive(session, gateway, payload=payload, signature="good", endpoint=endpoint, at=AT)


def credit_of(sessions: Sessions) -> int:
    """Return what buyer ``b`` can spend."""
    with sessions() as session:
        assert check(session).ok
        return available_micros(session, "b")


def test_duplicates_and_disorder_credit_once(sessions: Sessions, gateway: Any) -> None:
    """Events of one payment, in every order, repeated, and processed by several at once, are one credit."""
    made = start(sessions, gateway)
    gateway.pay(made.checkout_id)
    kinds = [PAID, "checkout.session.async_payment_succeeded", "checkout.session.expired", PAID]
    order = [(f"evt_{n}", kind) for n, kind in enumerate(kinds)] * 3
    random.Random(1).shuffle(order)
    for event_id, kind in order:
        tell(sessions, gateway, event_id, kind, str(made.checkout_id))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: process(sessions, gateway, at=AT), range(4)))
    assert credit_of(sessions) == 25_000_000
    with sessions() as session:
        assert topup(session, made.id).status == "paid"
        assert len(session.exec(select(WebhookEvent)).all()) == 4
    assert process(sessions, gateway, at=AT) == 0


def test_the_event_is_not_believed(sessions: Sessions, gateway: Any) -> None:
    """An event that says paid, while Stripe says unpaid, credits nothing; nor does one from a connected account."""
    made = start(sessions, gateway)
    tell(sessions, gateway, "evt_1", PAID, str(made.checkout_id))
    process(sessions, gateway, at=AT)
    gateway.pay(made.checkout_id)
    tell(sessions, gateway, "evt_2", PAID, str(made.checkout_id), endpoint="connect")
    process(sessions, gateway, at=AT)
    assert credit_of(sessions) == 0
    tell(sessions, gateway, "evt_3", PAID, str(made.checkout_id))
    assert process(sessions, gateway, at=AT) == 1
    assert credit_of(sessions) == 25_000_000


def test_a_bad_signature_stores_nothing(session: Session, gateway: Any) -> None:
    """Whoever cannot sign, or sends too much, leaves no trace."""
    with pytest.raises(InvalidInput):
        receive(session, gateway, payload=b"e t o", signature="bad", endpoint="platform", at=AT)
    with pytest.raises(InvalidInput):
        receive(session, gateway, payload=b"x" * 1_000_001, signature="good", endpoint="platform", at=AT)
    assert session.exec(select(WebhookEvent)).all() == []


def test_another_amount_stops_for_a_person(sessions: Sessions, gateway: Any) -> None:
    """If Stripe shows another amount than we asked for, that is not credited, others are, and somebody is paged."""
    bad, good = start(sessions, gateway), start(sessions, gateway)
    gateway.pay(bad.checkout_id, amount_cents=1)
    gateway.pay(good.checkout_id)
    tell(sessions, gateway, "evt_1", PAID, str(bad.checkout_id))
    tell(sessions, gateway, "evt_2", PAID, str(good.checkout_id))
    with pytest.raises(Breach, match="paid 1 usd"):
        process(sessions, gateway, at=AT)
    assert credit_of(sessions) == 25_000_000


def test_an_outage_is_tried_again(sessions: Sessions, gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Stripe cannot be asked, events wait; none is lost."""
    made = start(sessions, gateway)
    gateway.pay(made.checkout_id)
    tell(sessions, gateway, "evt_1", PAID, str(made.checkout_id))

    def down(checkout_id: str) -> Any:
        raise GatewayOutage("down", doubt="lost")

    with monkeypatch.context() as patch:
        patch.setattr(gateway, "checkout", down)
        assert process(sessions, gateway, at=AT) == 0
    assert process(sessions, gateway, at=AT) == 0
    assert process(sessions, gateway, at=AT + timedelta(seconds=2)) == 1
    assert credit_of(sessions) == 25_000_000


def test_a_crash_after_checkout_opened_still_credits(sessions: Sessions, gateway: Any) -> None:
    """If we die before storing the session's id, its payment is still found by our own id."""
    made = start(sessions, gateway)
    with transaction(sessions) as session:
        topup(session, made.id).checkout_id = None
    gateway.pay(made.checkout_id)
    tell(sessions, gateway, "evt_1", PAID, str(made.checkout_id))
    process(sessions, gateway, at=AT)
    assert credit_of(sessions) == 25_000_000


def test_a_buyer_back_before_the_webhook(sessions: Sessions, gateway: Any) -> None:
    """Asking Stripe directly credits too, and the webhook that follows adds nothing."""
    made = start(sessions, gateway)
    assert refresh_topup(sessions, gateway, topup_id=made.id, at=AT).status == "open"
    gateway.pay(made.checkout_id)
    assert refresh_topup(sessions, gateway, topup_id=made.id, at=AT).status == "paid"
    tell(sessions, gateway, "evt_1", PAID, str(made.checkout_id))
    process(sessions, gateway, at=AT)
    assert credit_of(sessions) == 25_000_000


@pytest.mark.parametrize(
    ("kind", "status"), [("checkout.session.expired", "expired"), ("checkout.session.async_payment_failed", "failed")]
)
def test_topups_that_come_to_nothing(sessions: Sessions, gateway: Any, kind: str, status: str) -> None:
    """An expired or failed payment is shown as such and credits nothing."""
    made = start(sessions, gateway)
    gateway.pay(made.checkout_id, paid=False, status="expired" if status == "expired" else "complete")
    tell(sessions, gateway, "evt_1", kind, str(made.checkout_id))
    process(sessions, gateway, at=AT)
    with sessions() as session:
        assert topup(session, made.id).status == status
    assert credit_of(sessions) == 0


def test_amounts_and_ids_out_of_bounds(sessions: Sessions, gateway: Any) -> None:
    """A top-up has a least and a highest amount; an unknown one is not found."""
    for amount_cents in (49, 1_000_001):
        with pytest.raises(InvalidInput):
            start(sessions, gateway, amount_cents)
    with sessions() as session, pytest.raises(NotFound):
        topup(session, "tu_none")


def test_account_updates_switch_payouts(sessions: Sessions, gateway: Any) -> None:
    """A provider can be paid from when Stripe says so until it says otherwise; other people's accounts are ignored."""
    urls = {"return_url": "https://a/r", "refresh_url": "https://a/f"}
    start_onboarding(sessions, gateway, provider_id="p", email="p@example.com", country="DE", **urls)
    account_id = next(iter(gateway.accounts))
    gateway.accounts["acct_other"] = ConnectedAccount("acct_other", "US", "")
    for number, reason in enumerate(["", "Stripe says listed"]):
        gateway.accounts[account_id] = ConnectedAccount(account_id, "DE", reason)
        tell(sessions, gateway, f"evt_{number}", "account.updated", account_id, endpoint="connect")
        tell(sessions, gateway, f"evt_other_{number}", "account.updated", "acct_other", endpoint="connect")
        assert process(sessions, gateway, at=AT + timedelta(seconds=number)) == 2
        with sessions() as session:
            found = payout_account(session, "p")
            assert found is not None
            assert (found.enabled, found.not_payable) == (reason == "", reason)
    gateway.accounts[account_id] = ConnectedAccount(account_id, "DE", "")
    assert refresh(sessions, gateway, provider_id="p", at=AT + timedelta(minutes=1)).enabled
