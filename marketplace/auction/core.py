"""One clearing of a book in columns: prices, their interval, and who wins how much."""

from dataclasses import dataclass

from marketplace.auction.allocation import Allocation, allocate
from marketplace.auction.columns import Columns
from marketplace.auction.ladder import Ladder
from marketplace.auction.prices import highest_prices, lowest_prices


@dataclass(frozen=True, eq=False)
class Outcome:
    """``low`` are the prices that are paid; ``high`` the highest that would clear, None where nothing bounds them.

    One per class, in micro-dollars per compute-hour.
    """

    low: list[int]
    high: list[int | None]
    allocation: Allocation


def clear_columns(columns: Columns, *, seed: bytes) -> Outcome:
    """Clear a book in columns: a function of the book and the seed alone."""
    ladder = Ladder(columns)
    low = lowest_prices(columns, ladder)
    return Outcome(low, highest_prices(columns, ladder), allocate(columns, ladder, low, seed=seed))
