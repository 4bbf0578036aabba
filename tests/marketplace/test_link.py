"""A device's channel: who it is, what it should run, and that nothing it says can break or pay anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import select
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from billing.ids import now_utc
from marketplace import devices, leases, offers
from marketplace.database import transaction
from tests.marketplace.conftest import RATE, Floor, Machine

URL = "/v1/devices/link"


@pytest.fixture
def client(live_client: TestClient) -> TestClient:
    """The whole server."""
    return live_client


@pytest.fixture
def machine(floor: Floor) -> Machine:
    return floor.device(floor.person("provider"), at=now_utc())


def hello(machine: Machine, nonce: str) -> dict[str, Any]:
    return {"type": "hello", "device_id": machine.id, "signature": machine.sign(f"spare-link:{nonce}".encode())}


@contextmanager
def linked(floor: Floor, machine: Machine) -> Iterator[WebSocketTestSession]:
    """A link that was welcomed and has had its first frame."""
    with floor.client.websocket_connect(URL) as socket:
        socket.send_json(hello(machine, socket.receive_json()["nonce"]))
        assert socket.receive_json() == {"type": "welcome", "device_id": machine.id, "heartbeat_ms": 3000}
        yield socket


def orders(socket: WebSocketTestSession) -> list[dict[str, Any]]:
    """The next leases frame."""
    frame = socket.receive_json()
    assert frame["type"] == "leases", frame
    return list(frame["leases"])


def refused(floor: Floor, answer: Any) -> str:
    """The reason with which a hello is refused; ``answer`` makes it from the nonce."""
    with floor.client.websocket_connect(URL) as socket:
        made = answer(socket.receive_json()["nonce"])
        socket.send_text(made) if isinstance(made, str) else socket.send_json(made)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert closed.value.code == 4401
    return closed.value.reason


def test_only_the_devices_own_key_opens_the_link(floor: Floor, machine: Machine) -> None:
    """A wrong signature, an unknown device, a replayed hello and no hello at all are refused with 4401."""
    stranger = Machine("stranger", id=machine.id)
    assert "not signed" in refused(floor, lambda nonce: hello(stranger, nonce))
    assert "no device" in refused(floor, lambda nonce: hello(Machine("x", id="dev_unknown"), nonce))
    replayed: list[dict[str, Any]] = []
    with floor.client.websocket_connect(URL) as socket:
        replayed.append(hello(machine, socket.receive_json()["nonce"]))
        socket.send_json(replayed[0])
        assert socket.receive_json()["type"] == "welcome"
    assert "not signed" in refused(floor, lambda _: replayed[0])
    for junk in ("", "[]", "{", '{"type":"state"}', "x" * 100_000, '{"type":"hello","device_id":1,"signature":""}'):
        assert refused(floor, lambda _, junk=junk: junk) == "no proper hello"
    assert refused(floor, lambda nonce: hello(Machine("x", id="a\0"), nonce))


def test_leases_arrive_after_an_award(floor: Floor, machine: Machine) -> None:
    """A device hears what it should run: nothing first, then the awarded node with all it needs, then nothing again."""
    cluster = floor.cluster(floor.buyer())
    with linked(floor, machine) as socket:
        assert orders(socket) == []
        (node,) = floor.bid(cluster)
        floor.tick(now_utc())
        lease = floor.one_lease()
        (order,) = orders(socket)
        assert order["lease_id"] == lease.id
        assert order["node_id"] == node
        assert order["state"] == "run"
        assert order["ends_at_ms"] == int(lease.ends_at.timestamp() * 1000)
        assert order["ray_token"] == floor.context.ray_token(cluster)
        assert order["resources"] == {
            "class:cpu-2c-4g.eu.vetted": 1,
            f"device:{machine.id}": 1,
            f"lease:{lease.id}": 1,
        }
        with transaction(floor.sessions) as session:
            leases.close(session, lease.id, "test", at=now_utc())
        assert orders(socket) == []


def test_bad_frames_change_nothing(floor: Floor, machine: Machine) -> None:
    """A malformed, oversized or unknown frame is answered with an error, the link stays, and no state changes."""
    with linked(floor, machine) as socket:
        assert orders(socket) == []
        before = everything(floor)
        for frame in (
            "",
            "null",
            "[1]",
            "{",
            '{"type":"dance"}',
            '{"type":"state","nodes":[],"at_ms":1.5}',
            '{"type":"state","nodes":[],"at_ms":-1}',
            '{"type":"state","nodes":"x","at_ms":1}',
            '{"type":"price","reserve_micros_per_hour":-1}',
            '{"type":"price","reserve_micros_per_hour":1.0}',
            '{"type":"price","reserve_micros_per_hour":' + "9" * 4000 + "}",
            '{"type":"price","reserve_micros_per_hour":' + "9" * 6000 + "}",
            '{"type":"leaving","x":"' + "y" * 64_001 + '"}',
            "[" * 60_000,
            '{"type":"state","at_ms":1,"nodes":[{"node_id":"a","lease_id":"b\\u0000","phase":"failed","claimed_ms":1}]}',
        ):
            socket.send_text(frame)
            answer = socket.receive_json()
            assert answer["type"] == "error", (frame[:80], answer)
            assert answer["detail"]
        assert everything(floor) == before
        socket.send_json({"type": "state", "nodes": [], "at_ms": 1})
        socket.send_text("{")
        assert socket.receive_json()["type"] == "error"  # frames are heard in order: the heartbeat was
    assert everything(floor) != before


def everything(floor: Floor) -> str:
    """The device and its ask as they are."""
    with floor.sessions() as session:
        found = [*session.exec(select(devices.Device)).all(), *session.exec(select(offers.Ask)).all()]
        return repr([row.model_dump() for row in found])


def test_claims_are_bounded(floor: Floor, machine: Machine) -> None:
    """What a device claims never goes down, never exceeds its lease, counts for that one only, and pays nothing."""
    other = floor.device(floor.person("provider"), at=now_utc(), name="other")
    buyer = floor.buyer()
    cluster = floor.cluster(buyer)
    floor.bid(cluster, count=2)
    now = now_utc()
    floor.tick(now)
    mine, theirs = sorted(floor.leases(), key=lambda lease: lease.device_id != machine.id)
    assert theirs.device_id == other.id

    def claim(lease: leases.Lease, claimed_ms: int) -> dict[str, Any]:
        node = {"node_id": lease.bid_id, "lease_id": lease.id, "phase": "running", "claimed_ms": claimed_ms}
        return {"type": "state", "nodes": [node], "at_ms": 1}

    with linked(floor, machine) as socket:
        orders(socket)
        for lease, claimed_ms, expected in ((mine, 500, 500), (mine, 100, 500), (mine, 10**12, 60_000)):
            socket.send_json(claim(lease, claimed_ms))
            socket.send_text("{")
            socket.receive_json()
            assert next(x for x in floor.leases() if x.id == mine.id).claimed_ms == expected
        socket.send_json(claim(theirs, 700))
        socket.send_text("{")
        socket.receive_json()
    found = {lease.id: lease for lease in floor.leases()}
    assert found[theirs.id].claimed_ms == 0
    floor.settle(now + timedelta(seconds=30))
    assert all(lease.charge_micros == 0 for lease in floor.leases())


def test_failed_node_ends_its_lease(floor: Floor, machine: Machine) -> None:
    """A device that cannot run its node says so, and the lease ends with its words; another's lease it cannot end."""
    other = floor.device(floor.person("provider"), at=now_utc(), name="other")
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster, count=2)
    floor.tick(now_utc())
    with linked(floor, machine) as socket:
        orders(socket)
        nodes = [
            {"node_id": x.bid_id, "lease_id": x.id, "phase": "failed", "claimed_ms": 0, "detail": "no <disk>"}
            for x in floor.leases()
        ]
        socket.send_json({"type": "state", "nodes": nodes, "at_ms": 1})
        assert orders(socket) == []
    states = {lease.device_id: (lease.state, lease.close_reason) for lease in floor.leases()}
    assert states[machine.id] == ("closed", "the device could not run the node: no <disk>")
    assert states[other.id] == ("open", "")


def test_leaving_and_coming_back(floor: Floor, machine: Machine) -> None:
    """A device that leaves is sold no more; once it links again it is."""
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster)
    with linked(floor, machine) as socket:
        orders(socket)
        socket.send_json({"type": "leaving"})
        socket.send_json({"type": "state", "nodes": [], "at_ms": 1})
        socket.send_text("{")
        socket.receive_json()
        floor.tick(now_utc())
        assert not floor.leases()
    with linked(floor, machine) as socket:
        assert orders(socket) == []
        floor.tick(now_utc() + timedelta(seconds=1))
        assert len(orders(socket)) == 1


def test_price_over_the_link(floor: Floor, machine: Machine) -> None:
    """A device changes what it asks over its link, within the market's bounds."""
    with linked(floor, machine) as socket:
        orders(socket)
        socket.send_json({"type": "price", "reserve_micros_per_hour": RATE // 2})
        socket.send_json({"type": "price", "reserve_micros_per_hour": 10**9})
        refusal = socket.receive_json()
        assert "out of bounds" in refusal["detail"]
        assert refusal["hint"] == "ask between 0 and 100.00 dollars an hour"
    with floor.sessions() as session:
        assert session.exec(select(offers.Ask)).one().reserve_micros_per_hour == RATE // 2


def test_a_second_link_takes_over(floor: Floor, machine: Machine) -> None:
    """When a device links again, the older link is closed, so that it is told on one only."""
    with linked(floor, machine) as old:
        assert orders(old) == []
        with linked(floor, machine) as new:
            with pytest.raises(WebSocketDisconnect) as closed:
                old.receive_json()
            assert closed.value.code == 4401
            assert orders(new) == []
