"""The operator's eye in a cluster: who has joined, who is alive, whose answers are right.

Runs outside the head's sandbox, one process a cluster. It reads membership as JSON from the head's dashboard, sends
challenges through the prober, judges the answers itself, and reports what it saw to the market. It decides nothing
about money, and it never unpickles anything.
"""

import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic_settings import BaseSettings, SettingsConfigDict

from ray_cluster import challenge
from ray_cluster.node_labels import NODE_LABEL, PROBE_CLASS

LOOK_SECONDS = 1.0
REPORT_SECONDS = 2.0
PROBE_SECONDS = 5.0
PROBE_TIMEOUT_SECONDS = 12.0
"""Generous: a probe shares the device with the buyer's work. Too slow is a missing answer, not a wrong one."""
ANSWER_BYTES_MAX = 32 << 20
BUFFER_MAX = 100_000
"""Readings kept while the market does not answer; then the oldest are dropped and those seconds stay unknown."""


class WardenSettings(BaseSettings):
    """What a warden is started with (``SPARE_WARDEN_*``)."""

    model_config = SettingsConfigDict(env_prefix="SPARE_WARDEN_")

    cluster: str
    market_url: str
    key: str
    dashboard_url: str
    ray_token: str
    prober: str


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the head knows it."""

    ray_node_id: str
    node_id: str
    alive: bool
    busy: bool


@dataclass
class Reports:
    """What was seen and not yet acknowledged by the market."""

    readings: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)

    def trim(self) -> None:
        """Keep the newest ``BUFFER_MAX`` of each."""
        del self.readings[:-BUFFER_MAX], self.probes[:-BUFFER_MAX]


def members(nodes: Any, usage: dict[str, str], actors: Any) -> list[Member]:
    """Return the cluster's nodes from the dashboard's JSON.

    A node is busy when any logical resource is in use or an actor other than the probe lives there.
    """
    with_actors = {a["node_id"] for a in actors if a["state"] == "ALIVE" and a["class_name"] != PROBE_CLASS}
    found = []
    for node in nodes:
        node_id = (node.get("labels") or {}).get(NODE_LABEL)
        if node_id:
            ray_id = node["node_id"]
            busy = ray_id in with_actors or _in_use(usage.get(ray_id, ""))
            found.append(Member(ray_id, node_id, node["state"] == "ALIVE", busy))
    return found


def _in_use(usage: str) -> bool:
    """Return whether a usage text such as ``0.5/1.0 CPU`` (a line a resource) shows anything in use."""
    for line in usage.splitlines():
        used = line.split("/", 1)[0].strip()
        if "CPU" in line or "GPU" in line or "class:" in line:
            try:
                if float(used) > 0:
                    return True
            except ValueError:
                continue
    return False


def judge_answer(seed: str, answer: dict[str, Any]) -> tuple[str, str]:
    """Return (outcome, detail): ``passed``, ``failed``, or ``missing`` when there was no answer to judge."""
    if not isinstance(answer.get("output"), str):
        return "missing", str(answer.get("detail", "no answer"))[:300]
    wrong = challenge.judge(seed, answer["output"])
    return ("failed", wrong) if wrong else ("passed", "")


class Warden:
    """Looks, probes and reports until stopped. The market may be away for a while: nothing seen is lost."""

    def __init__(self, settings: WardenSettings, now_ms: Callable[[], int]) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._market = httpx.Client(
            base_url=settings.market_url, headers={"Authorization": f"Bearer {settings.key}"}, timeout=10
        )
        self._head = httpx.Client(
            base_url=settings.dashboard_url, headers={"Authorization": f"Bearer {settings.ray_token}"}, timeout=5
        )
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="probe")
        self._out: dict[str, Future[dict[str, Any]]] = {}
        self._due: dict[str, float] = {}
        self._over: set[str] = set()
        self._released: set[str] = set()
        self._reports = Reports()

    def look(self) -> None:
        """Read the head once: one reading a node, and a challenge for each that is due."""
        at_ms = self._now_ms()
        for member in self._members():
            self._reports.readings.append(
                {"node_id": member.node_id, "at_ms": at_ms, "alive": member.alive, "busy": member.busy}
            )
            if not member.alive or member.node_id in self._out:
                continue
            if member.node_id in self._over:
                self._release(member)
            elif time.monotonic() >= self._due.get(member.node_id, 0):
                self._due[member.node_id] = time.monotonic() + PROBE_SECONDS
                self._out[member.node_id] = self._pool.submit(self._probe, member)
        for node_id, future in list(self._out.items()):
            if future.done():
                del self._out[node_id]
                probe = future.result()
                if probe["outcome"] == "missing":
                    self._due[node_id] = 0  # ask again at once: nothing was learnt
                else:
                    self._reports.probes.append(probe)

    def _members(self) -> list[Member]:
        nodes = self._look_at("/api/v0/nodes", {"detail": 1, "limit": 10_000})
        usage = self._look_at("/nodes", {"view": "summary"})
        actors = self._look_at("/api/v0/actors", {"limit": 10_000})
        return members(
            nodes["data"]["result"]["result"],
            usage["data"]["nodeLogicalResources"],
            actors["data"]["result"]["result"],
        )

    def _look_at(self, path: str, query: dict[str, str | int]) -> Any:
        """Return JSON of the dashboard. A buyer's code runs beside it, so its answers have a limit too."""
        body = bytearray()
        with self._head.stream("GET", path, params=query) as answer:
            answer.raise_for_status()
            for part in answer.iter_bytes():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise ValueError(f"{path} answers with more than {ANSWER_BYTES_MAX} bytes")
        return json.loads(body)

    def _probe(self, member: Member) -> dict[str, Any]:
        seed, at_ms = secrets.token_hex(16), self._now_ms()
        request = {"node": member.ray_node_id, "seed": seed, "timeout_seconds": PROBE_TIMEOUT_SECONDS}
        answer = self._ask(request)
        outcome, detail = judge_answer(seed, answer)
        return {"node_id": member.node_id, "at_ms": at_ms, "outcome": outcome, "detail": detail}

    def _release(self, member: Member) -> None:
        """Let a node go whose leases are over, once: its probe would keep it from draining."""
        if member.node_id not in self._released:
            self._released.add(member.node_id)
            self._pool.submit(self._ask, {"node": member.ray_node_id, "release": True})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the prober's answer; ``detail`` says why there is none."""
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(PROBE_TIMEOUT_SECONDS + 2)
                line.connect(self._settings.prober)
                line.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(line.makefile("rb").readline(ANSWER_BYTES_MAX))
                return answer if isinstance(answer, dict) else {"detail": "the answer is no object"}
        except (OSError, ValueError) as problem:
            return {"detail": f"{type(problem).__name__}: {problem}"}

    def report(self) -> None:
        """Send what was seen; it is kept until the market has acknowledged it."""
        self._reports.trim()
        readings, probes = self._reports.readings[:2000], self._reports.probes[:2000]
        if not readings and not probes:
            return
        body = {"cluster_id": self._settings.cluster, "readings": readings, "probes": probes}
        answer = self._market.post("/v1/warden/readings", json=body).raise_for_status().json()
        self._over.update(answer["over"])
        del self._reports.readings[: len(readings)], self._reports.probes[: len(probes)]

    def run(self) -> None:
        """Look and report once a second until the market says that the cluster is over.

        Reports have a thread of their own: a market that is slow to answer must not keep the warden from looking.
        """
        over = threading.Event()
        threading.Thread(target=self._keep_reporting, args=(over,), name="report", daemon=True).start()
        while not over.is_set():
            began = time.monotonic()
            try:
                self.look()
            except (httpx.HTTPError, KeyError, ValueError, TypeError, AttributeError) as problem:
                print(f"cannot see the cluster: {type(problem).__name__}: {problem}", file=sys.stderr)
            over.wait(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))

    def _keep_reporting(self, over: threading.Event) -> None:
        while not over.wait(REPORT_SECONDS):
            try:
                self.report()
            except httpx.HTTPStatusError as problem:
                if problem.response.status_code in (401, 404, 410):
                    over.set()
                print(f"the market refused a report: {problem.response.text[:300]}", file=sys.stderr)
            except httpx.HTTPError as problem:
                print(f"the market does not answer: {type(problem).__name__}", file=sys.stderr)


def main() -> None:
    """Run one warden from its environment."""
    Warden(WardenSettings(), lambda: time.time_ns() // 1_000_000).run()


if __name__ == "__main__":
    main()
