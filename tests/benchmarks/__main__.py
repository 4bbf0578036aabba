"""``python -m tests.benchmarks``: measure, print the tables, and fail when a target is missed."""

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console

from marketplace.demo import local_market
from tests.benchmarks.measures import Runs, measure
from tests.benchmarks.report import rows_of, tables
from tests.benchmarks.sides import Bought, Plain

SECONDS_MAX = 335
"""Then it gives up and cleans up, so that all of it ends within six minutes."""
# A side that waits is frozen for longer than a device may be silent; thawed, it need not wait for them to come back.
SETTINGS = {"SPARE_DEVICE_SILENCE_MS_MAX": "600000", "SPARE_RECONNECT_MS": "0"}


def run(runs: int, tell: Callable[[str], None]) -> dict[str, Runs]:
    """Start both clusters, measure, and leave nothing behind."""
    home = Path(tempfile.mkdtemp(prefix="spare-bench-", dir="/tmp"))
    plain = Plain(home / "plain")
    try:
        plain.start()
        tell("the plain head answers")
        with local_market.running(settings=SETTINGS) as market:
            bought = Bought(market)
            tell("the market's devices are linked and its cluster is open")
            found = measure(plain, bought, runs=runs, tell=tell)
            with suppress(TimeoutError):
                bought.give_back()  # else each device drains its node for half a minute while it leaves
        tell("the market has ended")
        return found
    finally:
        plain.stop()
        shutil.rmtree(home, ignore_errors=True)


def about() -> dict[str, str | int]:
    """Return what the numbers depend on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": psutil.cpu_count() or 0,
        "processor": model,
        "memory_gib": psutil.virtual_memory().total >> 30,
        "python": platform.python_version(),
    }


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(f"ended by signal {signal.Signals(number).name}: what was started is being stopped")


def main() -> int:
    """Run the command line; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run and the medians here")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side and measurement")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _end)
    signal.alarm(SECONDS_MAX)
    began = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)

    def tell(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {text}", highlight=False, style="dim")

    found, machine = run(arguments.runs, tell), about()
    signal.alarm(0)
    rows = rows_of(found)
    console.print(tables(found, rows, machine), highlight=False)
    console.print(f"{time.monotonic() - began:.0f} s in all.", highlight=False)
    if arguments.json:
        sides = {name: asdict(side) for name, side in found.items()}
        record = {"machine": machine, "results": [asdict(row) for row in rows], "runs": sides}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
