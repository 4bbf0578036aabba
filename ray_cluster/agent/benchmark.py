"""How fast this device is: a small network run with ONNX Runtime on its cores, as thousandths of a reference device."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from ray_cluster.errors import Outage

REFERENCE_FLOPS_PER_S = 200_000_000_000
"""What the reference device does in this very benchmark: one otherwise idle core of a cloud server of 2026.

A device that is as fast has ``score_millis`` 1000. The constant is a convention: it never follows new hardware.
"""

ROUND_NS = 250_000_000
ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Score:
    """A benchmark's outcome: the score, how far rounds lay apart (quartiles, per mille of the median), their number."""

    score_millis: int
    spread_millis: int
    rounds: int
    threads: int


def score(finished_ns: Sequence[int], *, flops: int, threads: int, round_ns: int, rounds: int) -> Score:
    """PURE: return the score of runs of ``flops`` operations each that finished so long after the start.

    Runs of all threads are counted in ``rounds`` rounds of ``round_ns``; the median round counts, so that a short
    disturbance does not, and cores that other programs are using do not either.
    """
    counts = [0] * rounds
    for at_ns in finished_ns:
        if 0 <= at_ns < round_ns * rounds:
            counts[at_ns // round_ns] += 1
    median = sorted(counts)[rounds // 2]
    low, _, high = statistics.quantiles(counts, n=4)
    millis = median * flops * 1_000_000_000 * 1000 // (round_ns * REFERENCE_FLOPS_PER_S)
    return Score(max(1, millis), round(1000 * (high - low) / max(1, median)), rounds, threads)


def run(threads: int) -> Score:
    """Run the benchmark on ``threads`` threads for about 2.5 seconds and return the score.

    Each thread runs a network of its own, as Ray's tasks do: one large network on many threads would measure how
    well they wait for each other.
    """
    import onnxruntime

    from ray_cluster import probe_model

    model, feed = probe_model.probe_model(), {"x": probe_model.probe_input("benchmark")}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for _ in range(threads)
    ]
    for session in sessions:
        session.run(None, feed)  # the first run allocates
    start_ns = time.perf_counter_ns()
    end_ns = start_ns + ROUND_NS * ROUNDS

    def work(session: onnxruntime.InferenceSession) -> list[int]:
        finished_ns = []
        while time.perf_counter_ns() < end_ns:
            session.run(None, feed)
            finished_ns.append(time.perf_counter_ns() - start_ns)
        return finished_ns

    with ThreadPoolExecutor(threads) as pool:
        finished_ns = [at_ns for part in pool.map(work, sessions) for at_ns in part]
    return score(finished_ns, flops=probe_model.FLOPS, threads=threads, round_ns=ROUND_NS, rounds=ROUNDS)


def run_apart(threads: int, *, timeout_s: float = 60) -> Score:
    """Run the benchmark in a process of its own, so that this long-lived program stays small; raises Outage."""
    command = [sys.executable, "-m", "ray_cluster.agent.benchmark", "--threads", str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s)
        return Score(**json.loads(done.stdout))
    except (subprocess.SubprocessError, ValueError, TypeError) as error:
        detail = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise Outage(f"the benchmark did not finish: {' '.join(detail)}", "pip install onnx onnxruntime") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    sys.stdout.write(json.dumps(asdict(run(parser.parse_args().threads))))
