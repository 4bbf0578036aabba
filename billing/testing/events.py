"""Events: a snapshot of an object at the moment something happened, queued for the endpoint that should hear of it."""

import copy

import stripe

from billing.testing.state import Fake
from billing.testing.values import JsonObject


def emit(
    fake: Fake, kind: str, obj: JsonObject, *, account: str = "", previous: JsonObject | None = None
) -> JsonObject:
    """Record an event and queue its delivery: to the Connect endpoint when it is about a connected account."""
    fake.check_object(obj)
    data: JsonObject = {"object": copy.deepcopy(obj)}
    if previous is not None:
        data["previous_attributes"] = copy.deepcopy(previous)
    endpoint = "connect" if account else "platform"
    event: JsonObject = {
        "id": fake.new_id("evt"),
        "object": "event",
        "api_version": stripe.api_version,
        "created": fake.now(),
        "data": data,
        "livemode": False,
        "pending_webhooks": 1 if _url(fake, endpoint) else 0,
        "request": fake.request or {"id": None, "idempotency_key": None},
        "type": kind,
    }
    if account:
        event["account"] = account
    # Events of a connected account are listed by that account; the platform reads them with Stripe-Account.
    fake.add(event, account)
    if _url(fake, endpoint):
        queue(fake, event["id"], held=fake.state.hold_webhooks)
    return event


def queue(fake: Fake, event_id: str, *, held: bool = False) -> None:
    """Queue one more delivery of an event; a second one of the same event is a duplicate, as Stripe also sends."""
    account = fake.hidden(event_id)["account"]
    fake.state.deliveries.append(
        {
            "event": event_id,
            "endpoint": "connect" if account else "platform",
            "status": "held" if held else "waiting",
            "attempts": 0,
            "due_at": 0,
            "answer": "",
        }
    )
    fake.wake()


def changed(before: JsonObject, after: JsonObject) -> JsonObject:
    """The previous values of the top-level fields that differ."""
    return {name: value for name, value in before.items() if after.get(name) != value}


def _url(fake: Fake, endpoint: str) -> str:
    return fake.config.connect_webhook_url if endpoint == "connect" else fake.config.webhook_url
