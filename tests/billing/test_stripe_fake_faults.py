"""The Stripe fake when things go wrong: idempotency keys, saved failures, lost connections, restarts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from billing.testing.running import RunningFake, running_fake
from billing.testing.state import FakeConfig
from billing.testing.testdata import EXPRESS, funded, onboarded


@pytest.fixture
def fake() -> Iterator[RunningFake]:
    with running_fake() as fake:
        yield fake


def test_a_transfer_repeated_with_its_key_is_made_once(fake: RunningFake) -> None:
    """The same key and parameters give the same transfer; after 24 hours the key is forgotten and pays again."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    params: Any = {"amount": 1_000, "currency": "usd", "destination": destination, "transfer_group": "pay_1"}
    fake.control("clock", freeze=True)
    first = client.v1.transfers.create(params, {"idempotency_key": "k1"})
    again = client.v1.transfers.create(params, {"idempotency_key": "k1"})
    assert first.id == again.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    fake.control("clock", advance_seconds=86_399)
    assert client.v1.transfers.create(params, {"idempotency_key": "k1"}).id == first.id
    fake.control("clock", advance_seconds=1)
    assert client.v1.transfers.create(params, {"idempotency_key": "k1"}).id != first.id
    assert fake.control("clock", freeze=False)["now"] - first.created in (86_400, 86_401)
    assert len(client.v1.transfers.list({"transfer_group": "pay_1"}).data) == 2
    assert client.v1.transfers.list({"transfer_group": "pay_2"}).data == []
    assert fake.snapshot()["account_balances"][destination]["available"][0]["amount"] == 2_000


def test_a_key_used_with_other_parameters_is_refused(fake: RunningFake) -> None:
    """One key stands for one request: other parameters or another endpoint are an idempotency_error."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    client.v1.transfers.create({"amount": 1, "currency": "usd", "destination": destination}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError, match="same parameters") as refused:
        client.v1.transfers.create(
            {"amount": 2, "currency": "usd", "destination": destination}, {"idempotency_key": "k"}
        )
    assert refused.value.http_status == 400
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        client.v1.accounts.create(EXPRESS, {"idempotency_key": "k"})


@pytest.mark.parametrize(("kind", "made"), [("error_before", 0), ("error_after", 1)])
def test_a_saved_500_is_replayed_whether_or_not_the_work_was_done(fake: RunningFake, kind: str, made: int) -> None:
    """A 500 says nothing about what happened, and the same key only repeats it."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    fake.control("faults", kind=kind, path="/v1/transfers", method="POST")
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            client.v1.transfers.create(
                {"amount": 1, "currency": "usd", "destination": destination}, {"idempotency_key": "k"}
            )
        assert failed.value.http_status == 500
    assert failed.value.headers is not None
    assert failed.value.headers["Idempotent-Replayed"] == "true"
    assert len(fake.snapshot()["transfers"]) == made


def test_a_misspelt_parameter_is_refused_and_not_saved_under_the_key(fake: RunningFake) -> None:
    """An unknown parameter is named, at any depth; the corrected request may use the same key."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    wrong: Any = {"amount": 5, "currency": "usd", "destination": destination, "transfer_groop": "x"}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.transfers.create(wrong, {"idempotency_key": "k"})
    assert (refused.value.code, refused.value.param) == ("parameter_unknown", "transfer_groop")
    assert client.v1.transfers.create(
        {"amount": 5, "currency": "usd", "destination": destination}, {"idempotency_key": "k"}
    ).id
    deep: Any = {"line_items": [{"price_data": {"currency": "usd", "unit_amnt": 5}}], "mode": "payment"}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.checkout.sessions.create(deep)
    assert refused.value.param == "line_items[0][price_data][unit_amnt]"


@pytest.mark.parametrize(("kind", "made"), [
    ("timeout_before", 0), ("timeout_after", 1), ("reset_before", 0), ("reset_after", 1),
])  # fmt: skip
def test_a_lost_connection_does_not_tell_whether_the_transfer_was_made(fake: RunningFake, kind: str, made: int) -> None:
    """The client sees a connection error both times; only the transfers tell; the same key then settles it at one."""
    funded(fake)
    destination = onboarded(fake)
    fake.control("faults", kind=kind, path="/v1/transfers", method="POST")
    params: Any = {"amount": 700, "currency": "usd", "destination": destination}
    with pytest.raises(stripe.APIConnectionError):
        fake.client(timeout_seconds=1).v1.transfers.create(params, {"idempotency_key": "k"})
    assert len(fake.snapshot()["transfers"]) == made
    transfer = fake.client().v1.transfers.create(params, {"idempotency_key": "k"})
    assert [row["id"] for row in fake.snapshot()["transfers"]] == [transfer.id]


def test_the_sdk_retries_a_reset_by_itself_and_pays_once(fake: RunningFake) -> None:
    """The SDK's own retry carries the same key: one transfer."""
    funded(fake)
    destination = onboarded(fake)
    fake.control("faults", kind="reset_after", path="/v1/transfers", method="POST")
    fake.client(retries=2).v1.transfers.create({"amount": 1, "currency": "usd", "destination": destination})
    assert len(fake.snapshot()["transfers"]) == 1


def test_rate_limits_are_not_saved(fake: RunningFake) -> None:
    """A 429 came before the work: the same key succeeds afterwards."""
    funded(fake)
    client, destination = fake.client(), onboarded(fake)
    fake.control("faults", kind="rate_limit", path="/v1/transfers")
    params: Any = {"amount": 1, "currency": "usd", "destination": destination}
    with pytest.raises(stripe.RateLimitError):
        client.v1.transfers.create(params, {"idempotency_key": "k"})
    assert client.v1.transfers.create(params, {"idempotency_key": "k"}).amount == 1


def test_a_restarted_fake_remembers(tmp_path: Path) -> None:
    """With a state file, objects and saved answers outlive the process."""
    config = FakeConfig(state_path=tmp_path / "stripe.json")
    with running_fake(config) as fake:
        funded(fake)
        params: Any = {"amount": 1, "currency": "usd", "destination": onboarded(fake)}
        transfer = fake.client().v1.transfers.create(params, {"idempotency_key": "k"})
    with running_fake(config) as fake:
        assert fake.client().v1.transfers.create(params, {"idempotency_key": "k"}).id == transfer.id
        assert len(fake.snapshot()["transfers"]) == 1
