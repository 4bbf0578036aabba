"""Enrolment: only with a device's own key and a provider's invitation, and under the class that its hardware names."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import func, select

from billing.ids import now_utc
from marketplace import devices, offers
from marketplace.database import transaction
from tests.marketplace.conftest import T0, Floor, Machine, Person

GIB = 1024**3


@pytest.fixture
def provider(floor: Floor) -> Person:
    return floor.person("provider")


def enrol(floor: Floor, body: dict[str, Any]) -> Any:
    return floor.client.post("/v1/devices/enrol", json=body)


def count(floor: Floor) -> int:
    with floor.sessions() as session:
        return session.exec(select(func.count()).select_from(devices.Device)).one()


def test_signature(floor: Floor, provider: Person) -> None:
    """An enrolment that its own key did not sign, whole, enrols nothing and does not use the invitation up."""
    token, machine = floor.invite(provider), Machine("a")
    good = floor.enrolment(machine, token)
    other = Machine("b").signed({k: v for k, v in good.items() if k != "signature"})
    for bad in (
        good | {"signature": other["signature"]},
        good | {"signature": ""},
        good | {"signature": "not base64!"},
        good | {"reserve_micros_per_hour": 1},
        good | {"public_key": Machine("c").public_key},
        good | {"public_key": "AAAA"},
    ):
        assert enrol(floor, bad).status_code == 401
    assert count(floor) == 0
    assert enrol(floor, good).status_code == 200


def test_one_key_is_one_device(floor: Floor, provider: Person) -> None:
    """Another base64 spelling of a device's key is refused, so that one machine cannot enrol as two."""
    machine = floor.device(provider)
    # 43 digits carry two bits more than 32 bytes: zero as they should be, so the next digit decodes to the same key.
    odd = machine.public_key[:42] + chr(ord(machine.public_key[42]) + 1) + "="
    assert base64.b64decode(odd, validate=True) == base64.b64decode(machine.public_key)
    answer = enrol(floor, floor.enrolment(machine, floor.invite(provider), public_key=odd))
    assert (answer.status_code, "canonical" in answer.json()["detail"]) == (400, True)
    assert count(floor) == 1


def test_invitations(floor: Floor, provider: Person) -> None:
    """An unknown invitation is refused with 401, a used or an expired one with 403, each with what to do."""
    unknown = enrol(floor, floor.enrolment(Machine("a"), "join_unknown"))
    assert (unknown.status_code, unknown.json()["hint"]) == (401, "ask for a new one: spare invite")
    token = floor.invite(provider)
    assert enrol(floor, floor.enrolment(Machine("a"), token)).status_code == 200
    used = enrol(floor, floor.enrolment(Machine("b"), token))
    assert (used.status_code, used.json()["hint"]) == (403, "ask for a new one: spare invite")
    with transaction(floor.sessions) as session:
        old = devices.create_invite(session, account_id=provider.id, at=now_utc() - timedelta(days=8))
    assert enrol(floor, floor.enrolment(Machine("c"), old)).status_code == 403
    many = floor.invite(provider, uses=2)
    assert [enrol(floor, floor.enrolment(Machine("d"), many)).status_code for _ in range(3)] == [200, 200, 403]


def test_uses_of_an_invitation(floor: Floor, provider: Person) -> None:
    """An invitation serves a whole number of devices from 1 to 1000."""
    for uses in (0, 1001, 1.5, 1.0, "2", 10**30):
        answer = floor.client.post("/v1/invites", json={"uses": uses}, headers=provider.headers("provider"))
        assert answer.status_code == 422, uses


def test_versions(floor: Floor, provider: Person) -> None:
    """A device with another Ray or another minor Python is refused with 426 and the command that mends it."""
    token = floor.invite(provider)
    python, ray = floor.context.versions
    wrong = enrol(floor, floor.enrolment(Machine("a"), token, ray="2.9.0"))
    assert (wrong.status_code, wrong.json()["hint"]) == (426, f"pip install 'ray[default]=={ray}'")
    wrong = enrol(floor, floor.enrolment(Machine("a"), token, python="3.9.1"))
    minor = ".".join(python.split(".")[:2])
    assert (wrong.status_code, wrong.json()["hint"]) == (426, f"use Python {minor}")
    assert enrol(floor, floor.enrolment(Machine("a"), token, python=f"{minor}.99")).status_code == 200


def test_enrolling_again(floor: Floor, provider: Person) -> None:
    """A known device enrols again without an invitation: same id and provider, new facts, class and price."""
    machine = floor.device(provider)
    again = enrol(
        floor,
        floor.enrolment(
            machine, "", name="new", cpus=8, memory_bytes=16 * GIB, score_millis=2500, reserve_micros_per_hour=7
        ),
    ).json()
    assert again == {"device_id": machine.id, "device_class": "cpu-8c-16g.eu.vetted", "name": "new"}
    assert count(floor) == 1
    with floor.sessions() as session:
        found = session.get_one(devices.Device, machine.id)
        ask = session.exec(select(offers.Ask)).one()
    assert (found.account_id, found.score_millis, ask.reserve_micros_per_hour) == (provider.id, 2500, 7)


CLASSES: list[tuple[dict[str, int], str]] = [
    ({"cpus": 1, "memory_bytes": 2 * GIB}, "cpu-1c-2g"),
    ({"cpus": 2, "memory_bytes": 2 * GIB}, "cpu-1c-2g"),
    ({"cpus": 2, "memory_bytes": 4 * GIB * 92 // 100}, "cpu-2c-4g"),
    ({"cpus": 64, "memory_bytes": 512 * GIB}, "cpu-16c-32g"),
    ({"cpus": 8, "memory_bytes": 16 * GIB, "gpus": 1, "gpu_memory_bytes": 24 * GIB}, "gpu-24g"),
    ({"cpus": 8, "memory_bytes": 16 * GIB, "gpus": 1, "gpu_memory_bytes": 12 * GIB}, "gpu-8g"),
]


def test_classes(floor: Floor, provider: Person) -> None:
    """A device is traded as the largest kind that it satisfies, with a tenth of memory's grace."""
    token = floor.invite(provider, uses=len(CLASSES))
    for facts, name in CLASSES:
        body = enrol(floor, floor.enrolment(Machine("a"), token, **facts)).json()
        assert body["device_class"] == f"{name}.eu.vetted"


def test_unvetted_is_open_until_vetted(floor: Floor) -> None:
    """A device is of the open tier until the operator vets its provider; then all of the provider's are vetted."""
    newcomer = floor.person("provider", vetted=False)
    machine = floor.device(newcomer, region="de")
    with floor.sessions() as session:
        assert session.get_one(devices.Device, machine.id).device_class == "cpu-2c-4g.de.open"
    floor.client.post(f"/v1/accounts/{newcomer.id}/vet", headers=floor.operator)
    with floor.sessions() as session:
        assert session.get_one(devices.Device, machine.id).device_class == "cpu-2c-4g.de.vetted"


BAD: list[dict[str, Any]] = [
    {"memory_bytes": GIB},
    {"cpus": 0},
    {"cpus": 2.0},
    {"cpus": 10**30},
    {"memory_bytes": 2**63},
    {"region": "EU"},
    {"region": "eu\n"},
    {"region": "e.u"},
    {"region": ""},
    {"score_millis": 0},
    {"score_millis": 1.5},
    {"reserve_micros_per_hour": -1},
    {"reserve_micros_per_hour": 100_000_001},
    {"reserve_micros_per_hour": 0.5},
    {"name": ""},
    {"name": "x" * 81},
    {"name": "a\0b"},
    {"more": 1},
]


def test_bad_facts(floor: Floor, provider: Person) -> None:
    """A device too small, out of bounds or not described in whole numbers enrols nowhere and keeps its invitation."""
    token = floor.invite(provider)
    for changes in BAD:
        answer = enrol(floor, floor.enrolment(Machine("a"), token, **changes))
        assert answer.status_code in (400, 422), (changes, answer.text)
    assert count(floor) == 0
    assert enrol(floor, floor.enrolment(Machine("a"), token)).status_code == 200


def test_providers_see_their_own(floor: Floor, provider: Person) -> None:
    """A provider's list has its own devices alone, with what they ask and why they lost."""
    floor.device(provider, name="mine", reserve_micros_per_hour=90_000_000)
    floor.device(floor.person("provider"), name="theirs")
    floor.bid(floor.cluster(floor.buyer()), count=2)
    floor.tick(T0)
    (found,) = floor.client.get("/v1/devices", headers=provider.headers("provider")).json()
    assert (found["name"], found["leased"], found["lost_clearings"]) == ("mine", False, 1)
    assert "reserve 90.00" in found["last_loss"]["text"]
