"""A picture through a job's log: whole or not at all."""

import printed
import pytest
from hypothesis import given
from hypothesis import strategies as st

NOISE = "(autoscaler +12s) Adding 2 nodes of type cpu-2c-4g.eu.open.\n"


@given(png=st.binary(max_size=20_000))
def test_a_picture_survives_a_noisy_log(png: bytes) -> None:
    """Lines of Ray's before, after and in between change nothing, and no line is longer than 8 KB."""
    made = list(printed.lines(png))
    assert max(map(len, made)) <= 8192
    assert printed.read(NOISE + f"\n{NOISE}".join(made) + f"\n{NOISE}") == png


def test_the_last_picture_counts() -> None:
    """A job that was run again prints a second picture: that is the one."""
    log = "\n".join([*printed.lines(b"first"), *printed.lines(b"second")])
    assert printed.read(log) == b"second"


def test_a_lost_line_is_noticed() -> None:
    """A log that was cut in the middle gives an error, never half a picture."""
    made = list(printed.lines(bytes(20_000)))
    with pytest.raises(ValueError, match="damaged"):
        printed.read("\n".join(made[:2] + made[3:]))
    with pytest.raises(ValueError, match="no picture"):
        printed.read("\n".join(made[:-1]))
