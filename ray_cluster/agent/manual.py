"""A Ray node that the provider starts by hand: it is shown as a command and found again by the id it carries."""

import asyncio
import contextlib
import signal
from collections.abc import Callable

import psutil

from ray_cluster.agent.node import Lease
from ray_cluster.agent.ray_start import manual_command, processes_of

POLL_S = 1.0


class ManualNode:
    """Follows a node that somebody started by pasting its command on this machine."""

    def __init__(self, lease: Lease, *, sandboxed: bool, show: Callable[[str], None]) -> None:
        self.lease = lease
        self.sandboxed = sandboxed
        self.started = asyncio.Event()
        self._show = show
        self._ending = False

    async def start(self) -> None:
        """Show the command."""
        self._show(manual_command(self.lease, sandboxed=self.sandboxed))

    async def wait(self) -> int:
        """Return 0 once the node that was started is gone again, or is no longer wanted before anybody started it."""
        while True:
            processes = await asyncio.to_thread(processes_of, self.lease.node_id)
            if any(_name(process) == "raylet" for process in processes):
                self.started.set()
            elif not processes and (self.started.is_set() or self._ending):
                return 0
            await asyncio.sleep(POLL_S)

    async def end(self, limit_s: float) -> None:
        """Ask its ``ray start`` to stop, and kill what is left after ``limit_s``."""
        self._ending = True
        for process in processes_of(self.lease.node_id):
            with contextlib.suppress(psutil.Error):
                if {"start", "--block"} <= set(process.cmdline()):
                    process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(limit_s):
                while processes_of(self.lease.node_id):
                    await asyncio.sleep(POLL_S / 4)
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        """End the node at once."""
        self._ending = True
        for process in processes_of(self.lease.node_id):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def served(self) -> bool:
        """Whether Ray is still there; ``wait`` sees to that itself."""
        return True

    def last_words(self) -> str:
        """Return why it ended, as far as is known."""
        return "it was stopped by hand"


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""
