"""Readings add up to time once, whatever happens to them on their way."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.usage import Reading, alive_spans

READINGS = st.lists(st.builds(Reading, st.integers(0, 60), st.sampled_from([True, True, True, False])), max_size=30)
GAPS = st.integers(0, 8)


def alive_at(readings: list[Reading], at_ms: int, gap_ms_max: int) -> bool:
    """Whether the millisecond from ``at_ms`` lies between two successive alive readings close enough."""
    before = max((reading.at_ms for reading in readings if reading.at_ms <= at_ms), default=None)
    after = min((reading.at_ms for reading in readings if reading.at_ms > at_ms), default=None)
    if before is None or after is None or after - before > gap_ms_max:
        return False
    return all(reading.alive for reading in readings if reading.at_ms in (before, after))


@given(READINGS, GAPS)
def test_spans_are_the_milliseconds_alive(readings: list[Reading], gap_ms_max: int) -> None:
    """Spans are ordered, apart, and cover exactly the milliseconds that two readings vouch for."""
    spans = alive_spans(readings, gap_ms_max=gap_ms_max)
    assert all(start_ms < end_ms for start_ms, end_ms in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = [at_ms for start_ms, end_ms in spans for at_ms in range(start_ms, end_ms)]
    assert covered == [at_ms for at_ms in range(61) if alive_at(readings, at_ms, gap_ms_max)]


@given(READINGS, GAPS, st.randoms(use_true_random=False))
def test_order_and_replay_mean_nothing(readings: list[Reading], gap_ms_max: int, shuffler: random.Random) -> None:
    """Readings delivered twice or in another order add no time and lose none."""
    again = readings + [reading for reading in readings if shuffler.random() < 0.5]
    shuffler.shuffle(again)
    assert alive_spans(again, gap_ms_max=gap_ms_max) == alive_spans(readings, gap_ms_max=gap_ms_max)


@pytest.mark.parametrize(
    ("readings", "spans"),
    [
        ("", ()),
        ("0+", ()),
        ("0+ 4+ 9+", ((0, 9),)),
        ("0+ 5+ 11+ 12+", ((0, 5), (11, 12))),
        ("0+ 4+ 5- 6+ 9+", ((0, 4), (6, 9))),
        ("0+ 4+ 4-", ()),
        ("0- 1- 2-", ()),
        ("0+ 3- 6+", ()),
    ],
)
def test_known_histories(readings: str, spans: tuple[tuple[int, int], ...]) -> None:
    """Gaps, deaths and contradictions cut at the last good reading, never after it."""
    history = [Reading(int(word[:-1]), word[-1] == "+") for word in readings.split()]
    assert alive_spans(history, gap_ms_max=5) == spans


def test_a_negative_gap_is_refused() -> None:
    """A gap that cannot be is a mistake of the caller's."""
    with pytest.raises(ValueError, match="-1"):
        alive_spans([], gap_ms_max=-1)
