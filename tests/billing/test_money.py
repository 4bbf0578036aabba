"""Money: properties of charge, earning, hold and value over all rates, times and fees."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput
from billing.money import charge_micros, earning_micros, format_usd, hold_micros, parse_usd, value_micros

rates = st.integers(0, 10**10)
durations_ms = st.integers(0, 10**9)
fees_bps = st.integers(0, 10_000)


@given(rates, durations_ms, fees_bps)
def test_charge_and_earning_are_off_by_less_than_one_micro(rate: int, ms: int, fee: int) -> None:
    """Nobody pays or loses a whole micro-dollar to rounding over a lease."""
    exact = Fraction(rate * ms, 3_600_000)
    assert 0 <= exact - earning_micros(rate, ms) < 1
    assert 0 <= exact * (10_000 + fee) / 10_000 - charge_micros(rate, ms, fee) < 1


@given(rates, durations_ms, durations_ms, fees_bps)
def test_charge_stays_within_hold(rate: int, ms: int, more_ms: int, fee: int) -> None:
    """No charge within a lease can exceed its hold, and a hold is less than one micro too large."""
    held = hold_micros(rate, ms + more_ms, fee)
    assert charge_micros(rate, ms, fee) <= held
    assert 0 <= held - charge_micros(rate, ms + more_ms, fee) <= 1


@given(rates, durations_ms, durations_ms, fees_bps)
def test_totals_only_grow_and_the_fee_is_never_negative(rate: int, ms: int, more_ms: int, fee: int) -> None:
    """More verified time never lowers a charge or an earning, and earning + fee = charge with a fee of at least 0."""
    assert charge_micros(rate, ms, fee) <= charge_micros(rate, ms + more_ms, fee)
    assert earning_micros(rate, ms) <= earning_micros(rate, ms + more_ms)
    assert earning_micros(rate, ms) <= charge_micros(rate, ms, fee)


@given(rates, fees_bps)
def test_value_is_the_highest_rate_within_the_limit(limit: int, fee: int) -> None:
    """A buyer's limit includes the fee: an hour at the value costs at most the limit, one micro more would not."""
    value = value_micros(limit, fee)
    assert charge_micros(value, 3_600_000, fee) <= limit
    assert (value + 1) * (10_000 + fee) > limit * 10_000


@given(st.integers(-(10**15), 10**15))
def test_format_and_parse_agree(micros: int) -> None:
    """What is shown is exact: parsing it gives the same micro-dollars."""
    shown = format_usd(micros)
    assert shown.startswith("-") == (micros < 0)
    assert parse_usd(shown.removeprefix("-")) == abs(micros)


@pytest.mark.parametrize(
    ("text", "micros"), [("$5", 5_000_000), ("0.05", 50_000), ("0.05/h", 50_000), (" $ 1.5 / h ", 1_500_000)]
)
def test_parse_usd(text: str, micros: int) -> None:
    """Dollars are read the way people write them."""
    assert parse_usd(text) == micros


@pytest.mark.parametrize("text", ["", "$", "-1", "1e3", "0.0000001", "1,5", "1.", ".5", "1 2", "٣", "9" * 13, "NaN"])
def test_parse_usd_refuses(text: str) -> None:
    """Anything that is not surely an amount is refused, not guessed."""
    with pytest.raises(InvalidInput):
        parse_usd(text)


@pytest.mark.parametrize(
    ("micros", "places", "shown"),
    [(4210, 6, "$0.004210"), (1_999_999, 2, "$1.99"), (-5, 6, "-$0.000005"), (0, 1, "$0.0")],
)
def test_format_usd(micros: int, places: int, shown: str) -> None:
    """Zeros are kept, and never more is shown than is there."""
    assert format_usd(micros, places) == shown


@pytest.mark.parametrize(
    "call", [lambda: charge_micros(-1, 1, 1), lambda: earning_micros(1, -1), lambda: format_usd(1, 7)]
)
def test_negative_values_are_refused(call: Callable[[], object]) -> None:
    """A negative rate or time, or decimals that a micro-dollar does not have, are refused."""
    with pytest.raises(InvalidInput):
        call()
