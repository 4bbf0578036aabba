"""The agent against a market's side of the link, with stand-ins for Ray."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.agent import link as links
from ray_cluster.agent.enrol import Enrolment
from ray_cluster.agent.facts import Facts
from ray_cluster.agent.identity import Identity, load_or_create
from ray_cluster.agent.node import Lease
from ray_cluster.agent.serve import Agent
from ray_cluster.agent.view import View
from ray_cluster.errors import Denied, Outage


class StandIn:
    """A node that joins at once and ends when told, or by itself."""

    made: ClassVar[list["StandIn"]] = []

    def __init__(self, lease: Lease, *, starts: bool = True) -> None:
        self.lease, self.starts = lease, starts
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.limits: list[float] = []
        self.killed = False
        self.made.append(self)

    async def start(self) -> None:
        if not self.starts:
            raise Outage("no such program")
        self.started.set()

    async def wait(self) -> int:
        await self.ended.wait()
        return 0

    async def end(self, limit_s: float) -> None:
        self.limits.append(limit_s)
        if limit_s < 30:
            self.ended.set()

    def kill(self) -> None:
        self.killed = True
        self.ended.set()

    def served(self) -> bool:
        return True

    def last_words(self) -> str:
        return "raylet died"


@pytest.fixture
def key(tmp_path: Path, market: Any) -> Identity:
    made = load_or_create(tmp_path)
    market.public_key = made.public_key
    return made


@pytest.fixture
def made() -> list[StandIn]:
    StandIn.made = []
    return StandIn.made


@pytest.fixture
def agent(market: Any, key: Identity, made: list[StandIn]) -> Agent:
    return Agent(
        market.url,
        key,
        Enrolment("dev_1", "cpu-1c-2g.eu.open", "test"),
        Facts(1, 4 << 30, 0, 0, "linux", "3.11.7", "2.60.0"),
        reserve_micros_per_hour=50_000,
        view=View(as_json=True),
        launch=StandIn,
    )


@pytest.fixture
async def serving(agent: Agent) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(agent.run())
    yield task
    agent.leave()
    agent.leave()
    with contextlib.suppress(Denied):
        await asyncio.wait_for(task, 5)


async def test_a_lease_runs_and_is_claimed(market: Any, serving: Any, made: Any, row: Any, until: Any) -> None:
    """A wanted lease is started once, reported running, and claims time by the device's own clock."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    await market.want(row())
    await until(lambda: market.frames[-1]["nodes"][0]["claimed_ms"] > 200)
    assert len(made) == 1


async def test_a_renewal_keeps_the_process(market: Any, serving: Any, made: Any, row: Any, until: Any) -> None:
    """The node serves the new lease without a restart, its claim starts anew, and the old one got a last word."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    await asyncio.sleep(0.3)
    await market.want(row(lease_id="ls_2"))
    await until(lambda: market.frames[-1]["nodes"][0]["lease_id"] == "ls_2")
    claims = [(one["nodes"][0]["lease_id"], one["nodes"][0]["claimed_ms"]) for one in market.frames if one["nodes"]]
    last_old = max(ms for lease_id, ms in claims if lease_id == "ls_1")
    assert last_old >= 250
    assert next(ms for lease_id, ms in claims if lease_id == "ls_2") < 200
    assert len(made) == 1


async def test_dropped_means_stopped_then_forgotten(market: Any, serving: Any, made: Any, row: Any, until: Any) -> None:
    """A node that the market dropped ends within seconds and then disappears from the report."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    await market.want()
    await until(lambda: market.phases() == {})
    assert made[0].limits == [5.0]
    assert any(n["phase"] == "stopped" for one in market.frames for n in one["nodes"])


async def test_drain_is_the_long_way(market: Any, serving: Any, made: Any, row: Any, until: Any) -> None:
    """Draining gives Ray its 30 s; the end is reported until the market drops the node."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    await market.want(row(state="drain"))
    await until(lambda: made[0].limits == [30.0])
    made[0].ended.set()
    await until(lambda: market.phases() == {"nd_1": "stopped"})


async def test_a_node_that_dies_says_why(market: Any, serving: Any, made: Any, row: Any, until: Any) -> None:
    """A node that ends by itself has failed, with Ray's last words, and is not started again by itself."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    made[0].ended.set()
    await until(lambda: market.phases() == {"nd_1": "failed"})
    assert market.frames[-1]["nodes"][0]["detail"] == "raylet died"
    assert len(made) == 1


async def test_a_lost_link_comes_back_and_loses_nothing(
    market: Any, serving: Any, made: Any, row: Any, until: Any
) -> None:
    """When the link breaks the node runs on, and the whole state is exchanged anew after the welcome."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    await market.links[0].close()
    market.frames.clear()
    await until(lambda: len(market.links) == 2 and market.phases() == {"nd_1": "running"})
    assert [one.limits for one in made] == [[]]


async def test_leaving_drains_and_a_second_time_stops(
    market: Any, agent: Agent, serving: Any, made: Any, row: Any, until: Any
) -> None:
    """The first Ctrl-C says so and drains, the second kills; the market hears both the goodbye and the end."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    agent.leave()
    await until(lambda: made[0].limits == [30.0])
    assert not serving.done()
    assert {"type": "leaving"} in market.frames
    agent.leave()
    await asyncio.wait_for(serving, 5)
    assert made[0].killed
    await until(lambda: market.phases() == {"nd_1": "stopped"})


async def test_garbage_from_the_market_changes_nothing(
    market: Any, serving: Any, made: Any, row: Any, until: Any
) -> None:
    """Malformed frames leave what runs alone."""
    market.leases = [row()]
    await until(lambda: market.phases() == {"nd_1": "running"})
    for text in ("{", "[]", '{"type":"leases"}', json.dumps({"type": "leases", "leases": [row(cpus="x")]}), "1"):
        await market.links[0].send(text)
    count = len(market.frames)
    await until(lambda: len(market.frames) > count + 2)
    assert market.phases() == {"nd_1": "running"}
    assert made[0].limits == []


async def test_what_the_market_refuses_is_told_with_its_hint(
    market: Any, serving: Any, until: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error frame reaches the provider with what to do about it."""
    await until(lambda: market.links)
    await market.links[-1].send(json.dumps({"type": "error", "detail": "too dear", "hint": "ask less"}))
    said: list[str] = []

    def told() -> bool:
        said.append(capsys.readouterr().out)
        return "too dear" in "".join(said)

    await until(told)
    (notice,) = (line for line in "".join(said).splitlines() if "too dear" in line)
    assert json.loads(notice)["detail"] == "too dear → ask less"


async def test_a_refused_device_stops_with_the_reason(market: Any, agent: Agent, key: Identity) -> None:
    """Close code 4401 ends the program with the market's reason and what to do: trying again would not help."""
    market.refuse = "this device was removed"
    with pytest.raises(Denied, match="this device was removed") as caught:
        await asyncio.wait_for(agent.run(), 5)
    assert "--token" in caught.value.hint


async def test_what_cannot_start_has_failed(
    market: Any, key: Identity, row: Callable[..., dict[str, object]], until: Any
) -> None:
    """A program that cannot even be started is reported, with the reason."""
    failing = Agent(
        market.url,
        key,
        Enrolment("dev_1", "c", "t"),
        Facts(1, 4 << 30, 0, 0, "linux", "3.11.7", "2.60.0"),
        reserve_micros_per_hour=1,
        view=View(as_json=True),
        launch=lambda lease: StandIn(lease, starts=False),
    )
    market.leases = [row()]
    task = asyncio.create_task(failing.run())
    await until(lambda: market.phases() == {"nd_1": "failed"})
    failing.leave()
    await asyncio.wait_for(task, 5)


@given(st.integers(0, 100), st.floats(0, 1))
def test_backoff_is_bounded(attempt: int, chance: float) -> None:
    """Reconnecting starts within half a second and never waits longer than five, each device at its own moment."""
    assert 0.25 <= links.backoff_s(attempt, chance) <= 5
    assert links.backoff_s(0, chance) <= 0.5
