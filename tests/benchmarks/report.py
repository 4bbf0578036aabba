"""The tables: medians, ratios and targets, and where the time goes."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from tests.benchmarks.measures import PHASES, TASK_CPU_SECONDS, TASKS, Runs, median

FIRST_TASK_RATIO_MAX = 1.3
MAKESPAN_RATIO_MAX = 1.1
MEANING = {
    "to bid": "Ray's autoscaler sees the demand and bids",
    "to awarded": "the bid waits for the next tick",
    "to sandbox": "the device hears of its lease and starts the sandbox",
    "to raylet": "ray start: Python, imports, a look at the head",
    "to joined": "the raylet starts and registers",
    "to task": "a task process starts and takes the task",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: medians in seconds."""

    what: str
    plain_seconds: float
    market_seconds: float
    ratio_max: float
    runs: int
    ratio: float
    passed: bool


def rows_of(found: Mapping[str, Runs]) -> list[Row]:
    """Return the comparisons."""
    plain, market = found["plain"], found["market"]
    return [
        _row("demand → first task", plain.first_task, market.first_task, "seconds", FIRST_TASK_RATIO_MAX),
        _row("job, submitted → done", plain.makespan, market.makespan, "seconds", MAKESPAN_RATIO_MAX),
        _row("its tasks alone", plain.makespan, market.makespan, "tasks", MAKESPAN_RATIO_MAX),
    ]


def _row(what: str, plain: list[dict[str, float]], market: list[dict[str, float]], name: str, ratio_max: float) -> Row:
    without, with_ = median(plain, name), median(market, name)
    ratio = with_ / without
    return Row(what, without, with_, ratio_max, min(len(plain), len(market)), ratio, ratio <= ratio_max)


def tables(found: Mapping[str, Runs], rows: list[Row], machine: Mapping[str, str | int]) -> RenderableType:
    """Return everything for a person."""
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    return Group(_results(rows, found), _phases(found), _cores(found), about)


def _results(rows: list[Row], found: Mapping[str, Runs]) -> Table:
    table = Table(title="With the market against the same Ray without it (medians)", title_justify="left")
    table.add_column("")
    for heading in ("plain", "market", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("")
    table.add_column("every run: plain | market")
    spread = {
        rows[0].what: [[r["seconds"] for r in found[s].first_task] for s in ("plain", "market")],
        rows[1].what: [[r["seconds"] for r in found[s].makespan] for s in ("plain", "market")],
        rows[2].what: [[r["tasks"] for r in found[s].makespan] for s in ("plain", "market")],
    }
    for row in rows:
        each = " | ".join(" ".join(f"{value:.1f}" for value in side) for side in spread[row.what])
        table.add_row(
            row.what,
            f"{row.plain_seconds:.2f} s",
            f"{row.market_seconds:.2f} s",
            f"{row.ratio:.2f}",
            f"≤ {row.ratio_max}",
            "[green]pass[/green]" if row.passed else "[red]MISSED[/red]",
            each,
        )
    return table


def _phases(found: Mapping[str, Runs]) -> Table:
    table = Table(title="From demand to the first task, medians by phase", title_justify="left")
    table.add_column("until")
    table.add_column("plain", justify="right")
    table.add_column("market", justify="right")
    table.add_column("what happens")
    for name in [f"to {phase}" for phase in PHASES[1:]]:
        cells = []
        for side in ("plain", "market"):
            runs = found[side].first_task
            cells.append(f"{median(runs, name):.2f} s" if any(name in run for run in runs) else "")
        table.add_row(name.removeprefix("to "), *cells, MEANING[name])
    return table


def _cores(found: Mapping[str, Runs]) -> Table:
    work = f"{TASKS} tasks × {TASK_CPU_SECONDS} s"
    table = Table(title=f"Core seconds used during the job ({work}), medians by part", title_justify="left")
    table.add_column("part")
    table.add_column("plain", justify="right")
    table.add_column("market", justify="right")
    for name in found["market"].cores[0]:
        cells = []
        for side in ("plain", "market"):
            runs = found[side].cores
            cells.append(f"{median(runs, name):.2f} s" if any(name in run for run in runs) else "")
        table.add_row(name, *cells)
    return table
