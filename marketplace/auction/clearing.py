"""One tick's auction: per device class the lowest clearing price, who wins what, and why the others lost.

A price clears when the bids above it find enough asks at or below it, and the asks below it find enough bids at or
above it (the minimisers of the dual of the assignment problem; Shapley and Shubik 1971). The lowest one is
max(dearest accepted ask, highest rejected bid, floor); at it a buyer of one node can do no better than bid its value.
"""

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from marketplace.auction.book import Ask, Bid, Book, Depth, book_hash
from marketplace.auction.explain import Explainer, Loser


@dataclass(frozen=True, slots=True)
class Award:
    """One node won: ``bid_id`` gets one slot of ``ask_id`` at ``price_micros`` per compute-hour, before the fee."""

    bid_id: str
    ask_id: str
    device_class: str
    price_micros: int


@dataclass(frozen=True, slots=True)
class ClassClearing:
    """One device class after the tick; prices in micro-dollars per compute-hour.

    ``price_micros`` is None where nothing traded. ``low_micros`` to ``high_micros`` are all the prices that clear; the
    price is the lowest. With no ask nothing bounds them above, and ``high_micros`` repeats ``low_micros``.
    ``volume``, ``supply`` and ``demand`` count nodes sold, offered and wanted at any price.
    """

    device_class: str
    price_micros: int | None
    volume: int
    supply: int
    demand: int
    low_micros: int
    high_micros: int


@dataclass(frozen=True, slots=True)
class Clearing:
    """The result of one tick, in a canonical order: a function of the book and the seed alone."""

    classes: tuple[ClassClearing, ...]
    awards: tuple[Award, ...]
    losers: tuple[Loser, ...]
    book_hash: str


@dataclass(frozen=True, slots=True)
class _Order:
    id: str
    price_micros: int
    units: int
    rank: bytes


def clear(book: Book, *, seed: bytes) -> Clearing:
    """Clear every device class of the book.

    Bids fill from the highest value down and asks from the lowest reserve up; only orders exactly at the margin are
    rationed: those whose lease runs on first, the rest pro rata by quantity, odd units by the order of
    SHA-256(seed ‖ order id). A bid whose own device is among the winners keeps it.
    """
    bids: defaultdict[str, list[Bid]] = defaultdict(list)
    asks: defaultdict[str, list[Ask]] = defaultdict(list)
    for bid in book.bids:
        bids[bid.device_class].append(bid)
    for ask in book.asks:
        asks[ask.device_class].append(ask)
    classes: list[ClassClearing] = []
    awards: list[Award] = []
    losers: list[Loser] = []
    for name in sorted({*bids, *asks}):
        ranked_bids = [_Order(bid.id, bid.value_micros, bid.quantity, _rank(seed, bid.id)) for bid in bids[name]]
        ranked_asks = [_Order(ask.id, ask.reserve_micros, ask.slots, _rank(seed, ask.id)) for ask in asks[name]]
        ranked_bids.sort(key=lambda bid: (-bid.price_micros, bid.rank))
        ranked_asks.sort(key=lambda ask: (ask.price_micros, ask.rank))
        outcome = _clear_class(name, ranked_bids, ranked_asks, book.floors.get(name, 0), book.incumbents)
        classes.append(outcome[0])
        awards += outcome[1]
        losers += outcome[2]
    awards.sort(key=lambda award: (award.device_class, award.bid_id, award.ask_id))
    losers.sort(key=lambda loser: (loser.side, loser.order_id))
    return Clearing(tuple(classes), tuple(awards), tuple(losers), book_hash(book))


def _rank(seed: bytes, order_id: str) -> bytes:
    return hashlib.sha256(seed + order_id.encode()).digest()


def _clear_class(
    name: str, bids: Sequence[_Order], asks: Sequence[_Order], floor_micros: int, incumbents: Mapping[str, str]
) -> tuple[ClassClearing, list[Award], list[Loser]]:
    demand = Depth((bid.price_micros, bid.units) for bid in bids)
    supply = Depth((ask.price_micros, ask.units) for ask in asks)
    low, high = _interval(demand, supply, floor_micros)
    volume = min(demand.at_least(low), supply.at_most(low))
    price = low if volume else None

    # Only one side can be rationed, since the other then sells out: bids tied at the margin are kept if their device
    # can win, asks if their bid did.
    able = {ask.id for ask in asks if ask.price_micros <= low}
    won = _fill(bids, volume, {bid.id: 1 for bid in bids if incumbents.get(bid.id) in able})
    kept = Counter(incumbents[bid_id] for bid_id in won if bid_id in incumbents)
    sold = _fill(asks, volume, kept)
    awards = [Award(bid_id, ask_id, name, low) for bid_id, ask_id in _pairs(won, sold, incumbents)]

    explainer = Explainer(name, floor_micros=floor_micros, price_micros=price, bids=demand, asks=supply)
    losers = [
        explainer.bid(bid.id, bid.price_micros, quantity=bid.units, won=won.get(bid.id, 0))
        for bid in bids
        if won.get(bid.id, 0) < bid.units
    ]
    losers += [
        explainer.ask(ask.id, ask.price_micros, slots=ask.units, sold=sold.get(ask.id, 0))
        for ask in asks
        if sold.get(ask.id, 0) < ask.units
    ]
    return ClassClearing(name, price, volume, supply.total, demand.total, low, high), awards, losers


def _interval(demand: Depth, supply: Depth, floor_micros: int) -> tuple[int, int]:
    """Return the lowest and the highest clearing price at or above the floor."""
    prices = sorted({floor_micros, *(p for p in (*demand.prices, *supply.prices) if p > floor_micros)})
    low = bisect_left(prices, True, key=lambda price: supply.at_most(price) >= demand.above(price))
    too_high = bisect_left(prices, True, lo=low + 1, key=lambda price: supply.below(price) > demand.at_least(price))
    return prices[low], prices[too_high - 1]


def _fill(orders: Sequence[_Order], volume: int, kept: Mapping[str, int]) -> dict[str, int]:
    """Give ``volume`` units to the best orders first; ``kept`` says how many of an order's units are incumbent."""
    won: dict[str, int] = {}
    for _, tied in groupby(orders, key=lambda order: order.price_micros):
        if not volume:
            break
        group = list(tied)
        total = sum(order.units for order in group)
        won.update(_ration(group, volume, kept) if total > volume else {order.id: order.units for order in group})
        volume -= min(volume, total)
    return won


def _ration(tied: Sequence[_Order], volume: int, kept: Mapping[str, int]) -> dict[str, int]:
    """Split ``volume`` units among tied orders, which come in the order of their rank."""
    won: dict[str, int] = {}
    for order in tied:
        won[order.id] = min(order.units, kept.get(order.id, 0), volume)
        volume -= won[order.id]
    wanted = {order.id: order.units - won[order.id] for order in tied}
    total = sum(wanted.values())
    for order_id, units in wanted.items():
        won[order_id] += units * volume // total
    odd = volume - sum(units * volume // total for units in wanted.values())
    # sorted() is stable: equal remainders stay in the order of their rank.
    for order_id in sorted(wanted, key=lambda order_id: wanted[order_id] * volume % total, reverse=True)[:odd]:
        won[order_id] += 1
    return won


def _pairs(won: Mapping[str, int], sold: Mapping[str, int], incumbents: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pair each node won with a slot sold: those that hold each other now first, the rest in the order given."""
    nodes, slots = dict(won), dict(sold)
    for bid_id in won:
        ask_id = incumbents.get(bid_id)
        if ask_id is not None and nodes[bid_id] and slots.get(ask_id):
            yield bid_id, ask_id
            nodes[bid_id] -= 1
            slots[ask_id] -= 1
    yield from zip(Counter(nodes).elements(), Counter(slots).elements(), strict=True)
