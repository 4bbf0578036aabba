"""The nodes of this device as they run: starts and ends them as told, and says how each is doing."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from ray_cluster.agent.node import Ending, Lease, Node, Phase
from ray_cluster.agent.ray_start import DRAIN_S, STOP_S
from ray_cluster.agent.reconcile import Action, Decline, Drain, Forget, Renew, Start, Stop
from ray_cluster.errors import ClusterError

JOIN_S_MAX = 120.0
LOOK_S = 2.0


class Process(Protocol):
    """What runs a node: a ``ray start`` of ours, one started by hand, or a stand-in of a test."""

    started: asyncio.Event

    async def start(self) -> None: ...  # noqa: D102

    async def wait(self) -> int: ...  # noqa: D102

    async def end(self, limit_s: float) -> None: ...  # noqa: D102

    def kill(self) -> None: ...  # noqa: D102

    def served(self) -> bool: ...  # noqa: D102

    def last_words(self) -> str: ...  # noqa: D102


@dataclass(slots=True)
class _Running:
    node: Node
    process: Process | None = None
    serving_since_ms: int | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


def monotonic_ms() -> int:
    """Return this device's monotonic clock in milliseconds."""
    return time.monotonic_ns() // 1_000_000


class Device:
    """Every node of this device, by its id; ``changed`` is called whenever one got further."""

    def __init__(
        self,
        launch: Callable[[Lease], Process],
        changed: Callable[[], None],
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
        join_s_max: float | None = JOIN_S_MAX,
    ) -> None:
        self._launch = launch
        self._changed = changed
        self._clock_ms = clock_ms
        self._join_s_max = join_s_max  # None: a person starts it, whenever that is
        self._running: dict[str, _Running] = {}

    def nodes(self) -> Mapping[str, Node]:
        """Return every node that is not forgotten, as of now."""
        return {node_id: self._now(entry) for node_id, entry in self._running.items()}

    def apply(self, action: Action) -> None:
        """Begin what the action says; the outcome shows in ``nodes``. Must be called inside the event loop."""
        match action:
            case Start(lease):
                entry = _Running(_node_for(lease))
                self._running[lease.node_id] = entry
                self._spawn(entry, self._live(entry, lease))
            case Renew(lease):
                entry = self._running[lease.node_id]
                entry.node = replace(entry.node, lease_id=lease.lease_id, ends_at_ms=lease.ends_at_ms, claimed_ms=0)
                if entry.serving_since_ms is not None:
                    entry.serving_since_ms = self._clock_ms()
            case Drain(node_id):
                self._end(self._running[node_id], "drain")
            case Stop(node_id):
                self._end(self._running[node_id], "stop")
            case Forget(node_id):
                self._running.pop(node_id, None)
            case Decline(lease, detail):
                self._running[lease.node_id] = _Running(replace(_node_for(lease), phase="failed", detail=detail))

    async def drain_all(self) -> None:
        """Drain every node (at most 30 s) and return once none is left."""
        for entry in self._running.values():
            if entry.node.live and entry.node.ending == "no":
                self._end(entry, "drain")
        for entry in list(self._running.values()):
            while entry.tasks:
                await asyncio.wait(entry.tasks)

    def kill_all(self) -> None:
        """End every node at once."""
        for entry in self._running.values():
            if entry.node.live:
                entry.node = replace(entry.node, ending="stop")
                if entry.process is not None:
                    entry.process.kill()

    def _now(self, entry: _Running) -> Node:
        if entry.serving_since_ms is None:
            return entry.node
        return replace(entry.node, claimed_ms=self._clock_ms() - entry.serving_since_ms)

    def _spawn(self, entry: _Running, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        entry.tasks.add(task)
        task.add_done_callback(entry.tasks.discard)

    def _end(self, entry: _Running, how: Ending) -> None:
        entry.node = replace(entry.node, ending=how)
        if entry.process is not None:  # otherwise it is ended as soon as it has been started
            self._spawn(entry, entry.process.end(DRAIN_S if how == "drain" else STOP_S))

    async def _live(self, entry: _Running, lease: Lease) -> None:
        """Run one node from its start to its end."""
        phase: Phase = "failed"
        try:
            process = self._launch(lease)
            await process.start()
            entry.process = process
            detail = await self._follow(entry, process)
            phase = "failed" if detail else "stopped"
        except (ClusterError, OSError) as error:
            detail = str(error)
        entry.node = replace(self._now(entry), phase=phase, detail=detail)
        entry.serving_since_ms = None
        self._changed()

    async def _follow(self, entry: _Running, process: Process) -> str:
        """Follow a started node to its end; return why it failed, or nothing when it was told to end."""
        if entry.node.ending != "no":
            self._spawn(entry, process.end(STOP_S))
        ended = asyncio.create_task(process.wait())
        joined = asyncio.create_task(process.started.wait())
        await asyncio.wait({ended, joined}, timeout=self._join_s_max, return_when=asyncio.FIRST_COMPLETED)
        in_time = joined.done() or ended.done()
        joined.cancel()
        if not in_time:
            await process.end(STOP_S)
        elif not ended.done():
            entry.node = replace(entry.node, phase="running")
            entry.serving_since_ms = self._clock_ms()
            self._changed()
            await self._until_ended(entry, process, ended)
        await ended
        if not in_time:
            return f"it did not join within {self._join_s_max:.0f} s: {process.last_words()}"
        return process.last_words() if entry.node.ending == "no" else ""

    async def _until_ended(self, entry: _Running, process: Process, ended: asyncio.Task[int]) -> None:
        while not ended.done():
            await asyncio.wait({ended}, timeout=LOOK_S)
            if not ended.done() and entry.node.ending == "no" and not process.served():
                entry.node = replace(entry.node, ending="stop")  # the cluster itself told the node to go
                await process.end(STOP_S)


def _node_for(lease: Lease) -> Node:
    return Node(lease.node_id, lease.lease_id, lease.ends_at_ms, "starting", lease.cpus)
