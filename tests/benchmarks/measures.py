"""The two measurements: from demand to the first task, and a job's makespan."""

import itertools
import json
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.job_submission import JobSubmissionClient

from marketplace.demo.local_market import wait_for
from ray_cluster import heads
from tests.benchmarks import processes
from tests.benchmarks.sides import NODES, Side, alone

DRIVERS = Path(__file__).parent / "drivers"
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")
PHASES = ("demand", "bid", "awarded", "sandbox", "raylet", "joined", "task")
TASKS, TASK_CPU_SECONDS = 200, 0.1


@dataclass
class Runs:
    """What was measured, run by run, of one side; each run is a number of seconds a name."""

    first_task: list[dict[str, float]] = field(default_factory=list)
    makespan: list[dict[str, float]] = field(default_factory=list)
    cores: list[dict[str, float]] = field(default_factory=list)
    """Core seconds that each part of the side used during a makespan."""


def alternate(sides: tuple[Side, Side], runs: int) -> list[Side]:
    """Return whose turn it is: A B B A A B …, so that a drift of the machine meets both alike."""
    return [sides[(number + 1) // 2 % 2] for number in range(2 * runs)]


def median(runs: Sequence[dict[str, float]], name: str) -> float:
    """Return the median of one number over the runs that have it."""
    return statistics.median(run[name] for run in runs if name in run)


def first_task(side: Side) -> dict[str, float]:
    """Measure one demand of a cluster without nodes; the returned phases end at the names they carry."""
    mark = side.inside / "demand"
    mark.unlink(missing_ok=True)
    client = side.client()
    job = _submit(client, "first_task.py", f"{heads._INSIDE}/demand")
    wait_for(mark.exists, 60, "the driver", poll_seconds=0.005)
    side.demanded()
    seen = _output(client, job)
    node = next(node for node in side.nodes() if node["node_id"] == seen["node"])
    moments = {**seen, **side.steps(seen["demand"]), "joined": node["start_time_ms"] / 1000}
    names = [name for name in PHASES if name in moments]
    spans = {f"to {b}": moments[b] - moments[a] for a, b in itertools.pairwise(names)}
    side.give_back()
    return {"seconds": moments["task"] - moments["demand"], **spans}


def makespan(side: Side, tasks: int = TASKS) -> tuple[dict[str, float], dict[str, float]]:
    """Measure one job on nodes that have joined: its seconds, and the core seconds of each part meanwhile."""
    parts = side.parts()
    before = {name: processes.cpu_seconds(pids) for name, pids in parts.items()}
    client = side.client()
    began = time.time()
    job = _submit(client, "tasks.py", str(tasks), str(TASK_CPU_SECONDS))
    said = _output(client, job)
    if said["nodes"] != NODES:
        raise RuntimeError(f"the {side.name} job ran on {said['nodes']} nodes, not on {NODES}")
    ended = (client.get_job_info(job).end_time or 0) / 1000
    cores = {name: processes.cpu_seconds(pids) - before[name] for name, pids in parts.items()}
    if "agents" in cores:
        cores["agents"] -= cores["nodes"]  # the nodes run beneath them
    return {"seconds": ended - began, "tasks": said["tasks_seconds"]}, cores


def fill(side: Side) -> None:
    """Bring all nodes in and let each run a task."""
    for _ in range(NODES):
        side.demanded()
    client = side.client()
    for _ in range(5):
        said = _output(client, _submit(client, "tasks.py", "20", str(TASK_CPU_SECONDS)))
        if said["nodes"] == NODES:
            return
    raise RuntimeError(f"the {side.name} cluster has not all its nodes")


def measure(plain: Side, market: Side, *, runs: int, tell: Callable[[str], None]) -> dict[str, Runs]:
    """Measure everything, the sides in turn, the one that waits frozen; ``tell`` hears each number as it comes."""
    found = {plain.name: Runs(), market.name: Runs()}
    other = {plain.name: market, market.name: plain}
    for side in alternate((plain, market), runs):
        with alone(side, [other[side.name]]):
            found[side.name].first_task.append(seen := first_task(side))
        tell(f"{side.name}: {seen['seconds']:.2f} s from demand to the first task")
    for side in (plain, market):
        with alone(side, [other[side.name]]):
            fill(side)
        tell(f"{side.name}: {NODES} nodes have joined")
    for side in alternate((market, plain), runs):
        with alone(side, [other[side.name]]):
            seconds, cores = makespan(side)
            found[side.name].makespan.append(seconds)
            found[side.name].cores.append(cores)
        tell(f"{side.name}: {seconds['seconds']:.2f} s for a job, {seconds['tasks']:.2f} s for its tasks")
    return found


def _submit(client: JobSubmissionClient, driver: str, *arguments: str) -> str:
    """Submit a driver by its text: no package to upload, so that nothing but the cluster is measured."""
    text = (DRIVERS / driver).read_text()
    return str(client.submit_job(entrypoint=shlex.join(["python", "-c", text, *arguments])))


def _output(client: JobSubmissionClient, job: str) -> Any:
    """Wait for a job and return the JSON of its last line."""
    wait_for(lambda: client.get_job_status(job).value in FINISHED, 90, f"job {job}", poll_seconds=1.0)
    log = client.get_job_logs(job)
    if client.get_job_status(job).value != "SUCCEEDED":
        raise RuntimeError(f"job {job}:\n{log[-2000:]}")
    return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])
