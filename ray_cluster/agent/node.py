"""A lease as the market wants it here, and a Ray node as it runs here: frozen values, and how they are read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from ray_cluster.errors import InvalidInput

Phase = Literal["starting", "running", "stopped", "failed"]
Wish = Literal["run", "drain"]
Ending = Literal["no", "drain", "stop"]

LEASES_MAX = 16
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_ADDRESS = re.compile(r"[A-Za-z0-9_.\-\[\]:]{1,255}:\d{1,5}")
_IP = re.compile(r"([0-9A-Fa-f.:]{2,45})?")  # empty lets Ray find it


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease that the market wants this device to serve; sizes in bytes, times in epoch milliseconds."""

    lease_id: str
    node_id: str
    cluster_id: str
    device_class: str
    state: Wish
    ends_at_ms: int
    head_address: str
    node_ip: str
    ray_token: str = field(repr=False)
    cpus: int
    memory_bytes: int
    gpus: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """One Ray node of this device: which lease it serves now and how far it got."""

    node_id: str
    lease_id: str
    ends_at_ms: int
    phase: Phase
    cpus: int
    ending: Ending = "no"
    claimed_ms: int = 0
    detail: str = ""

    @property
    def live(self) -> bool:
        """Whether it still has a process here."""
        return self.phase in ("starting", "running")

    def as_json(self) -> dict[str, object]:
        """Return its entry in the ``state`` frame."""
        return {
            "node_id": self.node_id,
            "lease_id": self.lease_id,
            "phase": self.phase,
            "claimed_ms": self.claimed_ms,
            "detail": self.detail[:500],
        }


def read_leases(frame: Mapping[str, object]) -> tuple[Lease, ...]:
    """Read a ``leases`` frame; raises InvalidInput when any part of it is malformed (then none of it counts)."""
    rows = frame.get("leases")
    if not isinstance(rows, list) or len(rows) > LEASES_MAX:
        raise InvalidInput(f"a leases frame must carry a list of at most {LEASES_MAX} leases")
    leases = tuple(read_lease(row) for row in rows)
    if len({lease.node_id for lease in leases}) != len(leases):
        raise InvalidInput("a leases frame names one node twice")
    return leases


def read_lease(row: object) -> Lease:
    """Read one entry of a ``leases`` frame; raises InvalidInput when it is malformed."""
    if not isinstance(row, dict):
        raise InvalidInput("a lease must be an object")
    state = row.get("state")
    if state not in ("run", "drain"):
        raise InvalidInput("a lease's state must be run or drain")
    return Lease(
        lease_id=_text(row, "lease_id", _ID),
        node_id=_text(row, "node_id", _ID),
        cluster_id=_text(row, "cluster_id", _ID),
        device_class=_text(row, "device_class", _ID),
        state=cast(Wish, state),
        ends_at_ms=_count(row, "ends_at_ms"),
        head_address=_text(row, "head_address", _ADDRESS),
        node_ip=_text(row, "node_ip", _IP),
        ray_token=_text(row, "ray_token", re.compile(r"[\x21-\x7e]{1,512}")),
        cpus=_count(row, "cpus"),
        memory_bytes=_count(row, "memory_bytes"),
        gpus=_count(row, "gpus"),
        resources={key: _as_count(key, value) for key, value in _table(row, "resources").items()},
        labels={key: str(value) for key, value in _table(row, "labels").items()},
    )


def _text(row: Mapping[str, object], key: str, shape: re.Pattern[str]) -> str:
    value = row.get(key)
    if not isinstance(value, str) or shape.fullmatch(value) is None:
        raise InvalidInput(f"a lease's {key} is malformed")
    return value


def _count(row: Mapping[str, object], key: str) -> int:
    return _as_count(key, row.get(key, 0))


def _as_count(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise InvalidInput(f"a lease's {key} must be a whole number, not below zero")
    return value


def _table(row: Mapping[str, object], key: str) -> dict[str, object]:
    value = row.get(key) or {}
    if not isinstance(value, dict) or len(value) > 32 or not all(isinstance(name, str) for name in value):
        raise InvalidInput(f"a lease's {key} must be a small object")
    return value
