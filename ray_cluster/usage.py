"""From what the warden saw of a node to when it was alive: gap-, overlap-, replay- and order-safe."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

GAP_MS_MAX = 5_000
"""Two readings further apart than this prove nothing about the time between: five readings at one a second."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Whether the head's own account had the node alive at ``at_ms`` (epoch milliseconds, the warden's clock)."""

    at_ms: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """One answered check of a node; ``at_ms`` (epoch milliseconds, the warden's clock) is when it was sent.

    A check that was sent and whose outcome is not known is no Probe.
    """

    at_ms: int
    outcome: Literal["passed", "failed"]
    detail: str = ""


def readings_in_order(readings: Iterable[Reading]) -> list[Reading]:
    """Return the readings by time, one a millisecond; where two contradict each other the node was not alive."""
    alive: dict[int, bool] = {}
    for reading in readings:
        alive[reading.at_ms] = alive.get(reading.at_ms, True) and reading.alive
    return [Reading(at_ms, alive[at_ms]) for at_ms in sorted(alive)]


def alive_spans(readings: Iterable[Reading], *, gap_ms_max: int = GAP_MS_MAX) -> tuple[tuple[int, int], ...]:
    """Return the disjoint, ordered (start_ms, end_ms) in which the node was alive.

    Alive is the time between two successive readings at most ``gap_ms_max`` apart that both saw the node alive; one
    reading alone proves no time. Raises ValueError for a negative gap.
    """
    if gap_ms_max < 0:
        raise ValueError(f"gap_ms_max {gap_ms_max} is negative")
    spans: list[tuple[int, int]] = []
    ordered = readings_in_order(readings)
    for before, after in pairwise(ordered):
        if not (before.alive and after.alive and after.at_ms - before.at_ms <= gap_ms_max):
            continue
        if spans and spans[-1][1] == before.at_ms:
            spans[-1] = (spans[-1][0], after.at_ms)
        else:
            spans.append((before.at_ms, after.at_ms))
    return tuple(spans)
