"""What is traded: hardware kind × region × trust tier, as the node types of ray-config.yaml say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from billing.errors import InvalidInput
from ray_cluster.heads import load_config

TrustTier = Literal["vetted", "open"]
CONFIG_PATH = Path(__file__).parent.parent / "ray-config.yaml"
_REGION = re.compile(r"[a-z]{2}")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a device has."""

    cpus: int
    memory_bytes: int
    gpus: int = 0
    gpu_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """A hardware kind, such as ``cpu-2c-4g``: what its devices have at least, and the Ray node type."""

    name: str
    needs: Hardware
    node_type: Mapping[str, Any]


@lru_cache(maxsize=1)
def template() -> dict[str, Any]:
    """Return ray-config.yaml."""
    return load_config(CONFIG_PATH)


@lru_cache(maxsize=1)
def kinds() -> dict[str, Kind]:
    """Return every hardware kind by name, smallest first."""
    config = template()
    found = {}
    for device_class, node_type in config["available_node_types"].items():
        if device_class != config["head_node_type"]:
            name = device_class.split(".")[0]
            resources = node_type["resources"]
            gpu = re.fullmatch(r"gpu-(\d+)g", name)
            needs = Hardware(
                int(resources["CPU"]),
                int(resources["memory"]) * 5 // 4,  # the node type leaves out a fifth for the object store
                int(resources.get("GPU", 0)),
                int(gpu[1]) * 1024**3 if gpu else 0,
            )
            found[name] = Kind(name, needs, node_type)
    return found


def name_class(hardware: Hardware, *, region: str, trust: TrustTier) -> str:
    """Return the class of a device: the largest kind that it satisfies.

    A tenth less memory is allowed, since systems keep some of what was built in. Raises InvalidInput when the device
    is smaller than every kind, or for a region that is not two lower-case letters.
    """
    check_region(region)
    fitting = [kind for kind in kinds().values() if _fits(hardware, kind.needs)]
    if not fitting:
        smallest = next(iter(kinds().values()))
        raise InvalidInput(
            f"{hardware.cpus} cores and {hardware.memory_bytes / 1e9:.1f} GB are less than the smallest class, "
            f"{smallest.name}",
            hint="offer more cores and memory with --cpus and --memory",
        )
    return f"{fitting[-1].name}.{region}.{trust}"


def check_region(region: str) -> str:
    """Return the region. Raises InvalidInput unless it is two lower-case letters."""
    if not _REGION.fullmatch(region):
        raise InvalidInput(f"{region[:20]!r} is not a region", hint="write two lower-case letters, such as eu")
    return region


def kind_of(device_class: str) -> Kind:
    """Return the hardware kind of a class name. Raises InvalidInput for an unknown one."""
    name, *rest = device_class.split(".")
    if name not in kinds() or len(rest) != 2 or not _REGION.fullmatch(rest[0]) or rest[1] not in ("vetted", "open"):
        raise InvalidInput(
            f"{device_class[:60]!r} is not a device class", hint=f"such as {next(iter(kinds()))}.eu.vetted"
        )
    return kinds()[name]


def node_types(region: str, trust: TrustTier, names: list[str]) -> dict[str, Any]:
    """Return Ray's node types for the named kinds (all when empty) in one region and trust tier."""
    return {
        f"{kind.name}.{region}.{trust}": dict(kind.node_type)
        for kind in kinds().values()
        if not names or kind.name in names
    }


def _fits(has: Hardware, needs: Hardware) -> bool:
    return (
        has.cpus >= needs.cpus
        and has.memory_bytes >= needs.memory_bytes * 9 // 10
        and has.gpus >= needs.gpus
        and (needs.gpus > 0 or has.gpus == 0)
        and has.gpu_memory_bytes >= needs.gpu_memory_bytes * 9 // 10
    )
