"""What one tick's auction clears: bids, asks, floors, and who holds which device now."""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Bid:
    """A cluster wants up to ``quantity`` nodes of a device class.

    ``value_micros`` is the most it pays for each, per compute-hour and before the fee. ``placed_ms`` never decides
    who wins: inside a tick there is nothing to race for. Raises ValueError for a negative value or no quantity.
    """

    id: str
    value_micros: int
    quantity: int
    device_class: str
    placed_ms: int
    owner: str

    def __post_init__(self) -> None:
        if self.value_micros < 0 or self.quantity < 1:
            raise ValueError(f"bid {self.id}: value {self.value_micros} must be >= 0, quantity {self.quantity} >= 1")


@dataclass(frozen=True, slots=True)
class Ask:
    """A device offers ``slots`` nodes of its class for at least ``reserve_micros`` each, per compute-hour.

    Raises ValueError for a negative reserve or no slots.
    """

    id: str
    reserve_micros: int
    slots: int
    device_class: str
    placed_ms: int
    owner: str

    def __post_init__(self) -> None:
        if self.reserve_micros < 0 or self.slots < 1:
            raise ValueError(f"ask {self.id}: reserve {self.reserve_micros} must be >= 0, slots {self.slots} >= 1")


@dataclass(frozen=True, slots=True)
class Book:
    """Every order of one tick; the order in which they are listed means nothing.

    ``floors`` is the lowest price allowed per device class, in micro-dollars per compute-hour (0 where it names none).
    ``incumbents`` maps a renewing bid's id to the id of the ask whose device it holds now; either may be absent from
    the book. Raises ValueError for an id used twice on one side or a negative floor.
    """

    bids: tuple[Bid, ...] = ()
    asks: tuple[Ask, ...] = ()
    floors: Mapping[str, int] = field(default_factory=dict)
    incumbents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for side, orders in (("bid", self.bids), ("ask", self.asks)):
            if len({order.id for order in orders}) != len(orders):
                raise ValueError(f"two {side}s have the same id")
        if any(floor < 0 for floor in self.floors.values()):
            raise ValueError("a floor is negative")


class Depth:
    """How many units one side of a class has at, above or below a price."""

    def __init__(self, orders: Iterable[tuple[int, int]]) -> None:
        """``orders`` are pairs of (price in micro-dollars per compute-hour, units)."""
        units: Counter[int] = Counter()
        for price_micros, count in orders:
            units[price_micros] += count
        self.prices = sorted(units)
        self._cumulative = [0, *accumulate(units[price] for price in self.prices)]
        self.total = self._cumulative[-1]

    def at_most(self, price_micros: int) -> int:
        """Units priced at or below ``price_micros``."""
        return self._cumulative[bisect_right(self.prices, price_micros)]

    def below(self, price_micros: int) -> int:
        """Units priced below ``price_micros``."""
        return self._cumulative[bisect_left(self.prices, price_micros)]

    def at_least(self, price_micros: int) -> int:
        """Units priced at or above ``price_micros``."""
        return self.total - self.below(price_micros)

    def above(self, price_micros: int) -> int:
        """Units priced above ``price_micros``."""
        return self.total - self.at_most(price_micros)


def book_hash(book: Book) -> str:
    """SHA-256 (hex) of the book as canonical JSON: the same for any listing order, another for any other change."""
    content = {
        "bids": sorted(astuple(bid) for bid in book.bids),
        "asks": sorted(astuple(ask) for ask in book.asks),
        "floors": dict(book.floors),
        "incumbents": dict(book.incumbents),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
