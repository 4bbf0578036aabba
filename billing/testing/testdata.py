"""The few things that every scenario with the fake begins with: a top-up, money in the balance, somebody to pay."""

from typing import Any

import stripe

from billing.testing.running import RunningFake

EXPRESS: Any = {
    "controller": {
        "fees": {"payer": "application"},
        "losses": {"payments": "application"},
        "stripe_dashboard": {"type": "express"},
        "requirement_collection": "stripe",
    },
    "capabilities": {"transfers": {"requested": True}},
    "country": "US",
    "email": "provider@example.com",
}


def topup(client: stripe.StripeClient, cents: int = 10_000) -> stripe.checkout.Session:
    """An open Checkout Session over this many cents."""
    price: Any = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "Credit"}}
    return client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "success_url": "https://example.com/done?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://example.com/cancel",
            "client_reference_id": "acc_buyer",
            "metadata": {"topup_id": "top_1"},
            "payment_intent_data": {"metadata": {"topup_id": "top_1"}},
        }
    )


def funded(fake: RunningFake, cents: int = 10_000) -> None:
    """Put a top-up of this many cents, less Stripe's fee, into the platform's available balance."""
    fake.control("pay", session=topup(fake.client(), cents).id)
    fake.control("settle")


def onboarded(fake: RunningFake) -> str:
    """The id of a connected account that can be paid."""
    account = fake.client().v1.accounts.create(EXPRESS)
    fake.control("onboard", account=account.id)
    return account.id
