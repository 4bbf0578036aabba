"""The agent at work: what the market wants, what runs here, and what both are told, until it is told to leave."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.markup import escape

from ray_cluster.agent.device import JOIN_S_MAX, Device, Process
from ray_cluster.agent.enrol import Enrolment
from ray_cluster.agent.facts import Facts
from ray_cluster.agent.identity import Identity
from ray_cluster.agent.link import Event, Link, Linked, Lost, Notice, Wanted
from ray_cluster.agent.manual import ManualNode
from ray_cluster.agent.node import Lease
from ray_cluster.agent.ray_start import RayNode
from ray_cluster.agent.reconcile import Decline, Forget, Renew, Start, reconcile
from ray_cluster.agent.view import View

HEARTBEAT_MS = 3_000


@dataclass(frozen=True, slots=True)
class Changed:
    """A node got further."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The provider wants to leave."""


@dataclass(frozen=True, slots=True)
class Unlinked:
    """The link ended for good."""


class Agent:
    """One device of one market, from its first link to its last process."""

    def __init__(
        self,
        url: str,
        key: Identity,
        enrolment: Enrolment,
        offer: Facts,
        *,
        reserve_micros_per_hour: int,
        view: View,
        sandboxed: bool = True,
        manual: bool = False,
        launch: Callable[[Lease], Process] | None = None,
    ) -> None:
        self._inbox: asyncio.Queue[Event | Changed | Leave | Unlinked] = asyncio.Queue()
        self._offer, self._enrolment, self._view = offer, enrolment, view
        self._reserve_micros_per_hour = reserve_micros_per_hour
        self._sandboxed, self._manual = sandboxed, manual
        self._link = Link(url, key, enrolment.device_id, self._inbox.put_nowait)
        self._device = Device(
            launch or self._launch,
            lambda: self._inbox.put_nowait(Changed()),
            join_s_max=None if manual else JOIN_S_MAX,
        )
        self._wanted: tuple[Lease, ...] | None = None
        self._linked = False
        self._heartbeat_ms = HEARTBEAT_MS

    async def run(self) -> None:
        """Serve until told to leave (SIGINT, SIGTERM, SIGHUP or ``leave``); raises Denied when the market says no."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self.leave)
        link = asyncio.create_task(self._link.run())
        link.add_done_callback(lambda _: self._inbox.put_nowait(Unlinked()))
        try:
            while await self._step():
                pass
            await self._part()
        finally:
            self._device.kill_all()
            await self._device.drain_all()
            for number in signals:
                loop.remove_signal_handler(number)
            link.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await link

    def leave(self) -> None:
        """Leave the market: the first call drains, the second stops at once."""
        self._inbox.put_nowait(Leave())

    def _launch(self, lease: Lease) -> Process:
        if self._manual:
            return ManualNode(lease, sandboxed=self._sandboxed, show=self._show_command)
        return RayNode(lease, sandboxed=self._sandboxed)

    def _show_command(self, line: str) -> None:
        self._view.stop()
        self._view.tell("command", f"Paste this in another terminal to serve:\n\n{escape(line)}\n", command=line)

    async def _step(self) -> bool:
        """Take one event (or a heartbeat's silence), do what is needed and report; False once told to leave."""
        try:
            event = await asyncio.wait_for(self._inbox.get(), self._heartbeat_ms / 1000)
        except TimeoutError:
            event = Changed()
        match event:
            case Leave() | Unlinked():
                return False
            case Linked(heartbeat_ms):
                self._linked, self._heartbeat_ms = True, heartbeat_ms
                self._view.tell("linked", "Linked to the market.")
            case Lost(reason):
                if self._linked:
                    self._view.tell("lost", f"[yellow]Lost the link: {escape(reason)}[/]", reason=reason)
                self._linked, self._wanted = False, None
            case Wanted(leases):
                self._wanted = leases
            case Notice(text):
                self._view.tell("notice", escape(text), detail=text)
        await self._reconcile()
        await self._report()
        return True

    async def _reconcile(self) -> None:
        actions = reconcile(
            self._wanted,
            self._device.nodes(),
            now_ms=time.time_ns() // 1_000_000,
            cpus=self._offer.cpus,
            memory_bytes=self._offer.memory_bytes,
        )
        if any(isinstance(action, Renew | Forget) for action in actions):
            await self._report()  # the last word on the lease that is over
        for action in actions:
            if isinstance(action, Start):
                self._view.tell("starting", f"Serving lease {action.lease.lease_id}.", lease_id=action.lease.lease_id)
            elif isinstance(action, Decline):
                reason = f"Declined lease {action.lease.lease_id}: {action.detail}"
                self._view.tell("declined", reason, lease_id=action.lease.lease_id, detail=action.detail)
            self._device.apply(action)

    async def _report(self) -> None:
        nodes = self._device.nodes().values()
        rows = [node.as_json() for node in nodes]
        await self._link.send({"type": "state", "nodes": rows, "at_ms": time.time_ns() // 1_000_000})
        self._view.state(
            linked=self._linked,
            device_class=self._enrolment.device_class,
            reserve_micros_per_hour=self._reserve_micros_per_hour,
            nodes=nodes,
        )

    async def _part(self) -> None:
        """Say goodbye, drain at most 30 s, tell the market how each node ended; a second Leave stops at once."""
        self._view.tell("leaving", "Leaving: finishing what runs here (at most 30 s; Ctrl-C again stops at once) …")
        await self._link.send({"type": "leaving"})
        drained = asyncio.create_task(self._device.drain_all())
        while not drained.done():
            heard = asyncio.create_task(self._inbox.get())
            await asyncio.wait({drained, heard}, return_when=asyncio.FIRST_COMPLETED)
            if heard.done() and isinstance(heard.result(), Leave):
                self._device.kill_all()
            heard.cancel()
            await self._report()
        await self._report()
        await self._link.close()
