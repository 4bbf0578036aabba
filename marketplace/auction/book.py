"""What one tick's auction clears: bids, asks, floors, and who holds which device now."""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from marketplace.auction.columns import CLASSES_MAX, PRICE_MICROS_MAX


@dataclass(frozen=True, slots=True)
class Bid:
    """A cluster wants up to ``quantity`` nodes, each of any class in ``device_classes``.

    ``value_micros`` is the most it pays for each, per compute-hour and before the fee. With fewer than ``min_nodes`` it
    wants none. When a bid was placed is no part of it: inside a tick there is nothing to race for. Raises ValueError
    for a value out of bounds, no quantity, no class or one named twice, or ``min_nodes`` outside 1 to ``quantity``.
    """

    id: str
    value_micros: int
    quantity: int
    device_classes: tuple[str, ...]
    owner: str
    min_nodes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.value_micros <= PRICE_MICROS_MAX or self.quantity < 1:
            raise ValueError(
                f"bid {self.id}: value {self.value_micros} must be 0 to {PRICE_MICROS_MAX}, "
                f"quantity {self.quantity} >= 1"
            )
        if not self.device_classes or len(set(self.device_classes)) != len(self.device_classes):
            raise ValueError(f"bid {self.id}: names no device class, or one twice")
        if not 1 <= self.min_nodes <= self.quantity:
            raise ValueError(f"bid {self.id}: min_nodes {self.min_nodes} must be 1 to quantity {self.quantity}")


@dataclass(frozen=True, slots=True)
class Ask:
    """A device offers ``slots`` nodes of its class for at least ``reserve_micros`` each, per compute-hour.

    Raises ValueError for a reserve out of bounds or no slots.
    """

    id: str
    reserve_micros: int
    slots: int
    device_class: str
    owner: str

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_micros <= PRICE_MICROS_MAX or self.slots < 1:
            raise ValueError(
                f"ask {self.id}: reserve {self.reserve_micros} must be 0 to {PRICE_MICROS_MAX}, slots {self.slots} >= 1"
            )


@dataclass(frozen=True, slots=True)
class Book:
    """Every order of one tick; the order in which they are listed means nothing.

    ``floors`` is the lowest price allowed per device class, in micro-dollars per compute-hour (0 where it names none).
    ``incumbents`` maps a renewing bid's id to the id of the ask whose device it holds now; either may be absent from
    the book. ``owner_percent_max`` is the most that one owner may have of a class's demand or supply where the class
    offers more than 20 slots; 100 is no limit. Raises ValueError for an id used twice on one side, a floor or
    percentage out of bounds, or more than 64 classes.
    """

    bids: tuple[Bid, ...] = ()
    asks: tuple[Ask, ...] = ()
    floors: Mapping[str, int] = field(default_factory=dict)
    incumbents: Mapping[str, str] = field(default_factory=dict)
    owner_percent_max: int = 20

    def __post_init__(self) -> None:
        for side, orders in (("bid", self.bids), ("ask", self.asks)):
            if len({order.id for order in orders}) != len(orders):
                raise ValueError(f"two {side}s have the same id")
        if any(not 0 <= floor <= PRICE_MICROS_MAX for floor in self.floors.values()):
            raise ValueError(f"a floor is negative or above {PRICE_MICROS_MAX}")
        if not 1 <= self.owner_percent_max <= 100:
            raise ValueError(f"owner_percent_max {self.owner_percent_max} must be 1 to 100")
        if len(self.device_classes()) > CLASSES_MAX:
            raise ValueError(f"{len(self.device_classes())} device classes in one book, at most {CLASSES_MAX}")

    def device_classes(self) -> list[str]:
        """Every class that an order names, sorted."""
        return sorted({name for bid in self.bids for name in bid.device_classes} | {a.device_class for a in self.asks})


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


def book_content(book: Book) -> dict[str, Any]:
    """Return the book as plain JSON values in a canonical order; every field of every order is in it."""
    return {
        "bids": sorted(
            [bid.id, bid.value_micros, bid.quantity, sorted(bid.device_classes), bid.owner, bid.min_nodes]
            for bid in book.bids
        ),
        "asks": sorted([ask.id, ask.reserve_micros, ask.slots, ask.device_class, ask.owner] for ask in book.asks),
        "floors": dict(sorted(book.floors.items())),
        "incumbents": dict(sorted(book.incumbents.items())),
        "owner_percent_max": book.owner_percent_max,
    }


def book_of(content: Mapping[str, Any]) -> Book:
    """Return the book that ``book_content`` wrote; raises ValueError, KeyError or TypeError for anything else."""
    numbers = [number for bid in content["bids"] for number in (bid[1], bid[2], bid[5])]
    numbers += [number for ask in content["asks"] for number in ask[1:3]]
    if any(type(number) is not int for number in (*numbers, *content["floors"].values(), content["owner_percent_max"])):
        raise TypeError("a number of the book is not an integer")
    bids = tuple(
        Bid(id_, value, quantity, tuple(names), owner, min_nodes)
        for id_, value, quantity, names, owner, min_nodes in content["bids"]
    )
    asks = tuple(Ask(*row) for row in content["asks"])
    return Book(bids, asks, content["floors"], content["incumbents"], content["owner_percent_max"])


def canonical_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain values as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def book_hash(book: Book) -> str:
    """SHA-256 (hex) of the book as canonical JSON: the same for any listing order, another for any other change."""
    return canonical_hash(book_content(book))
