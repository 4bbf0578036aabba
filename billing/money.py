"""The only rounding and splitting code: pure functions over integer micro-dollars.

Charges and earnings accrue cumulatively: a lease's total is computed anew from all its verified milliseconds and only
the difference to what was posted before is posted. The error of a lease therefore stays under one micro-dollar,
however often it is settled.
"""

import re

from billing.errors import InvalidInput

CURRENCY = "usd"
"""The one currency of the ledger."""
MS_PER_HOUR = 3_600_000
BPS = 10_000
MICROS_PER_USD = 1_000_000
MICROS_PER_CENT = 10_000

_USD = re.compile(r"\$?\s*(\d{1,12})(?:\.(\d{1,6}))?\s*(?:/\s*h)?", re.ASCII)


def charge_micros(rate_micros_per_hour: int, verified_ms: int, fee_bps: int) -> int:
    """Return what the buyer owes in all for ``verified_ms``, the fee (basis points) included, rounded down.

    Raises InvalidInput when a value is negative.
    """
    _refuse_negative(rate_micros_per_hour, verified_ms, fee_bps)
    return rate_micros_per_hour * verified_ms * (BPS + fee_bps) // (MS_PER_HOUR * BPS)


def earning_micros(rate_micros_per_hour: int, verified_ms: int) -> int:
    """Return what the provider has earned in all for ``verified_ms``, rounded down. The fee is the rest of the charge.

    Raises InvalidInput when a value is negative.
    """
    _refuse_negative(rate_micros_per_hour, verified_ms)
    return rate_micros_per_hour * verified_ms // MS_PER_HOUR


def hold_micros(rate_micros_per_hour: int, lease_ms: int, fee_bps: int) -> int:
    """Return what to hold for a lease: rounded up, so that no charge within ``lease_ms`` exceeds it.

    Raises InvalidInput when a value is negative.
    """
    _refuse_negative(rate_micros_per_hour, lease_ms, fee_bps)
    return -(-rate_micros_per_hour * lease_ms * (BPS + fee_bps) // (MS_PER_HOUR * BPS))


def value_micros(limit_micros_per_hour: int, fee_bps: int) -> int:
    """Return the highest rate that with the fee on top stays within a buyer's all-in limit, both per hour.

    Raises InvalidInput when a value is negative.
    """
    _refuse_negative(limit_micros_per_hour, fee_bps)
    return limit_micros_per_hour * BPS // (BPS + fee_bps)


def parse_usd(text: str) -> int:
    """Return the micro-dollars of a text such as ``$5``, ``0.05`` or ``0.05/h``.

    Raises InvalidInput for anything else, such as a sign or a seventh decimal.
    """
    match = _USD.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text[:40]!r} is not an amount of dollars", hint="write it like $5 or 0.05")
    whole, decimals = match.groups()
    return int(whole) * MICROS_PER_USD + int((decimals or "").ljust(6, "0"))


def format_usd(micros: int, places: int = 6) -> str:
    """Return an amount such as ``$0.004210``, always with ``places`` (1 to 6) decimals.

    Decimals beyond ``places`` are cut off, towards zero: never more is shown than is there.
    """
    return ("-" if micros < 0 else "") + "$" + decimal_text(abs(micros), places)


def decimal_text(micros: int, places: int = 6) -> str:
    """Return an amount as plain decimal text such as ``-0.004210``; what ``format_usd`` says holds here too."""
    if not 1 <= places <= 6:
        raise InvalidInput(f"cannot show {places} decimals of a dollar", hint="ask for 1 to 6")
    whole, rest = divmod(abs(micros), MICROS_PER_USD)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{rest:06d}"[: places - 6 or None]


def _refuse_negative(*values: int) -> None:
    if any(value < 0 for value in values):
        raise InvalidInput(f"a rate, a time and a fee cannot be negative: {values}")
