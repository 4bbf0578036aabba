"""What this device is: cores, memory and versions, measured, or smaller when the provider offers only a part."""

import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ray_cluster.errors import InvalidInput

GIB = 1 << 30
MEMORY_BYTES_MIN = GIB
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": GIB, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device offers; GPUs are not offered by this version, so they are counted as none."""

    cpus: int
    memory_bytes: int
    gpus: int
    gpu_memory_bytes: int
    system: str
    python: str
    ray: str

    def as_json(self) -> dict[str, object]:
        """Return the facts as the market's API takes them."""
        return asdict(self)


def measure(cpus: int | None = None, memory_bytes: int | None = None) -> Facts:
    """Measure this device; an offer of fewer cores or less memory (bytes) replaces what was measured.

    Raises InvalidInput when the offer is larger than the device.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total_bytes = memory_limit_bytes()
    if cpus is not None and not 1 <= cpus <= cores:
        raise InvalidInput(f"--cpus {cpus} is not between 1 and this device's {cores}", f"try --cpus {cores}")
    if memory_bytes is not None and not MEMORY_BYTES_MIN <= memory_bytes <= total_bytes:
        top = total_bytes // GIB
        raise InvalidInput(f"--memory is not between 1g and this device's {top}g", f"try --memory {max(1, top // 2)}g")
    return Facts(
        cpus=cpus or cores,
        memory_bytes=memory_bytes or total_bytes,
        gpus=0,
        gpu_memory_bytes=0,
        system=sys.platform,
        python=platform.python_version(),
        ray=ray_version(),
    )


def memory_limit_bytes() -> int:
    """Return this machine's memory, or the limit of the control group this program runs in when that is less."""
    total = int(psutil.virtual_memory().total)
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
    return total


def ray_version() -> str:
    """Return the installed Ray's version without importing Ray, or an empty text."""
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return ""


def parse_memory_bytes(text: str) -> int:
    """Read ``4g``, ``1.5 GiB``, ``800m`` (powers of 1024) as bytes; raises InvalidInput otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise InvalidInput(f"cannot read the memory size {text!r}", "write it like --memory 4g")
    return int(float(match[1]) * _UNITS[match[2]])
