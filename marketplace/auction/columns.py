"""A book as columns of integers: what the clearing computes on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

CLASSES_MAX = 64
PRICE_MICROS_MAX = 10**9
UNITS_MAX = 2**31 - 1
"""The most units on one side of a book: with it, price × units and units × units both stay below 2^63."""


@dataclass(frozen=True, eq=False)
class Columns:
    """One book; position i of each ``bid_`` (``ask_``) column belongs to the same bid (ask).

    Shapes: n bids, m asks, C classes, G mask groups, K owners. Prices are micro-dollars per compute-hour.
    ``masks`` are the G distinct sets of acceptable classes, bit c of a mask being class c. ``bid_groups`` index
    ``masks``, ``ask_classes`` index ``floors``, the owners' columns index ``owners``.
    ``incumbents`` are pairs (bid, ask): that bid holds that ask's device now.
    Raises ValueError for shapes that do not match or a number out of bounds.
    """

    masks: tuple[int, ...]
    floors: tuple[int, ...]
    bid_ids: Sequence[str]
    bid_values: Ints
    bid_units: Ints
    bid_groups: Ints
    bid_owners: Ints
    ask_ids: Sequence[str]
    ask_reserves: Ints
    ask_units: Ints
    ask_classes: Ints
    ask_owners: Ints
    owners: Sequence[str]
    incumbents: tuple[tuple[int, int], ...] = field(default=())

    def __post_init__(self) -> None:
        classes, groups, owners = len(self.floors), len(self.masks), len(self.owners)
        if classes > CLASSES_MAX:
            raise ValueError(f"{classes} device classes in one book, at most {CLASSES_MAX}")
        if len(set(self.masks)) != groups or any(not 0 < mask < 1 << classes for mask in self.masks):
            raise ValueError(f"masks must be distinct, not empty, and within {classes} classes")
        if any(not 0 <= floor <= PRICE_MICROS_MAX for floor in self.floors):
            raise ValueError(f"a floor is outside 0 to {PRICE_MICROS_MAX}")
        bids = (self.bid_values, self.bid_units, self.bid_groups, self.bid_owners)
        asks = (self.ask_reserves, self.ask_units, self.ask_classes, self.ask_owners)
        for side, ids, columns, kinds in (("bid", self.bid_ids, bids, groups), ("ask", self.ask_ids, asks, classes)):
            if any(column.shape != (len(ids),) or column.dtype != np.int64 for column in columns):
                raise ValueError(f"the {side} columns are not all int64 of length {len(ids)}")
            limits = ((0, PRICE_MICROS_MAX), (1, UNITS_MAX), (0, kinds - 1), (0, owners - 1))
            for name, column, (low, high) in zip(("price", "units", "kind", "owner"), columns, limits, strict=True):
                if len(column) and not (low <= column.min() and column.max() <= high):
                    raise ValueError(f"a {side}'s {name} is outside {low} to {high}")
            # At most 2^31 orders of at most 2^31 units each: this sum itself cannot overflow.
            if len(ids) > UNITS_MAX or columns[1].sum() > UNITS_MAX:
                raise ValueError(f"the {side}s have more than {UNITS_MAX} units in all")


def classes_in(mask: int) -> list[int]:
    """Return the classes of a mask, ascending."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
