"""Who wins at the clearing prices: strict winners whole, and only exactly-marginal orders rationed.

Two bounded flows over mask groups × classes of equal lowest price decide how many units each group buys and each class
sells. What a flow has taken from a source it never takes back (see flow.py), so claims are pushed in the order of their
right: first the buyers' claims into all supply, which fixes what each group buys; then the sellers' claims into exactly
that. Both orders of right can be met at once (Mendelsohn and Dulmage 1958).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marketplace.auction.columns import Columns, Ints, classes_in
from marketplace.auction.flow import Flow
from marketplace.auction.ladder import Ladder
from marketplace.auction.ration import Draw, push_fairly, ration

Pair = tuple[int, int]
"""(bid, ask) of a running lease."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """Who won how much at the prices.

    ``won`` and ``sold`` are units per bid and per ask. ``routes[c]`` says how many units of class c each mask group
    buys; ``kept`` are the running leases that go on, their units within ``routes``.
    """

    won: Ints
    sold: Ints
    routes: list[dict[int, int]]
    kept: list[Pair]


@dataclass(frozen=True, eq=False)
class _Margin:
    """The book at the prices: who is strictly inside, who exactly at the margin, and the running leases to keep."""

    columns: Columns
    prices: list[int]
    cheapest: list[list[int]]
    """Per group, those of its classes that have its lowest price."""
    bid_prices: Ints
    ask_prices: Ints
    inside: Ints
    """Units strictly inside their price, per group then per class."""
    marginal: Ints
    pairs: list[Pair]
    seed: bytes

    def place(self, pair: Pair) -> tuple[int, int]:
        """Return the group and the class of a running lease."""
        return int(self.columns.bid_groups[pair[0]]), int(self.columns.ask_classes[pair[1]])

    def tied(self, bid: int) -> bool:
        """Whether a bid is exactly at its price."""
        return bool(self.columns.bid_values[bid] == self.bid_prices[bid])


@dataclass(frozen=True, slots=True)
class _Bought:
    """Units that each group buys of any cheapest class, and units bound to one (group, class) by running leases."""

    free: dict[int, int]
    bound: Counter[tuple[int, int]]

    def total(self, group: int) -> int:
        """Return all that a group buys."""
        return self.free[group] + sum(units for (at, _), units in self.bound.items() if at == group)


def allocate(columns: Columns, ladder: Ladder, prices: Sequence[int], *, seed: bytes) -> Allocation:
    """Fill the book at its lowest clearing prices (micro-dollars per compute-hour, one per class)."""
    at = _margin(columns, ladder, list(prices), seed)
    found = _attempt(at, at.pairs)
    fits, too_many = 0, len(at.pairs)
    while found is None and fits < too_many - 1:
        # Some running lease stands in the way of a strict winner: keep as many of the best claims as can be.
        middle = (fits + too_many) // 2
        if _attempt(at, at.pairs[:middle]):
            fits = middle
        else:
            too_many = middle
    found = found or _attempt(at, at.pairs[:fits])
    if found is None:
        raise RuntimeError("the prices do not clear the book")
    return found


def _attempt(at: _Margin, pairs: list[Pair]) -> Allocation | None:
    """Allocate with these running leases bound to their classes; None where strict winners would lose by it."""
    demand = _demand(at, pairs)
    if demand is None:
        return None
    bought, kept = demand
    won = _won(at, bought, kept)
    supply = _Supply(at, bought, kept)
    if not supply.sell():
        return None
    return Allocation(won, supply.sold(), supply.routes(), kept)


def _margin(columns: Columns, ladder: Ladder, prices: list[int], seed: bytes) -> _Margin:
    group_prices, cheapest = [], []
    for mask in columns.masks:
        price = min(prices[c] for c in classes_in(mask))
        group_prices.append(price)
        cheapest.append([c for c in classes_in(mask) if prices[c] == price])
    at = np.array(group_prices + prices, dtype=np.int64)
    up_to, below = ladder.at_most(at), ladder.at_most(at - 1)
    inside = np.concatenate((ladder.totals[: ladder.groups] - up_to[: ladder.groups], below[ladder.groups :]))
    bid_prices, ask_prices = at[columns.bid_groups], at[ladder.groups :][columns.ask_classes]
    margin = _Margin(columns, prices, cheapest, bid_prices, ask_prices, inside, up_to - below, [], seed)
    margin.pairs.extend(_running(margin))
    return margin


def _running(at: _Margin) -> list[Pair]:
    """Return the running leases whose bid and ask may both win, in the order of their claims: the strict ones first."""
    columns, rank = at.columns, Draw(at.seed, at.columns.bid_ids)
    free: dict[int, int] = {}
    pairs = []
    for bid, ask in sorted(columns.incumbents, key=lambda pair: rank(pair[0])):
        bid_over = columns.bid_values[bid] - at.bid_prices[bid]
        ask_under = at.ask_prices[ask] - columns.ask_reserves[ask]
        left = free.setdefault(ask, int(columns.ask_units[ask]))
        if (
            left
            and bid_over >= 0
            and ask_under >= 0
            and columns.ask_classes[ask] in at.cheapest[columns.bid_groups[bid]]
        ):
            free[ask] -= 1
            pairs.append((not bid_over, not ask_under, bid, ask))
    return [(bid, ask) for _, _, bid, ask in sorted(pairs, key=lambda claim: claim[:2])]


def _demand(at: _Margin, pairs: list[Pair]) -> tuple[_Bought, list[Pair]] | None:
    """Return what each group buys, and the running leases that go on; None if not all strict bids find supply."""
    columns, groups = at.columns, range(len(at.columns.masks))
    inside, marginal = at.inside.tolist(), at.marginal.tolist()
    supply = [inside[c] + marginal[c] for c in range(len(groups), len(inside))]
    places = sorted({at.place(pair) for pair in pairs})
    # Each group is a source, and each (group, class) with running leases is one that knows only that class.
    bound = {place: len(groups) + i for i, place in enumerate(places)}
    flow = Flow(dict(enumerate([*at.cheapest, *([c] for _, c in places)])), supply)
    strict = Counter(at.place(pair) for pair in pairs if not at.tied(pair[0]))
    tied = Counter(at.place(pair) for pair in pairs if at.tied(pair[0]))
    for (group, c), units in strict.items():
        inside[group] -= units
        if flow.push(bound[group, c], units) < units:
            return None
    for (group, _), units in tied.items():
        marginal[group] -= units
    if any(flow.push(group, inside[group]) < inside[group] for group in groups):
        return None
    rank = Draw(at.seed, [*(f"group {mask}" for mask in columns.masks), *(f"group {g} in {c}" for g, c in places)])
    running = push_fairly(flow, {bound[place]: units for place, units in tied.items()}, rank)
    kept, left = [], {place: running[bound[place]] for place in tied}
    for pair in pairs:
        if at.tied(pair[0]):
            if not left[at.place(pair)]:
                marginal[at.place(pair)[0]] += 1
                continue
            left[at.place(pair)] -= 1
        kept.append(pair)
    rest = push_fairly(flow, {group: marginal[group] for group in groups}, rank)
    return _Bought({group: inside[group] + rest[group] for group in groups}, Counter(map(at.place, kept))), kept


def _won(at: _Margin, bought: _Bought, pairs: list[Pair]) -> Ints:
    columns, inside = at.columns, at.inside.tolist()
    won: Ints = np.where(columns.bid_values > at.bid_prices, columns.bid_units, 0)
    marginal = np.flatnonzero(columns.bid_values == at.bid_prices)
    of_group = columns.bid_groups[marginal]
    first = np.zeros_like(won)
    first[[bid for bid, _ in pairs if at.tied(bid)]] = 1
    for group in np.unique(of_group).tolist():
        tied = marginal[of_group == group]
        volume = bought.total(group) - inside[group]
        won[tied] = _shares(at, tied, first[tied], volume, columns.bid_units, columns.bid_owners, columns.bid_ids)
    return won


def _shares(at: _Margin, tied: Ints, kept: Ints, volume: int, units: Ints, owners: Ints, ids: Sequence[str]) -> Ints:
    """Units of each tied order: those of running leases first, the rest of ``volume`` pro rata."""
    draw = Draw(at.seed, ids)
    rest = ration(
        units[tied] - kept,
        owners[tied],
        volume - int(kept.sum()),
        owner_rank=Draw(at.seed, at.columns.owners),
        order_rank=lambda position: draw(int(tied[position])),
    )
    return kept + rest


class _Supply:
    """The sellers' side: classes send their units to groups that buy a fixed number."""

    def __init__(self, at: _Margin, bought: _Bought, pairs: list[Pair]) -> None:
        self.at, self.bought, self.pairs = at, bought, pairs
        self.classes = range(len(at.prices))
        self.places = sorted(bought.bound)
        groups = len(at.cheapest)
        reach: dict[int, list[int]] = {c: [] for c in self.classes}
        for group, cheapest in enumerate(at.cheapest):
            for c in cheapest:
                reach[c].append(group)
        self.sinks = {place: groups + i for i, place in enumerate(self.places)}
        spare = [bought.free[group] for group in range(groups)] + [bought.bound[place] for place in self.places]
        self.flow = Flow(reach, spare)
        self.strict: Counter[int] = Counter()
        """Units sold per class by asks strictly below the price."""
        self.tied: Counter[int] = Counter()
        """Units sold per class by asks exactly at it."""

    def sell(self) -> bool:
        """Push the sellers' claims in the order of their right; whether all that must sell does."""
        at, columns, groups = self.at, self.at.columns, len(self.at.cheapest)
        inside, marginal = at.inside[groups:].tolist(), at.marginal[groups:].tolist()
        for bid, ask in self.pairs:
            group, c = at.place((bid, ask))
            self.flow.place(c, self.sinks[group, c], 1)
            (self.tied if columns.ask_reserves[ask] == at.ask_prices[ask] else self.strict)[c] += 1
        for c in self.classes:
            # Above its floor a class sells every ask below its price. At a binding floor there may be too many of them.
            if at.prices[c] > columns.floors[c]:
                self.strict[c] += self.flow.push(c, inside[c] - self.strict[c])
                if self.strict[c] < inside[c]:
                    return False
        rank = Draw(at.seed, [f"class {c}" for c in self.classes])
        for volumes, offered in ((self.strict, inside), (self.tied, marginal)):
            volumes.update(push_fairly(self.flow, {c: offered[c] - volumes[c] for c in self.classes}, rank))
        return not any(self.flow.spare)

    def routes(self) -> list[dict[int, int]]:
        """Return what each class sells to each group."""
        routes: list[Counter[int]] = [Counter() for _ in self.classes]
        for sink, held in enumerate(self.flow.held):
            group = sink if sink < len(self.at.cheapest) else self.places[sink - len(self.at.cheapest)][0]
            for c, units in held.items():
                routes[c][group] += units
        return [dict(route) for route in routes]

    def sold(self) -> Ints:
        """Return the units that each ask sells."""
        at, columns, groups = self.at, self.at.columns, len(self.at.cheapest)
        sold: Ints = np.where(columns.ask_reserves < at.ask_prices, columns.ask_units, 0)
        kept = np.zeros_like(sold)
        for _, ask in self.pairs:
            kept[ask] += 1
        short = [c for c in self.classes if self.strict[c] < at.inside[groups + c]]
        levels = [(np.flatnonzero(sold), self.strict, short)] if short else []
        levels.append((np.flatnonzero(columns.ask_reserves == at.ask_prices), self.tied, list(self.classes)))
        for asks, volumes, classes in levels:
            of_class = columns.ask_classes[asks]
            for c in classes:
                level = asks[of_class == c]
                if len(level):
                    units, owners, ids = columns.ask_units, columns.ask_owners, columns.ask_ids
                    sold[level] = _shares(at, level, kept[level], volumes[c], units, owners, ids)
        return sold
