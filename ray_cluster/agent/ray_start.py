"""One Ray node of this device: the exact ``ray start`` for a lease, started in a sandbox, followed and ended."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from ray_cluster.agent import sandbox
from ray_cluster.agent.node import Lease

MIB = 1 << 20
STORE_BYTES_MIN, STORE_BYTES_MAX = 80 * MIB, 4096 * MIB  # Ray refuses an object store below 75 MiB
STARTED_MARK = "Ray runtime started"
STOP_S, DRAIN_S = 5.0, 30.0


def memory_split(memory_bytes: int) -> tuple[int, int]:
    """Return (Ray ``memory``, object store) in bytes for a node that may use ``memory_bytes``: a fifth is the store."""
    store = min(max(memory_bytes // 5, STORE_BYTES_MIN), STORE_BYTES_MAX)
    return max(memory_bytes - store, 0), store


def command(lease: Lease) -> list[str]:
    """PURE: return the ``ray start`` that joins the lease's cluster."""
    heap_bytes, store_bytes = memory_split(lease.memory_bytes)
    labels = ",".join(f"{key}={value}" for key, value in sorted(lease.labels.items()))
    return [
        sys.executable,
        str(Path(sys.prefix) / "bin" / "ray"),
        "start",
        f"--address={lease.head_address}",
        *([f"--node-ip-address={lease.node_ip}"] if lease.node_ip else []),  # else Ray finds it
        f"--num-cpus={lease.cpus}",
        f"--num-gpus={lease.gpus}",
        f"--memory={heap_bytes}",
        f"--object-store-memory={store_bytes}",
        f"--resources={json.dumps(dict(lease.resources), sort_keys=True)}",
        *([f"--labels={labels}"] if labels else []),
        "--min-worker-port=0",  # any free port: several nodes share one machine
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        f"--temp-dir={sandbox.TEMPORARY}/ray",  # else the head's path would be used, which need not exist here
        "--log-style=record",
        "--log-color=false",
        "--disable-usage-stats",
        "--block",
    ]


def environment(lease: Lease) -> dict[str, str]:
    """PURE: return what Ray needs in the environment; by the instance id the autoscaler knows the node again."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": lease.ray_token,
        "RAY_CLOUD_INSTANCE_ID": lease.node_id,
        "RAY_NODE_TYPE_NAME": lease.device_class,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def box(lease: Lease) -> sandbox.Box:
    """Return the sandbox for a lease's node, with memory for its object store and its session files."""
    _, store_bytes = memory_split(lease.memory_bytes)
    return sandbox.box_of_this_machine(
        environment(lease), shm_bytes=store_bytes + 64 * MIB, tmp_bytes=max(256 * MIB, lease.memory_bytes // 4)
    )


def manual_command(lease: Lease, *, sandboxed: bool = True) -> str:
    """Return a shell line that joins by hand; it carries the cluster's token, so it is for the provider's eyes."""
    if sandboxed:
        return shlex.join(sandbox.arguments(box(lease), command(lease)))
    settings = [f"{name}={value}" for name, value in environment(lease).items()]
    return shlex.join(["env", *settings, *command(lease)])


def bare_environment(lease: Lease) -> dict[str, str]:
    """Return the environment of a node that runs without a sandbox: as bare as inside one, but the real home."""
    return sandbox.inner_environment() | {"HOME": str(Path.home())} | environment(lease)


def processes_of(node_id: str) -> list[psutil.Process]:
    """Return this user's processes that carry the node's id in their environment, wherever they were started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("RAY_CLOUD_INSTANCE_ID") == node_id:
                found.append(process)
    return found


class RayNode:
    """A ``ray start --block`` that this program started, in a process group and session of its own."""

    def __init__(self, lease: Lease, *, sandboxed: bool) -> None:
        self.lease = lease
        self.sandboxed = sandboxed
        self.started = asyncio.Event()
        self.tail: deque[str] = deque(maxlen=40)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process; ``started`` is set once Ray says that it has joined. Raises OSError."""
        data = sandbox.open_small_files() if self.sandboxed else {}
        try:
            argv, env = self._program(data)
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=env,
                cwd="/",
                pass_fds=tuple(data.values()),
                start_new_session=True,
            )
        finally:
            for descriptor in data.values():
                os.close(descriptor)
        self._reader = asyncio.create_task(self._read(self._process))

    def _program(self, data: dict[str, int]) -> tuple[Sequence[str], Mapping[str, str]]:
        if self.sandboxed:
            words, data["options"] = sandbox.hide(sandbox.arguments(box(self.lease), command(self.lease), data))
            return words, {"PATH": os.defpath}
        # Without a sandbox nothing else ends the node when this program is killed.
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        return [*guard, *command(self.lease)], bare_environment(self.lease)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.tail.append(line.decode(errors="replace").rstrip())
            if STARTED_MARK in self.tail[-1]:
                self.started.set()

    @property
    def pid(self) -> int:
        """The id of the outermost process, which is also its group's."""
        assert self._process is not None
        return self._process.pid

    async def wait(self) -> int:
        """Wait until the node has ended, clean up what it left, and return its exit status."""
        assert self._process is not None
        status = await self._process.wait()
        self._kill_group()
        if self._reader is not None:
            await self._reader
        return status

    async def end(self, limit_s: float) -> None:
        """Ask Ray to stop (SIGTERM, which drains it) and kill the whole group when it has not within ``limit_s``."""
        assert self._process is not None
        for process in self._ray_start():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), limit_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End the node at once."""
        self._kill_group()

    def _ray_start(self) -> list[psutil.Process]:
        """Return the ``ray start`` process: bubblewrap's grandchild (its child is process 1 inside and shrugs)."""
        try:
            outer = psutil.Process(self.pid)
            if not self.sandboxed:
                return [outer]
            inside = [process for child in outer.children() for process in child.children()]
            return sorted(inside, key=psutil.Process.create_time)[:1] or [outer]
        except psutil.Error:
            return []

    def _kill_group(self) -> None:
        """Kill the group; inside a sandbox all follow process 1, outside one Ray's strays are found by their id."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not self.sandboxed:
            for process in processes_of(self.lease.node_id):
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def served(self) -> bool:
        """Whether the raylet is there: ``ray start --block`` outlives one that the autoscaler told to go."""
        try:
            return any(process.name() == "raylet" for process in psutil.Process(self.pid).children(recursive=True))
        except psutil.Error:
            return False

    def last_words(self) -> str:
        """Return the last telling line that Ray printed, for the reason of a failure."""
        telling = [line for line in self.tail if "error" in line.lower() or "fail" in line.lower()]
        return (telling or [line for line in self.tail if line] or ["ray start said nothing"])[-1][-300:]
