"""A job of equal tasks: prints how long they took together, in seconds, and on how many nodes they ran."""

import json
import sys
import time

import ray


@ray.remote(num_cpus=1)
def use(cpu_seconds: float) -> str:
    """Use that much of a core, by the thread's own clock: waiting for the core does not count."""
    end = time.thread_time() + cpu_seconds
    while time.thread_time() < end:
        pass
    return str(ray.get_runtime_context().get_node_id())


count, cpu_seconds = int(sys.argv[1]), float(sys.argv[2])
ray.init(log_to_driver=False)
began = time.monotonic()
nodes = ray.get([use.remote(cpu_seconds) for _ in range(count)])
print(json.dumps({"tasks_seconds": time.monotonic() - began, "nodes": len(set(nodes))}), flush=True)
