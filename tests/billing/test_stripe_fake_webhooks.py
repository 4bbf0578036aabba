"""The Stripe fake's webhooks: signed, repeated, reordered, tried again."""

import json
import time
from collections.abc import Iterator

import pytest
import stripe

from billing.testing.postman import signature
from billing.testing.running import Inbox, RunningFake, running_fake, running_inbox
from billing.testing.state import FakeConfig
from billing.testing.testdata import topup


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


def test_events_are_unique_and_come_twice_and_backwards_on_demand(fake: RunningFake, inbox: Inbox) -> None:
    """Held events are released in reverse, in copies; each still has one id, and the API lists it once."""
    fake.control("webhooks", hold=True)
    session = topup(fake.client())
    fake.control("pay", session=session.id)
    assert fake.control("webhooks", hold=False, order="reversed", copies=2)["released"] == 8
    letters = [json.loads(inbox.next().payload) for _ in range(8)]
    kinds = ["checkout.session.completed", "payment_intent.succeeded", "charge.succeeded", "payment_intent.created"]
    assert [letter["type"] for letter in letters[::2]] == kinds
    assert [letter["id"] for letter in letters[::2]] == [letter["id"] for letter in letters[1::2]]
    listed = fake.client().v1.events.list().data
    assert len({event.id for event in listed}) == len(listed) == 4
    fake.control("webhooks/resend", event=listed[0].id)
    assert json.loads(inbox.next().payload)["id"] == listed[0].id
    assert fake.client().v1.events.retrieve(listed[0].id).data.object["id"] == session.id


def test_an_endpoint_that_fails_is_tried_again(fake: RunningFake, inbox: Inbox) -> None:
    """The same event returns until the endpoint answers 2xx."""
    inbox.refuse = 2
    fake.control("pay", session=topup(fake.client()).id, outcome="expired")
    ids = [json.loads(inbox.next().payload)["id"] for _ in range(3)]
    assert len(set(ids)) == 1


def test_a_wrong_signature_or_an_old_one_is_refused_by_the_sdk() -> None:
    """Our signature is Stripe's: right passes, another secret or an old time does not."""
    payload = b'{"id": "evt_1", "object": "event"}'
    now = int(time.time())
    assert stripe.Webhook.construct_event(payload, signature(payload, "whsec_a", now), "whsec_a").id == "evt_1"
    for header in (signature(payload, "whsec_b", now), signature(payload, "whsec_a", now - 301)):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(payload, header, "whsec_a")
