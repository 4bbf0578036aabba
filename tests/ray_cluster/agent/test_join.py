"""Real Ray: a sandboxed node joins a real head, serves a task, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_cluster.agent.device import Device
from ray_cluster.agent.manual import ManualNode
from ray_cluster.agent.node import Lease
from ray_cluster.agent.ray_start import RayNode, processes_of
from ray_cluster.agent.reconcile import Start

pytestmark = pytest.mark.e2e

LOOK = """
import json, os, ray
ray.init(address=os.environ["HEAD"], log_to_driver=False)

@ray.remote(num_cpus=1, resources={"class:cpu-1c-2g.eu.open": 0.01})
def look(host_file):
    import os
    home = os.environ["HOME"]
    return [os.uname().nodename, os.listdir(home), os.getuid(), os.environ["RAY_CLOUD_INSTANCE_ID"],
            "PROVIDER_SECRET" in os.environ, os.path.exists("/etc/shadow"), os.path.exists(host_file)]

print(json.dumps(ray.get(look.remote(os.environ["HOST_FILE"]), timeout=60)))
"""


async def drive(script: str, head: Any) -> list[object]:
    """Run a driver on the head's cluster and return what it printed."""
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token, "RAY_USAGE_STATS_ENABLED": "0"}
    driver = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        env=os.environ | settings | {"HEAD": head.address, "HOST_FILE": __file__},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(driver.communicate(), 90)
    found: list[object] = json.loads(out.decode().splitlines()[-1])
    return found


@pytest.mark.parametrize(("sandboxed", "node_ip"), [(True, ""), (False, "127.0.0.1")])
async def test_a_node_joins_serves_and_leaves_nothing(
    head: Any, lease: Callable[..., Lease], until: Any, sandboxed: bool, node_ip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task runs on the node, sees nothing of the provider when sandboxed, and after the end no process is left.

    Without an address Ray finds the node's own.
    """
    monkeypatch.setenv("PROVIDER_SECRET", "1")
    node_id = f"nd_{os.urandom(4).hex()}"
    made = lease(head_address=head.address, ray_token=head.token, node_id=node_id, node_ip=node_ip)
    node = RayNode(made, sandboxed=sandboxed)
    await node.start()
    try:
        await asyncio.wait_for(node.started.wait(), 60)
        saw = await drive(LOOK, head)
        members = [process.pid for process in psutil.Process(node.pid).children(recursive=True)]
        assert len(members) >= 4
        assert node.served()
        lines = [" ".join(process.cmdline()) for process in processes_of(node.lease.node_id)]
        assert not any(head.token in line for line in [*lines, " ".join(psutil.Process(node.pid).cmdline())])
        if sandboxed:
            assert saw == ["spare", [], 1000, node.lease.node_id, False, False, False]
        else:
            assert saw[3:5] == [node.lease.node_id, False]
        await node.end(30)
    finally:
        node.kill()
        await node.wait()
    await until(lambda: not any(_alive(pid) for pid in members), limit_s=2)
    assert processes_of(node.lease.node_id) == []


async def test_a_command_pasted_by_hand_serves_too(head: Any, lease: Callable[..., Lease]) -> None:
    """The shown shell line joins as it stands; the agent sees it come, and ends it like its own."""
    shown: list[str] = []
    one = lease(head_address=head.address, ray_token=head.token, node_id=f"nd_{os.urandom(4).hex()}")
    node = ManualNode(one, sandboxed=True, show=shown.append)
    await node.start()
    ended = asyncio.create_task(node.wait())
    shell = await asyncio.create_subprocess_shell(shown[0], stdout=asyncio.subprocess.DEVNULL, stderr=-2)
    try:
        await asyncio.wait_for(node.started.wait(), 60)
        await node.end(30)
        assert await asyncio.wait_for(ended, 10) == 0
    finally:
        node.kill()
        await shell.wait()
    assert processes_of(one.node_id) == []


async def test_a_node_whose_head_is_not_there_says_so(lease: Callable[..., Lease]) -> None:
    """A head that cannot be reached is a failure with a reason, within a limit, and leaves nothing running."""
    changed = asyncio.Event()
    one = lease(head_address="127.0.0.1:9", node_id=f"nd_{os.urandom(4).hex()}")
    device = Device(lambda lease: RayNode(lease, sandboxed=True), changed.set, join_s_max=4)
    device.apply(Start(one))
    await asyncio.wait_for(changed.wait(), 30)
    (node,) = device.nodes().values()
    assert (node.phase, node.claimed_ms) == ("failed", 0)
    assert "did not join within 4 s" in node.detail
    assert processes_of(one.node_id) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_the_whole_program_ends_clean(
    head: Any, http_market: Any, row: Callable[..., dict[str, object]], until: Any, tmp_path: Path, number: int
) -> None:
    """``join`` enrols, serves with real Ray, and however it is ended, even by SIGKILL, no process of it is left."""
    node_id = f"nd_{os.urandom(4).hex()}"
    http_market.leases = [row(node_id=node_id, head_address=head.address, ray_token=head.token)]
    command = [sys.executable, "-m", "ray_cluster.agent.main", http_market.url, "--cpus", "1", "--memory", "2g"]
    program = await asyncio.create_subprocess_exec(
        *command,
        *("--state-dir", str(tmp_path), "--token", "tk_1", "--price", "0.02"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: http_market.phases() == {node_id: "running"}, limit_s=60)
        assert processes_of(node_id)
        program.send_signal(number)
        out, err = await asyncio.wait_for(program.communicate(), 40)
    finally:
        if program.returncode is None:
            program.kill()
    await until(lambda: not processes_of(node_id))
    said = [json.loads(line)["event"] for line in out.decode().splitlines()]
    assert err == b""
    assert said[:5] == ["selftest", "shared", "benchmark", "enrolled", "linked"]
    assert http_market.body["reserve_micros_per_hour"] == 20_000
    if number == signal.SIGKILL:
        assert program.returncode == -signal.SIGKILL
    else:
        assert program.returncode == 0
        assert said[-1] == "left"
        assert http_market.phases() == {node_id: "stopped"}
        assert {"type": "leaving"} in http_market.frames


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
