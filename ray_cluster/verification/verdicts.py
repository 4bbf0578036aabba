"""A lease's windows and their verdicts: verified, failed or unknown, each with its reason."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ray_cluster.usage import GAP_MS_MAX, Probe, Reading, alive_spans, readings_in_order

WINDOW_MS = 10_000
"""A usage window: short enough that a lost device costs its provider little, long enough to lie between two checks."""

Verdict = Literal["verified", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Window:
    """[start_ms, end_ms) of a lease in epoch milliseconds; times in ``reason`` count from the lease's start."""

    start_ms: int
    end_ms: int
    verdict: Verdict
    reason: str


def verified_ms(windows: Iterable[Window]) -> int:
    """Return how many milliseconds of the windows are verified."""
    return sum(window.end_ms - window.start_ms for window in windows if window.verdict == "verified")


def judge(
    *,
    start_ms: int,
    end_ms: int,
    window_ms: int = WINDOW_MS,
    readings: Iterable[Reading],
    probes: Iterable[Probe],
    gap_ms_max: int = GAP_MS_MAX,
    closed: bool,
) -> tuple[Window, ...]:
    """Judge the lease [start_ms, end_ms) of one node; all times in epoch milliseconds.

    Pass every reading and probe of the node, those before and after the lease too: under a renewal the node lives on,
    so an earlier check starts the clock at once and a later one vouches for the last window.

    The clock starts at the first passed check of a node seen alive; from there run windows of ``window_ms``. A window
    is verified when the node was alive throughout and it lies between two passed checks with no failed one between
    them; failed when there is a failed one; else unknown. One that is not verified is cut at the last passed check up
    to which it is, so a lost device loses only what came after.

    While the lease is not ``closed``, windows that may still become verified are left out. Given that readings, and
    likewise probes, become known in the order of their times (so: one probe of a node at a time), what is verified
    stays verified whatever becomes known later.

    Raises ValueError for a lease that ends before it starts or a window that is not positive.
    """
    if end_ms < start_ms or window_ms < 1:
        raise ValueError(f"lease {start_ms}..{end_ms} with windows of {window_ms} ms")
    evidence = _Evidence(readings, probes, gap_ms_max=gap_ms_max, origin_ms=start_ms)
    return tuple(_windows(evidence, start_ms, end_ms, window_ms, closed=closed))


def _windows(evidence: "_Evidence", start_ms: int, end_ms: int, window_ms: int, *, closed: bool) -> Iterator[Window]:
    ready_ms = evidence.ready_ms(start_ms)
    if ready_ms is None or ready_ms >= end_ms:
        if closed and start_ms < end_ms:
            yield Window(start_ms, end_ms, "unknown", evidence.joining(end_ms))
        return
    if start_ms < ready_ms:
        yield Window(start_ms, ready_ms, "unknown", evidence.joining(ready_ms))
    for begin_ms in range(ready_ms, end_ms, window_ms):
        stop_ms = min(begin_ms + window_ms, end_ms)
        window, final = evidence.judge(begin_ms, stop_ms)
        if not (final or closed):
            continue
        cut_ms = evidence.vouched_until_ms(begin_ms, stop_ms) if window.verdict != "verified" else begin_ms
        if cut_ms > begin_ms:
            yield evidence.judge(begin_ms, cut_ms)[0]
            window = evidence.judge(cut_ms, stop_ms)[0]
        yield window


class _Evidence:
    """What is known of one node, in order and without duplicates."""

    def __init__(self, readings: Iterable[Reading], probes: Iterable[Probe], *, gap_ms_max: int, origin_ms: int):
        self._origin_ms = origin_ms
        self._readings = readings_in_order(readings)
        self._spans = alive_spans(self._readings, gap_ms_max=gap_ms_max)
        self._breaks = list(self._find_breaks(gap_ms_max))
        known = sorted(set(probes), key=lambda probe: (probe.at_ms, probe.detail))
        self._last_probe_ms = max((probe.at_ms for probe in known), default=0)
        self._failed = [probe for probe in known if probe.outcome == "failed"]
        failed_ms = {probe.at_ms for probe in self._failed}
        # Where two outcomes contradict each other the check failed.
        self._passed_ms = sorted({probe.at_ms for probe in known if probe.outcome == "passed"} - failed_ms)

    def ready_ms(self, start_ms: int) -> int | None:
        """When the usage clock starts: at the first passed check of the node alive, which may lie before the lease."""
        first_ms = next((passed_ms for passed_ms in self._passed_ms if self._alive(passed_ms, passed_ms)), None)
        return None if first_ms is None else max(first_ms, start_ms)

    def judge(self, start_ms: int, end_ms: int) -> tuple[Window, bool]:
        """Return the window's verdict and whether it is settled: later evidence neither verifies it nor undoes that."""
        before = bisect_right(self._passed_ms, start_ms)
        after = bisect_left(self._passed_ms, end_ms)
        last_ms = self._passed_ms[before - 1]
        next_ms = self._passed_ms[after] if after < len(self._passed_ms) else None
        for probe in self._failed:
            if last_ms < probe.at_ms and (next_ms is None or probe.at_ms < next_ms):
                why = f"check failed at {self._at(probe.at_ms)}" + (f": {probe.detail}" if probe.detail else "")
                # A pass that is not known yet may still come between the failed check and the window.
                return Window(start_ms, end_ms, "failed", why), self._last_probe_ms >= start_ms
        for begin_ms, stop_ms, why in self._breaks:
            if begin_ms < end_ms and start_ms < stop_ms:
                return Window(start_ms, end_ms, "unknown", why), True
        if not self._alive(start_ms, end_ms):
            why = f"the warden saw nothing after {self._at(self._readings[-1].at_ms)}"
            return Window(start_ms, end_ms, "unknown", why), False
        if next_ms is None:
            return Window(start_ms, end_ms, "unknown", f"no passed check after {self._at(last_ms)}"), False
        why = f"checks passed at {self._at(last_ms)} and {self._at(next_ms)}"
        return Window(start_ms, end_ms, "verified", why), True

    def vouched_until_ms(self, start_ms: int, end_ms: int) -> int:
        """The last passed check up to which the window is verified, or its start."""
        for passed_ms in reversed(self._passed_ms):
            if start_ms < passed_ms < end_ms and self.judge(start_ms, passed_ms)[0].verdict == "verified":
                return passed_ms
        return start_ms

    def joining(self, until_ms: int) -> str:
        """Why the clock has not started."""
        failed = sum(self._origin_ms <= probe.at_ms < until_ms for probe in self._failed)
        return "joining: not ready yet" + (f", {failed} failed check{'' if failed == 1 else 's'}" if failed else "")

    def _alive(self, start_ms: int, end_ms: int) -> bool:
        return any(begin_ms <= start_ms and end_ms <= stop_ms for begin_ms, stop_ms in self._spans)

    def _at(self, at_ms: int) -> str:
        return f"{(at_ms - self._origin_ms) / 1000:+.1f} s"

    def _find_breaks(self, gap_ms_max: int) -> Iterator[tuple[int, int, str]]:
        """Yield each time between two readings in which the node cannot be called alive, with the reason."""
        readings = list(self._readings)
        if readings and not readings[-1].alive:
            # A node last seen dead stays so at least until a next reading, a millisecond later or more.
            readings.append(Reading(readings[-1].at_ms + 1, False))
        seen_ms: int | None = None
        for before, after in pairwise(readings):
            if before.alive:
                seen_ms = before.at_ms
            gap_ms = after.at_ms - before.at_ms
            if not (before.alive and after.alive):
                why = "device lost" + ("" if seen_ms is None else f": last seen {self._at(seen_ms)}")
                yield before.at_ms, after.at_ms, why
            elif gap_ms > gap_ms_max:
                why = f"the warden saw nothing for {gap_ms / 1000:.1f} s from {self._at(before.at_ms)}"
                yield before.at_ms, after.at_ms, why
