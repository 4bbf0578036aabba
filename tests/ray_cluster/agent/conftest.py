"""A market of one socket, for the agent's tests, and a Ray head of one's own."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import pytest
import uvicorn
from fastapi import Body, FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.server import Server, ServerConnection, serve

from ray_cluster.agent.identity import canonical, verify
from ray_cluster.agent.node import Lease


@dataclass
class FakeMarket:
    """Speaks the market's side of the link and remembers what it heard."""

    public_key: str = ""
    refuse: str = ""
    leases: list[dict[str, object]] = field(default_factory=list)
    frames: list[dict[str, object]] = field(default_factory=list)
    links: list[ServerConnection] = field(default_factory=list)
    server: Server | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}"

    async def talk(self, connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "challenge", "nonce": "n0"}))
        hello = json.loads(await connection.recv())
        if self.refuse or not verify(self.public_key, hello["signature"], b"spare-link:n0"):
            await connection.close(4401, self.refuse or "bad signature")
            return
        await connection.send(json.dumps({"type": "welcome", "device_id": hello["device_id"], "heartbeat_ms": 200}))
        self.links.append(connection)
        await self.want(*self.leases)
        async for text in connection:
            self.frames.append(json.loads(text))

    async def want(self, *leases: dict[str, object]) -> None:
        self.leases = list(leases)
        await self.links[-1].send(json.dumps({"type": "leases", "leases": self.leases}))

    def phases(self) -> dict[str, str]:
        """What the last state frame said of each node."""
        states = [frame for frame in self.frames if frame["type"] == "state"]
        return {node["node_id"]: node["phase"] for node in states[-1]["nodes"]} if states else {}  # type: ignore[attr-defined,index]


@pytest.fixture
async def market() -> AsyncIterator[FakeMarket]:
    """A market's side of the link on a free port of the loopback."""
    fake = FakeMarket()
    async with serve(fake.talk, "127.0.0.1", 0) as server:
        fake.server = server
        yield fake


class HttpMarket:
    """A market with both doors, enrolment and link, in a thread of its own."""

    def __init__(self) -> None:
        self.leases: list[dict[str, object]] = []
        self.frames: list[dict[str, object]] = []
        self.body: dict[str, object] = {}
        self.url = ""

    phases = FakeMarket.phases

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/devices/enrol")
        def enrol(body: Annotated[dict[str, object], Body()]) -> dict[str, object]:
            unsigned = {name: value for name, value in body.items() if name != "signature"}
            assert verify(str(body["public_key"]), str(body["signature"]), canonical(unsigned))
            self.body = body
            return {"device_id": "dev_1", "device_class": "cpu-1c-2g.eu.open", "name": body["name"]}

        @app.websocket("/v1/devices/link")
        async def link(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_json({"type": "challenge", "nonce": "n1"})
            hello = await socket.receive_json()
            assert verify(str(self.body["public_key"]), hello["signature"], b"spare-link:n1")
            await socket.send_json({"type": "welcome", "device_id": "dev_1", "heartbeat_ms": 500})
            await socket.send_json({"type": "leases", "leases": self.leases})
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    self.frames.append(await socket.receive_json())

        return app


@pytest.fixture
def http_market() -> Iterator[HttpMarket]:
    """A market with both doors on a free port."""
    market = HttpMarket()
    server = uvicorn.Server(uvicorn.Config(market.app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    market.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield market
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def until() -> Callable[..., object]:
    """Wait until something holds, at most so long."""

    async def wait(holds: Callable[[], object], *, limit_s: float = 5) -> None:
        async with asyncio.timeout(limit_s):
            while not holds():
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def row() -> Callable[..., dict[str, object]]:
    """A lease as the market sends it."""

    def make(**change: object) -> dict[str, object]:
        return {
            "lease_id": "ls_1",
            "node_id": "nd_1",
            "cluster_id": "cl_1",
            "device_class": "cpu-1c-2g.eu.open",
            "state": "run",
            "ends_at_ms": time.time_ns() // 1_000_000 + 600_000,
            "head_address": "127.0.0.1:1",
            "node_ip": "127.0.0.1",
            "ray_token": "t" * 40,
            "resources": {"class:cpu-1c-2g.eu.open": 1},
            "labels": {"spare.lease": "ls_1"},
            "cpus": 1,
            "memory_bytes": 2 << 30,
            "gpus": 0,
        } | change

    return make


@pytest.fixture
def lease(row: Callable[..., dict[str, object]]) -> Callable[..., Lease]:
    """A lease, read."""
    from ray_cluster.agent.node import read_lease

    return lambda **change: read_lease(row(**change))


@dataclass(frozen=True)
class Head:
    """A running Ray head."""

    address: str
    token: str


def _free_ports(count: int) -> list[int]:
    """Free ports that Ray's own ranges do not touch."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            if len(found) < count and probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            break
    return found


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A plain Ray head without a dashboard, killed with its whole session afterwards."""
    port, dashboard, client = _free_ports(3)
    token = "agent-test-" + os.urandom(16).hex()
    home = Path(f"/tmp/sp{os.getpid()}")
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(Path(sys.prefix) / "bin/ray"), "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--num-cpus=0", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--object-store-memory=100000000", "--include-dashboard=false", f"--temp-dir={home}", "--block"]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "block forever" in line:
                break
        yield Head(f"127.0.0.1:{port}", token)
    finally:
        for member in [one for one in psutil.process_iter() if _session(one.pid) == process.pid]:
            member.kill()
        process.wait()
        subprocess.run(["rm", "-rf", str(home)], check=False)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
