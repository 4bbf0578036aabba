"""One tick's auction: the lowest clearing price of each device class, who wins what, and why the others lost.

The steps: limit what one owner may have; find the prices and who wins (core.py); drop all-or-nothing bids that got a
part and clear again; hand each node a device; explain every order that lost.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from marketplace.auction.admission import admitted_units, columns_of, depths
from marketplace.auction.book import Ask, Bid, Book, book_hash
from marketplace.auction.columns import Columns
from marketplace.auction.core import Outcome, clear_columns
from marketplace.auction.explain import Explainer, Loser

RECLEARS_MAX = 3


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

    ``price_micros`` is None where nothing traded. ``low_micros`` and ``high_micros`` are the lowest and the highest
    price of this class in any clearing of the whole book; the price is the lowest. Where nothing bounds it above (no
    ask), ``high_micros`` repeats ``low_micros``. ``volume``, ``supply`` and ``demand`` count nodes sold, offered and
    wanted at any price; a bid counts in the demand of every class that it accepts.
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
    """The result of one tick, in a canonical order: a function of the book and the seed alone.

    ``dropped`` has one entry for each time the tick was cleared again: the all-or-nothing bids left out from then on.
    """

    classes: tuple[ClassClearing, ...]
    awards: tuple[Award, ...]
    losers: tuple[Loser, ...]
    dropped: tuple[tuple[str, ...], ...]
    book_hash: str


@dataclass(frozen=True, slots=True)
class _Round:
    columns: Columns
    bids: list[Bid]
    asks: list[Ask]
    outcome: Outcome


def clear(book: Book, *, seed: bytes) -> Clearing:
    """Clear every device class of the book together.

    Bids above their cheapest class's price win whole, asks below their class's price sell whole; only orders exactly at
    it are rationed: running leases first, then pro rata by quantity, odd units by the order of SHA-256(seed ‖ id).
    Only a floor can leave asks below the price unsold; then those are shared out in the same way.
    A bid whose own device is among the winners keeps it. Raises ValueError for more than 2^31 - 1 units on one side.
    """
    units = admitted_units(book)
    final, partly, dropped = _rounds(book, units, seed)
    names = book.device_classes()
    awards = _awards(final, names)
    low, high = final.outcome.low, final.outcome.high
    supply, demand = depths(book)
    volumes = Counter(award.device_class for award in awards)
    classes = [
        ClassClearing(
            name,
            low[c] if volumes[name] else None,
            volumes[name],
            supply[name],
            demand[name],
            low[c],
            low[c] if (top := high[c]) is None else top,
        )
        for c, name in enumerate(names)
    ]
    losers = _losers(book, units, final, partly, {one.device_class: one.price_micros for one in classes})
    return Clearing(tuple(classes), tuple(awards), tuple(losers), dropped, book_hash(book))


def _rounds(
    book: Book, units: Mapping[str, int], seed: bytes
) -> tuple[_Round, dict[str, int], tuple[tuple[str, ...], ...]]:
    """Clear, drop the all-or-nothing bids that got a part, and clear again.

    The last time, drop every such bid that is not strictly inside its price: fewer bids never raise a price, so the
    ones that stay are filled whole. Returns the last round, what each dropped bid had got, and who was dropped when.
    """
    partly: dict[str, int] = {bid.id: 0 for bid in book.bids if units[f"bid {bid.id}"] < bid.min_nodes}
    dropped: list[tuple[str, ...]] = []
    while True:
        columns, bids, asks = columns_of(book, units, without=partly)
        outcome = clear_columns(columns, seed=seed)
        won = dict(zip(columns.bid_ids, outcome.allocation.won.tolist(), strict=True))
        short = {bid.id for bid in bids if 0 < won[bid.id] < bid.min_nodes}
        if not short:
            return _Round(columns, bids, asks, outcome), partly, tuple(dropped)
        if len(dropped) == RECLEARS_MAX - 1:
            # What is strictly inside its price is filled whole already.
            short = {bid.id for bid in bids if bid.min_nodes > 1 and won[bid.id] < units[f"bid {bid.id}"]}
            short |= {bid.id for bid in bids if bid.min_nodes > 1 and _at_margin(bid, outcome.low, book)}
        partly |= {bid_id: won[bid_id] for bid_id in short}
        dropped.append(tuple(sorted(short)))


def _at_margin(bid: Bid, low: Sequence[int], book: Book) -> bool:
    names = book.device_classes()
    return bid.value_micros == min(low[names.index(name)] for name in bid.device_classes)


def _awards(final: _Round, names: Sequence[str]) -> list[Award]:
    """Give each node won a slot sold of its class: the one that it holds now, or else by the order of ids."""
    columns, allocation, low = final.columns, final.outcome.allocation, final.outcome.low
    nodes, slots = allocation.won.tolist(), allocation.sold.tolist()
    routes = [Counter(route) for route in allocation.routes]
    pairs = []
    # The running leases that the allocation kept, then those whose bid and ask both won all the same.
    for bid, ask in dict.fromkeys([*allocation.kept, *columns.incumbents]):
        group, c = int(columns.bid_groups[bid]), int(columns.ask_classes[ask])
        if nodes[bid] and slots[ask] and routes[c][group]:
            pairs.append((bid, ask))
            nodes[bid] -= 1
            slots[ask] -= 1
            routes[c][group] -= 1
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    for bid, count in enumerate(nodes):
        waiting[int(columns.bid_groups[bid])] += [bid] * count
    next_in = {group: iter(bids) for group, bids in waiting.items()}
    free: list[list[int]] = [[] for _ in names]
    for ask, count in enumerate(slots):
        free[int(columns.ask_classes[ask])] += [ask] * count
    for c, route in enumerate(routes):
        bids = [next(next_in[group]) for group, count in sorted(route.items()) for _ in range(count)]
        pairs += zip(bids, free[c], strict=True)
    awards = [
        Award(columns.bid_ids[bid], columns.ask_ids[ask], names[c], low[c])
        for bid, ask in pairs
        for c in [int(columns.ask_classes[ask])]
    ]
    return sorted(awards, key=lambda award: (award.device_class, award.bid_id, award.ask_id))


def _losers(
    book: Book, units: Mapping[str, int], final: _Round, partly: Mapping[str, int], prices: Mapping[str, int | None]
) -> Iterator[Loser]:
    """Explain every order that got less than it asked for, by side and id."""
    allocation = final.outcome.allocation
    won = dict(zip(final.columns.bid_ids, allocation.won.tolist(), strict=True))
    sold = dict(zip(final.columns.ask_ids, allocation.sold.tolist(), strict=True))
    explainer = Explainer(
        [replace(bid, quantity=units[f"bid {bid.id}"], min_nodes=1) for bid in final.bids],
        [replace(ask, slots=units[f"ask {ask.id}"]) for ask in final.asks],
        floors=book.floors,
        prices=prices,
        owner_percent_max=book.owner_percent_max,
    )
    for ask in sorted(book.asks, key=lambda ask: ask.id):
        if sold.get(ask.id, 0) < ask.slots:
            yield explainer.ask(ask, admitted=units[f"ask {ask.id}"], sold=sold.get(ask.id, 0))
    for bid in sorted(book.bids, key=lambda bid: bid.id):
        if won.get(bid.id, 0) < bid.quantity:
            admitted = units[f"bid {bid.id}"]
            yield explainer.bid(bid, admitted=admitted, won=won.get(bid.id, 0), partly=partly.get(bid.id))
