"""Only checked windows are verified, every other second has its reason, and nothing verified is taken back."""

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.usage import GAP_MS_MAX, Probe, Reading
from ray_cluster.verification import Window, judge, verified_ms

GAP = 3
READ = st.tuples(st.sampled_from([1, 1, 1, 1, 2, 2, 3, 4]), st.sampled_from([True] * 24 + [False]))
PROBED = st.tuples(st.integers(1, 7), st.sampled_from(["passed"] * 7 + ["failed"]))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Reading], list[Probe]]:
    """What the warden saw of one node, in order: mostly alive and passing, with gaps, deaths and failures."""
    reads, answers = draw(st.lists(READ, min_size=20, max_size=40)), draw(st.lists(PROBED, min_size=2, max_size=12))
    readings = [Reading(sum(step for step, _ in reads[:n]), alive) for n, (_, alive) in enumerate(reads)]
    probes = [Probe(sum(step for step, _ in answers[:n]), outcome) for n, (_, outcome) in enumerate(answers)]
    return readings, probes


LEASES = st.tuples(st.integers(0, 12), st.integers(0, 40)).map(lambda lease: (lease[0], lease[0] + lease[1]))
WINDOWS = st.integers(1, 12)


def judged(
    lease: tuple[int, int], window_ms: int, readings: Iterable[Reading], probes: Iterable[Probe], closed: bool
) -> tuple[Window, ...]:
    return judge(
        start_ms=lease[0],
        end_ms=lease[1],
        window_ms=window_ms,
        readings=readings,
        probes=probes,
        gap_ms_max=GAP,
        closed=closed,
    )


def milliseconds(windows: Iterable[Window], *verdicts: str) -> set[int]:
    """Every millisecond of the windows with one of these verdicts."""
    return {at_ms for w in windows if w.verdict in verdicts for at_ms in range(w.start_ms, w.end_ms)}


def expected(readings: list[Reading], probes: list[Probe], start_ms: int, end_ms: int) -> str:
    """The verdict of one window by the words of the rule, the slow way."""
    passed = [probe.at_ms for probe in probes if probe.outcome == "passed"]
    last = max((at_ms for at_ms in passed if at_ms <= start_ms), default=None)
    following = min((at_ms for at_ms in passed if at_ms >= end_ms), default=10**9)
    if last is None:
        return "unknown"
    if any(last < probe.at_ms < following for probe in probes if probe.outcome == "failed"):
        return "failed"
    until = min((reading.at_ms for reading in readings if reading.at_ms >= end_ms), default=None)
    since = max((reading.at_ms for reading in readings if reading.at_ms <= start_ms), default=None)
    if until is None or since is None or following == 10**9:
        return "unknown"
    inside = [reading for reading in readings if since <= reading.at_ms <= until]
    near = all(b.at_ms - a.at_ms <= GAP for a, b in pairwise(inside))
    return "verified" if near and all(reading.alive for reading in inside) else "unknown"


@given(histories(), LEASES, WINDOWS)
def test_a_closed_lease_is_covered(
    history: tuple[list[Reading], list[Probe]], lease: tuple[int, int], window_ms: int
) -> None:
    """Windows are in order, disjoint, cover every millisecond of a closed lease, and each has a reason."""
    windows = judged(lease, window_ms, *history, True)
    edges = [lease[0], *(window.end_ms for window in windows)]
    assert [window.start_ms for window in windows] == edges[:-1]
    assert edges[-1] == lease[1]
    assert all(window.start_ms < window.end_ms and window.reason for window in windows)
    assert all(any(character.isdigit() for character in w.reason) for w in windows if w.reason[:7] != "joining")
    assert 0 <= verified_ms(windows) <= lease[1] - lease[0]


@given(histories(), LEASES, WINDOWS, st.booleans())
def test_verdicts_follow_the_rule(
    history: tuple[list[Reading], list[Probe]], lease: tuple[int, int], window_ms: int, closed: bool
) -> None:
    """Every window after joining has the verdict that the rule's own words give; what is cut off is verified."""
    windows = judged(lease, window_ms, *history, closed)
    joined = [window for window in windows if not window.reason.startswith("joining")]
    for window in joined:
        assert window.verdict == expected(*history, window.start_ms, window.end_ms)
    if closed and joined:
        edges = [*range(joined[0].start_ms, lease[1], window_ms), lease[1]]
        cuts = [window for window in joined if window.end_ms not in edges]
        assert [window.end_ms for window in joined if window not in cuts] == edges[1:]
        assert all(window.verdict == "verified" for window in cuts)


@given(histories(), LEASES, WINDOWS, st.booleans(), st.randoms(use_true_random=False))
def test_order_and_replay_mean_nothing(
    history: tuple[list[Reading], list[Probe]],
    lease: tuple[int, int],
    window_ms: int,
    closed: bool,
    shuffler: random.Random,
) -> None:
    """Readings and probes delivered twice or in another order change nothing."""
    again = [[*items, *(item for item in items if shuffler.random() < 0.5)] for items in history]
    for items in again:
        shuffler.shuffle(items)
    assert judged(lease, window_ms, *again, closed) == judged(lease, window_ms, *history, closed)


@given(histories(), LEASES, WINDOWS, st.data())
def test_knowing_more_never_takes_back(
    history: tuple[list[Reading], list[Probe]], lease: tuple[int, int], window_ms: int, data: st.DataObject
) -> None:
    """What was verified stays so as more becomes known."""
    readings, probes = history
    seen, checked = data.draw(st.integers(0, len(readings))), data.draw(st.integers(0, len(probes)))
    was_closed = data.draw(st.booleans())
    closed = was_closed or data.draw(st.booleans())
    early = judged(lease, window_ms, readings[:seen], probes[:checked], was_closed)
    late = judged(lease, window_ms, readings, probes, closed)
    assert milliseconds(early, "verified") <= milliseconds(late, "verified")


@given(histories(), LEASES, WINDOWS)
def test_closing_changes_only_what_was_open(
    history: tuple[list[Reading], list[Probe]], lease: tuple[int, int], window_ms: int
) -> None:
    """On the same evidence, closing a lease keeps every window already judged and verifies only its last one's part."""
    open_windows = judged(lease, window_ms, *history, False)
    closed_windows = judged(lease, window_ms, *history, True)
    assert set(open_windows) <= set(closed_windows)
    more = [window for window in set(closed_windows) - set(open_windows) if window.verdict == "verified"]
    assert len(more) <= 1
    assert all(window.end_ms - window.start_ms < window_ms for window in more)


@given(histories(), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30), WINDOWS)
def test_a_renewed_lease_loses_no_time(
    history: tuple[list[Reading], list[Probe]], start_ms: int, first_ms: int, second_ms: int, window_ms: int
) -> None:
    """Cutting a lease in two at a renewal never makes a second of its first part unpaid that a longer lease pays."""
    readings, probes = history
    cut_ms, end_ms = start_ms + first_ms, start_ms + first_ms + second_ms
    whole = milliseconds(judged((start_ms, end_ms), window_ms, readings, probes, True), "verified")
    first = milliseconds(judged((start_ms, cut_ms), window_ms, readings, probes, True), "verified")
    assert {at_ms for at_ms in whole if at_ms < cut_ms} <= first


# One node on a clock in seconds: looked at every second, checked every four, a window of ten.
def story(
    end: int,
    *,
    passed: Iterable[float],
    failed: Iterable[float] = (),
    alive: Iterable[int] = range(61),
    dead: Iterable[int] = (),
    start: int = 0,
    closed: bool = True,
) -> list[tuple[float, float, str, str]]:
    readings = [Reading(at * 1000, True) for at in alive] + [Reading(at * 1000, False) for at in dead]
    probes = [Probe(int(at * 1000), "passed") for at in passed]
    probes += [Probe(int(at * 1000), "failed", "wrong answer") for at in failed]
    windows = judge(start_ms=start * 1000, end_ms=end * 1000, readings=readings, probes=probes, closed=closed)
    return [(w.start_ms / 1000, w.end_ms / 1000, w.verdict, w.reason) for w in windows]


def test_a_good_lease() -> None:
    """The clock starts at the first passed check; from there all is verified up to the last check."""
    assert story(30, passed=range(2, 30, 4)) == [
        (0, 2, "unknown", "joining: not ready yet"),
        (2, 12, "verified", "checks passed at +2.0 s and +14.0 s"),
        (12, 22, "verified", "checks passed at +10.0 s and +22.0 s"),
        (22, 26, "verified", "checks passed at +22.0 s and +26.0 s"),
        (26, 30, "unknown", "no passed check after +26.0 s"),
    ]


def test_a_renewed_lease() -> None:
    """The next lease's first check vouches for the end of this one, and this one's last check for the next's start."""
    assert story(20, passed=[0, 18, 21]) == [
        (0, 10, "verified", "checks passed at +0.0 s and +18.0 s"),
        (10, 20, "verified", "checks passed at +0.0 s and +21.0 s"),
    ]
    assert story(40, start=20, passed=[0, 18, 21, 41]) == [
        (20, 30, "verified", "checks passed at -2.0 s and +21.0 s"),
        (30, 40, "verified", "checks passed at +1.0 s and +21.0 s"),
    ]


def test_an_open_lease_waits_for_its_next_check() -> None:
    """Windows that the next check may still verify are not judged; the warden's silence so far proves nothing."""
    assert story(60, passed=[1], alive=range(5), closed=False) == [(0, 1, "unknown", "joining: not ready yet")]
    assert story(60, passed=[], alive=range(5), closed=False) == []
    assert story(60, passed=[0, 12], alive=range(10), closed=False) == []
    assert [row[:3] for row in story(60, passed=[0, 12], alive=range(11), closed=False)] == [(0, 10, "verified")]


def test_a_lease_that_never_joined() -> None:
    """A lease that ends before its node passed a check is unpaid as a whole; a check at its very end is too late."""
    assert story(10, passed=[]) == [(0, 10, "unknown", "joining: not ready yet")]
    assert story(10, passed=[10]) == [(0, 10, "unknown", "joining: not ready yet")]
    assert story(10, passed=[5], alive=[]) == [(0, 10, "unknown", "joining: not ready yet")]
    assert story(10, passed=[], failed=[3, 6]) == [(0, 10, "unknown", "joining: not ready yet, 2 failed checks")]
    assert story(0, passed=[0]) == []


def test_a_failed_check() -> None:
    """A failed check fails every window between the passes around it; recovered, the node earns again."""
    assert story(40, passed=[0, 4, 8, 24, 28, 32, 40], failed=[16]) == [
        (0, 8, "verified", "checks passed at +0.0 s and +8.0 s"),
        (8, 10, "failed", "check failed at +16.0 s: wrong answer"),
        (10, 20, "failed", "check failed at +16.0 s: wrong answer"),
        (20, 30, "failed", "check failed at +16.0 s: wrong answer"),
        (30, 40, "verified", "checks passed at +28.0 s and +40.0 s"),
    ]
    assert story(20, passed=[0, 10, 14], failed=[18]) == [
        (0, 10, "verified", "checks passed at +0.0 s and +10.0 s"),
        (10, 14, "verified", "checks passed at +10.0 s and +14.0 s"),
        (14, 20, "failed", "check failed at +18.0 s: wrong answer"),
    ]
    assert story(20, passed=[0, 10, 14, 18], failed=[14])[-1] == (
        *(10, 20, "failed"),
        "check failed at +14.0 s: wrong answer",
    )


def test_unanswered_checks() -> None:
    """A check without an answer is no failure: the next answer vouches for the time before it, and none does not."""
    assert [row[:3] for row in story(20, passed=[0, 20])] == [(0, 10, "verified"), (10, 20, "verified")]
    assert story(20, passed=[0]) == [
        (0, 10, "unknown", "no passed check after +0.0 s"),
        (10, 20, "unknown", "no passed check after +0.0 s"),
    ]


def test_a_node_that_dies() -> None:
    """A node lost inside its last window is paid to its last passed check, and the rest names when it was last seen."""
    assert story(20, passed=[0, 8, 12], alive=range(16), dead=range(16, 20)) == [
        (0, 10, "verified", "checks passed at +0.0 s and +12.0 s"),
        (10, 12, "verified", "checks passed at +8.0 s and +12.0 s"),
        (12, 20, "unknown", "device lost: last seen +15.0 s"),
    ]
    assert story(30, passed=[0, 8, 12], alive=range(16), dead=[16], closed=False)[1:] == [
        (10, 12, "verified", "checks passed at +8.0 s and +12.0 s"),
        (12, 20, "unknown", "device lost: last seen +15.0 s"),
    ]
    assert story(20, passed=[0, 12], alive=range(16))[-1] == (12, 20, "unknown", "the warden saw nothing after +15.0 s")


def test_a_warden_that_was_away() -> None:
    """Time in which the warden saw nothing is unknown, with its length; before and after, nothing is lost."""
    assert story(50, passed=[0, 10, 31, 36, 51], alive=[*range(12), *range(29, 61)]) == [
        (0, 10, "verified", "checks passed at +0.0 s and +10.0 s"),
        (10, 20, "unknown", "the warden saw nothing for 18.0 s from +11.0 s"),
        (20, 30, "unknown", "the warden saw nothing for 18.0 s from +11.0 s"),
        (30, 40, "verified", "checks passed at +10.0 s and +51.0 s"),
        (40, 50, "verified", "checks passed at +36.0 s and +51.0 s"),
    ]
    away = [*range(12), *range(11 + GAP_MS_MAX // 1000, 61)]
    assert {row[2] for row in story(50, passed=[0, 51], alive=away)} == {"verified"}


@pytest.mark.parametrize(("start_ms", "end_ms", "window_ms"), [(5, 4, 10), (0, 10, 0)])
def test_nonsense_is_refused(start_ms: int, end_ms: int, window_ms: int) -> None:
    """A lease that ends before it starts, or an empty window, is a mistake of the caller's."""
    with pytest.raises(ValueError, match="lease"):
        judge(start_ms=start_ms, end_ms=end_ms, window_ms=window_ms, readings=[], probes=[], closed=True)
