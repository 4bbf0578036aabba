"""A job that asks a cluster without nodes for one task, and prints when what happened, in epoch seconds."""

import json
import os
import sys
import time
from pathlib import Path

import ray


@ray.remote(num_cpus=1)
def look() -> dict[str, object]:
    """When this began, when the raylet above it began, and when the sandbox around both did."""
    task = time.time()
    boot = task - time.clock_gettime(time.CLOCK_BOOTTIME)

    def stat(pid: int) -> tuple[str, int, float]:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        return name, int(fields[1]), boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")

    name, parent, raylet = stat(os.getppid())
    while name != "raylet" and parent > 1:
        name, parent, raylet = stat(parent)
    node = ray.get_runtime_context().get_node_id()
    return {"task": task, "raylet": raylet, "sandbox": stat(1)[2], "node": node}


ray.init(log_to_driver=False)
demand = time.time()
Path(sys.argv[1]).write_text(str(demand))
seen = ray.get(look.remote())
print(json.dumps({"demand": demand, **seen}), flush=True)
