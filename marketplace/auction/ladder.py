"""How many units each part of a book has up to a price: sorted once, asked often."""

import numpy as np

from marketplace.auction.columns import PRICE_MICROS_MAX, Columns, Ints

_PRICE_BITS = (PRICE_MICROS_MAX + 2).bit_length()


class Ladder:
    """Every order of a book, sorted by (part, price), with prefix sums of units.

    The parts are the G mask groups of the bids, then the C classes of the asks.
    """

    def __init__(self, columns: Columns) -> None:
        self.groups, self.classes = len(columns.masks), len(columns.floors)
        parts = np.concatenate((columns.bid_groups, columns.ask_classes + self.groups))
        keys = np.concatenate((columns.bid_values, columns.ask_reserves))
        units = np.concatenate((columns.bid_units, columns.ask_units))
        parts <<= _PRICE_BITS
        keys |= parts
        bits = int(units.max(initial=0)).bit_length()
        if (self.groups + self.classes).bit_length() + _PRICE_BITS + bits <= 63:
            # The units ride in the lowest bits of the key: one sort in place, and no order to carry along.
            keys <<= bits
            keys |= units
            keys.sort()
            units = keys & ((1 << bits) - 1)
        else:
            bits = 0
            order = np.argsort(keys)
            keys, units = keys[order], units[order]
        self._keys, self._bits = keys, bits
        self._sums = np.zeros(len(keys) + 1, dtype=np.int64)
        np.cumsum(units, out=self._sums[1:])
        self._parts = np.arange(self.groups + self.classes, dtype=np.int64) << _PRICE_BITS
        starts = self._sums[np.searchsorted(keys, self._parts << bits)]
        self._starts = starts
        self.totals = np.diff(starts, append=self._sums[-1])

    def at_most(self, prices_micros: Ints) -> Ints:
        """Units at or below a price in each part; ``prices_micros`` holds one price (-1 or more) per part."""
        # A key above every order at that price, whatever its units, and below every dearer one.
        above = (self._parts + prices_micros + 1) << self._bits
        sums: Ints = self._sums[np.searchsorted(self._keys, above)]
        return sums - self._starts
