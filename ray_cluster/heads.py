"""Start, find and stop a buyer's Ray head: one sandboxed process group a cluster, which outlives the server."""

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ray_cluster import detached
from ray_cluster.agent import sandbox
from ray_cluster.errors import Refusal

HEAD = "head"
WARDEN = "warden"
MARKET_KEY = "market.key"
# Ray gives its client server and task processes ports of its own choosing from 10002 on; heads stay below.
OBJECT_STORE_BYTES = 256 << 20
_PORTS = range(7100, 10000)
_INSIDE = Path("/tmp/spare")  # noqa: S108  the head's folder as seen inside its sandbox, where /tmp is private


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What one cluster's head is started with."""

    cluster_id: str
    folder: Path
    ip: str
    """The address that devices dial. Ray replaces 127.0.0.1 by the machine's own address; other loopback ones stay."""
    ray_token: str
    market_url: str
    market_key: str
    """A key that can only bid for this cluster."""
    warden_key: str
    """A key that can only report readings of this cluster."""
    node_types: Mapping[str, Any]
    """Device class → Ray node type, as in ray-config.yaml."""
    max_nodes: int
    idle_timeout_seconds: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where a head answers."""

    ip: str
    port: int
    dashboard_port: int
    client_port: int

    @property
    def address(self) -> str:
        """What ``ray start --address`` takes."""
        return f"{self.ip}:{self.port}"

    @property
    def dashboard_url(self) -> str:
        """Ray's dashboard and Jobs API."""
        return f"http://{self.ip}:{self.dashboard_port}"


def load_config(path: Path) -> dict[str, Any]:
    """Return the template ray-config.yaml."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def cluster_config(template: Mapping[str, Any], spec: HeadSpec) -> dict[str, Any]:
    """Fill the template in for one cluster."""
    head_type = template["head_node_type"]
    types = {head_type: template["available_node_types"][head_type]}
    for device_class, node_type in spec.node_types.items():
        resources = {**node_type["resources"], f"class:{device_class}": 1}
        types[device_class] = {**node_type, "resources": resources, "max_workers": spec.max_nodes}
    provider = {
        **template["provider"],
        "market_url": spec.market_url,
        "market_key_file": str(_INSIDE / MARKET_KEY),  # Ray writes this whole configuration into its log
        "cluster_id": spec.cluster_id,
    }
    return {
        **template,
        "cluster_name": spec.cluster_id,
        "max_workers": spec.max_nodes,
        "idle_timeout_minutes": spec.idle_timeout_seconds / 60,
        "provider": provider,
        "available_node_types": types,
    }


def start(spec: HeadSpec, template: Mapping[str, Any]) -> Head:
    """Start the head and its warden unless they run, and return where the head will answer.

    Ports are chosen once and kept in ``folder/head.json``, so a head that is asked for twice is the same head.
    Raises Refusal, with nothing started, on a machine without the sandbox.
    """
    if not running(spec.folder) and not sandbox.bubblewrap_version():
        raise Refusal("the market's machine has no bubblewrap, in which heads run: sudo apt install bubblewrap")
    spec.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    head = find(spec.folder)
    if head is None:
        head = Head(spec.ip, *_free_ports(spec.ip, 3))
        _write(spec.folder / "head.json", json.dumps(asdict(head)))
    inside = spec.folder / "inside"
    inside.mkdir(exist_ok=True, mode=0o700)
    _write(inside / MARKET_KEY, spec.market_key)
    _write(inside / "cluster.yaml", yaml.safe_dump(cluster_config(template, spec)))
    argv, options = sandbox.hide(_sandboxed(spec, _head_command(head)))
    try:
        detached.start(spec.folder, HEAD, argv, _clean_environment(), [options])
    finally:
        os.close(options)
    environment = {**_clean_environment(), **_warden_env(spec, head)}
    detached.start(spec.folder, WARDEN, [sys.executable, "-m", "ray_cluster.warden"], environment)
    return head


def find(folder: Path) -> Head | None:
    """Return where the head of this folder answers, or None when none was ever started."""
    try:
        return Head(**json.loads((folder / "head.json").read_text()))
    except FileNotFoundError:
        return None


def running(folder: Path) -> bool:
    """Return whether the head's process group lives."""
    return detached.running(folder, HEAD)


def warden_running(folder: Path) -> bool:
    """Return whether the warden lives."""
    return detached.running(folder, WARDEN)


def stop(folder: Path) -> bool:
    """Kill head and warden and return whether nothing of them is left."""
    return all([detached.stop(folder, WARDEN), detached.stop(folder, HEAD)])


def prober_socket(folder: Path) -> Path:
    """Return the socket through which the warden reaches the prober inside the sandbox."""
    return folder / "inside" / "prober.sock"


def _head_command(head: Head) -> str:
    """Return the shell line run inside the sandbox: the prober, restarted when it ends, and the head itself."""
    python = sys.executable
    prober = f"{python} -m ray_cluster.prober {head.address} {_INSIDE}/prober.sock"
    return (
        f"(while :; do {prober}; sleep 1; done) & exec {python} -m ray.scripts.scripts start --head --block"
        f" --port={head.port} --node-ip-address={head.ip} --num-cpus=0 --num-gpus=0"
        f" --object-store-memory={OBJECT_STORE_BYTES}"
        f" --dashboard-host={head.ip} --dashboard-port={head.dashboard_port} --dashboard-agent-listen-port=0"
        f" --ray-client-server-port={head.client_port} --min-worker-port=0 --max-worker-port=0"
        f" --temp-dir={_INSIDE}/ray --autoscaling-config={_INSIDE}/cluster.yaml --disable-usage-stats"
    )


def _sandboxed(spec: HeadSpec, command: str) -> list[str]:
    environment = {
        "HOME": str(_INSIDE),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": spec.ray_token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": "head",
        "RAY_NODE_TYPE_NAME": "head",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S": "5",  # a bid that no task needs any more is withdrawn
        # A dead device is noticed within about 9 s even when its connection never closes.
        "RAY_health_check_initial_delay_ms": "3000",
        "RAY_health_check_period_ms": "1500",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
    }
    box = sandbox.box_of_this_machine(environment, shm_bytes=2 * OBJECT_STORE_BYTES, tmp_bytes=1 << 30)
    etc = spec.folder / "etc"
    etc.mkdir(exist_ok=True)
    for inside, content in sandbox.SMALL_FILES.items():
        (etc / Path(inside).name).write_text(content)
    small = tuple((str(etc / Path(inside).name), inside) for inside in sandbox.SMALL_FILES)
    box = replace(
        box,
        readable=(*box.readable, *small),
        writable=((str(spec.folder / "inside"), str(_INSIDE)),),
        die_with_parent=False,
    )
    return sandbox.arguments(box, ["/bin/sh", "-c", command])


def _clean_environment() -> dict[str, str]:
    """Return the little that our own programs need: nothing of the server's secrets is inherited."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}


def _warden_env(spec: HeadSpec, head: Head) -> dict[str, str]:
    return {
        "SPARE_WARDEN_CLUSTER": spec.cluster_id,
        "SPARE_WARDEN_MARKET_URL": spec.market_url,
        "SPARE_WARDEN_KEY": spec.warden_key,
        "SPARE_WARDEN_DASHBOARD_URL": head.dashboard_url,
        "SPARE_WARDEN_RAY_TOKEN": spec.ray_token,
        "SPARE_WARDEN_PROBER": str(prober_socket(spec.folder)),
    }


def _free_ports(ip: str, count: int) -> list[int]:
    """Return free ports below Ray's own range, spread by process so that two servers rarely meet."""
    ports: list[int] = []
    offset = int.from_bytes(os.urandom(4)) % len(_PORTS)
    for step in range(len(_PORTS)):
        port = _PORTS[(offset + step) % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind((ip, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports in {_PORTS.start}–{_PORTS.stop} on {ip}")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)
