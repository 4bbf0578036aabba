"""The two clusters that are compared, with one face: bought nodes, and plain ``ray start`` nodes without a market."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
from ray.job_submission import JobSubmissionClient

from marketplace.client import Api, Cluster, Market
from marketplace.demo.local_market import LocalMarket, wait_for
from ray_cluster import detached, heads
from ray_cluster.agent import sandbox
from ray_cluster.agent.node import Lease
from ray_cluster.agent.ray_start import RayNode
from tests.benchmarks import processes

NODES = 2
IP = "127.0.0.2"
MEMORY_BYTES = 2 << 30
# What a plain head does without: the autoscaler that bids.
AUTOSCALING = ("RAY_enable_autoscaler_v2", "AUTOSCALER_UPDATE_INTERVAL_S", "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S")


class Side(Protocol):
    """A cluster whose head answers; ``inside`` is its folder as this machine sees it."""

    name: str
    inside: Path

    def parts(self) -> Mapping[str, list[int]]:
        """Return the outermost processes of each part."""

    def client(self) -> JobSubmissionClient:
        """Return a way to submit jobs."""

    def demanded(self) -> None:
        """Do what this side does at the moment at which a task wants a node."""

    def give_back(self) -> None:
        """End all nodes and wait until nothing of them is left."""

    def steps(self, demand: float) -> dict[str, float]:
        """Return when (epoch seconds) what happened between the demand and the node's start."""

    def nodes(self) -> list[dict[str, Any]]:
        """Return the head's list of nodes."""


class Plain:
    """A head with the market's flags and sandbox but without autoscaler, prober and warden, and plain nodes."""

    name = "plain"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inside = folder / "inside"
        self._token = secrets.token_hex(16)
        self._head = heads.Head(IP, *heads._free_ports(IP, 3))
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the head and wait until it answers."""
        spec = heads.HeadSpec("plain", self.folder, IP, self._token, "", "", "", {}, 0, 0)
        self.inside.mkdir(parents=True)
        argv, options = sandbox.hide(_without_autoscaler(heads._sandboxed(spec, plain_command(self._head))))
        try:
            detached.start(self.folder, heads.HEAD, argv, heads._clean_environment(), [options])
        finally:
            os.close(options)
        wait_for(self._answers, 60, f"the plain head (see {self.folder / 'head.log'})")

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self._head.dashboard_url}/api/version", headers=self._bearer(), timeout=2).is_success
        return False

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def parts(self) -> Mapping[str, list[int]]:
        """Return the outermost processes of head and nodes."""
        return {"head": [_pid(self.folder, heads.HEAD)], "nodes": [node.pid for node in self._nodes]}

    def client(self) -> JobSubmissionClient:
        """Return a client of the head itself."""
        return JobSubmissionClient(self._head.dashboard_url, headers=self._bearer())

    def demanded(self) -> None:
        """Start a node with the very command, environment and sandbox that a device uses."""
        number = len(self._nodes)
        node_id = f"plain-{secrets.token_hex(8)}"
        lease = Lease(
            lease_id=f"ls-{node_id}",
            node_id=node_id,
            cluster_id="plain",
            device_class="cpu-1c-2g.eu.vetted",
            state="run",
            ends_at_ms=0,
            head_address=self._head.address,
            node_ip=IP,
            ray_token=self._token,
            cpus=1,
            memory_bytes=MEMORY_BYTES,
            resources={"class:cpu-1c-2g.eu.vetted": 1, f"device:{number}": 1, f"lease:{node_id}": 1},
            labels={"spare-region": "eu"},
        )
        data = sandbox.open_small_files()
        words, environment = RayNode(lease, sandboxed=True)._program(data)
        with (self.folder / "nodes.log").open("ab") as log:
            node = subprocess.Popen(
                words,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=tuple(data.values()),
                start_new_session=True,
            )
        self._nodes.append(node)
        for descriptor in data.values():
            os.close(descriptor)

    def give_back(self) -> None:
        """Kill the nodes: with process 1 of its sandbox each goes whole."""
        for node in self._nodes:
            node.kill()
            node.wait()
        self._nodes.clear()

    def steps(self, demand: float) -> dict[str, float]:
        """Return nothing: a node is started at once."""
        return {}

    def nodes(self) -> list[dict[str, Any]]:
        """Return the head's list of nodes."""
        return _nodes(self._head.dashboard_url, self._bearer())

    def stop(self) -> None:
        """Kill all of it."""
        self.give_back()
        heads.stop(self.folder)


class Bought:
    """A buyer's cluster on a whole market whose devices wait, enrolled and linked."""

    name = "market"

    def __init__(self, market: LocalMarket) -> None:
        self._market = market
        provider = market.account("Ada", "provider", vetted=True)["keys"]["provider"]
        for number in range(NODES):
            market.join(provider, name=f"device-{number}", price="0.01")
        self._key = market.account("Bob", "buyer")["keys"]["buyer"]
        buyer = Market(market.url, self._key)
        market.top_up(buyer, "$5")
        self.cluster: Cluster = buyer.cluster(max_price="0.50/h", budget="$4", nodes=NODES).wait_ready()
        self.folder = next((market.home / "market" / "clusters").glob("*"))
        self.inside = self.folder / "inside"
        self._seen = 0

    def parts(self) -> Mapping[str, list[int]]:
        """Return the outermost processes of the market's parts; a node runs beneath its device's agent."""
        agents = [device.process.pid for device in self._market.devices]
        beneath = [pid for agent in agents for pid in _children(agent)]
        assert self._market.server is not None
        postmaster = self._market.home / "market" / "postgres" / "postmaster.pid"
        return {
            "head": [_pid(self.folder, heads.HEAD)],
            "nodes": beneath,
            "agents": agents,
            "warden": [_pid(self.folder, heads.WARDEN)],
            "server": [self._market.server.pid],
            "database": [int(postmaster.read_text().splitlines()[0])],
        }

    def client(self) -> JobSubmissionClient:
        """Return a client that goes through the market, as a buyer's does."""
        return self.cluster.jobs()

    def demanded(self) -> None:
        """Do nothing: the autoscaler sees the demand."""

    def give_back(self) -> None:
        """Give the nodes back as the autoscaler does, and wait until the devices have ended them."""
        head = Api(self._market.url, (self.inside / "market.key").read_text())
        path = f"/v1/clusters/{self.cluster.id}/nodes"
        for node in head.call("GET", path)["nodes"]:
            head.call("DELETE", f"{path}/{node['node_id']}")
        wait_for(lambda: not self.parts()["nodes"], 40, "the devices to end their nodes")
        wait_for(lambda: len([n for n in self.nodes() if n["state"] == "ALIVE"]) == 1, 40, "the head to see it")

    def steps(self, demand: float) -> dict[str, float]:
        """Return when the bid was placed and when it was awarded, by the cluster's events."""
        found: dict[str, float] = {}
        for event in self.cluster.events():
            at = datetime.fromisoformat(event["at"]).timestamp()
            if event["kind"] in ("bid", "awarded") and at >= demand:
                found.setdefault(event["kind"], at)
        return found

    def nodes(self) -> list[dict[str, Any]]:
        """Return the head's list of nodes."""
        return _nodes(self.cluster.address, {"Authorization": f"Bearer {self._key}"})


def plain_command(head: heads.Head) -> str:
    """Return the market's own head command without what belongs to the market: the prober and the autoscaler."""
    _, found, command = heads._head_command(head).partition("& exec ")
    kept = [word for word in command.split(" ") if not word.startswith("--autoscaling-config=")]
    if not found or len(kept) != len(command.split(" ")) - 1:
        raise RuntimeError("the head's command has another shape now")
    return "exec " + " ".join(kept)


def _without_autoscaler(words: list[str]) -> list[str]:
    kept = list(words)
    for name in AUTOSCALING:
        at = kept.index(name)
        del kept[at - 1 : at + 2]
    return kept


def _pid(folder: Path, name: str) -> int:
    return int((folder / f"{name}.pid").read_text())


def _children(pid: int) -> list[int]:
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def _nodes(url: str, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    query = {"detail": 1, "limit": 10_000}
    answer = httpx.get(f"{url}/api/v0/nodes", headers=dict(headers), params=query, timeout=10).raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
    return found


@contextmanager
def alone(side: Side, others: Iterable[Side], *, settle_seconds: float = 2) -> Iterator[None]:
    """Let one side run while the others are frozen where they are."""
    frozen = [pid for other in others for pids in _quiet(other) for pid in pids]
    processes.freeze(frozen)
    try:
        time.sleep(settle_seconds)
        yield
    finally:
        processes.thaw(frozen)


def _quiet(side: Side) -> list[list[int]]:
    """Return what to freeze, devices first; a database that nobody asks is quiet by itself."""
    parts = side.parts()
    return [parts[name] for name in ("agents", "nodes", "warden", "server", "head") if name in parts]
