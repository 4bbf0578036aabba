"""Whether this device can serve: named checks, each with what was found and how to mend it."""

import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from ray_cluster.agent import sandbox
from ray_cluster.agent.facts import GIB, Facts

RAY_VERSION = "2.60.0"
PYTHON_MIN, PYTHON_END = (3, 11), (3, 14)
DISK_BYTES_MIN = GIB
SKEW_MS_MAX = 5_000
RELEASED_AT_S = 1_760_000_000  # no clock that is right shows a time before this program was written


@dataclass(frozen=True, slots=True)
class Check:
    """One named check: whether it passed, what was found, and what to do when it did not."""

    name: str
    passed: bool
    found: str
    mend: str


def run(facts: Facts, state_dir: Path, *, sandboxed: bool = True, skew_ms: int | None = None) -> tuple[Check, ...]:
    """Run every check; ``skew_ms`` is how far this clock is ahead of the market's, when that is known."""
    checks = [_system(), _python(), _ray(facts), _memory(facts), _disk(state_dir), _clock(skew_ms)]
    if sandboxed:
        checks.insert(3, _sandbox())
    return tuple(checks)


def as_json(checks: tuple[Check, ...]) -> dict[str, object]:
    """Return the checks as one JSON object."""
    return {"passed": all(check.passed for check in checks), "checks": [asdict(check) for check in checks]}


def as_table(checks: tuple[Check, ...]) -> Table:
    """Return the checks as a table for a terminal."""
    table = Table(title="Self-test", show_edge=False, pad_edge=False, title_justify="left")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column)
    for check in checks:
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        table.add_row(check.name, mark, check.found, "" if check.passed else check.mend)
    return table


def _system() -> Check:
    mend = "several Ray nodes form a cluster on Linux only: use WSL 2 or a virtual machine"
    return Check("linux", sys.platform == "linux", sys.platform, mend)


def _python() -> Check:
    version = sys.version_info[:2]
    low, end = (".".join(map(str, bound)) for bound in (PYTHON_MIN, PYTHON_END))
    found = ".".join(map(str, version))
    return Check("python", PYTHON_MIN <= version < PYTHON_END, found, f"install {low} ≤ Python < {end}")


def _ray(facts: Facts) -> Check:
    mend = f"{sys.executable} -m pip install 'ray[default]=={RAY_VERSION}'"
    return Check("ray", facts.ray == RAY_VERSION, facts.ray or "not installed", mend)


def _memory(facts: Facts) -> Check:
    found = f"{facts.memory_bytes / GIB:.1f} GiB"
    return Check("memory", facts.memory_bytes >= GIB, found, "a node needs 1 GiB: offer more with --memory")


def _disk(state_dir: Path) -> Check:
    free_bytes = shutil.disk_usage(state_dir).free
    return Check("disk", free_bytes >= DISK_BYTES_MIN, f"{free_bytes / GIB:.1f} GiB free", f"free 1 GiB at {state_dir}")


def _clock(skew_ms: int | None) -> Check:
    mend = "sudo timedatectl set-ntp true"
    if time.time() < RELEASED_AT_S:
        return Check("clock", False, time.strftime("%Y-%m-%d", time.gmtime()), mend)
    if skew_ms is None:
        return Check("clock", True, "plausible; not compared with the market's", mend)
    return Check("clock", abs(skew_ms) <= SKEW_MS_MAX, f"{abs(skew_ms) / 1000:.0f} s from the market's", mend)


def _sandbox() -> Check:
    version = sandbox.bubblewrap_version()
    if not version:
        return Check("sandbox", False, "no bubblewrap", "sudo apt install bubblewrap   (or dnf, pacman, zypper)")
    found = f"bubblewrap {'.'.join(map(str, version))}"
    try:
        done = sandbox.run([sys.executable, "-c", "print('inside')"])
    except (OSError, subprocess.SubprocessError) as error:
        return Check("sandbox", False, f"{found}: {error}", "see --no-sandbox for what running without one means")
    if done.returncode == 0 and done.stdout.strip() == "inside":
        return Check("sandbox", True, f"{found}, works", "")
    reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return Check("sandbox", False, f"{found}: {reason}", _allow_namespaces())


def _allow_namespaces() -> str:
    if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000"
