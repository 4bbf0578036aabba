"""The lowest and the highest vector of market-clearing class prices.

Prices clear when they minimise the dual of the assignment problem (Shapley and Shubik 1971),

    L(p) = Σ_bids q·max(0, v − min_{c ∈ M} p_c) + Σ_asks s·max(0, p_c − r),    p ≥ floors,

which is L♮-convex, so that its minimisers form a lattice (Murota, Discrete Convex Analysis, 2003, ch. 7 and 11): there
is one lowest vector, and no buyer of one node does better than to bid its value (Leonard 1983; Demange, Gale and
Sotomayor 1986). A value enters L only by comparison with prices, so L splits into one cut problem per threshold t:

    L(p) = Σ_t F_t({c : p_c > t}),   F_t(X) = units bid above t that accept a class outside X
                                             + units asked at or below t in X.

The lowest price of class c is the least t at which c is not in the smallest minimiser of F_t. That minimiser is the
minimal over-demanded set of Demange, Gale and Sotomayor at "every price is t": what the bids above t reach in the
residual graph of a maximum flow into the asks at or below t. As t rises the set only shrinks, so instead of raising it
step by step we halve: classes over-demanded at the middle of an interval are priced in its upper half, the others in
the lower one, and from then on the two parts never meet again (the decomposition of Hochbaum 2001, with the halving of
scaled steepest descent: Murota 2003, ch. 10).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from marketplace.auction.columns import Columns, Ints, classes_in
from marketplace.auction.flow import Flow
from marketplace.auction.ladder import Ladder


@dataclass(slots=True)
class _Part:
    """Classes whose prices all lie in [low, high], with the mask groups that decide them.

    A group is here with the classes that it may still use: those of its mask in this part. All its other classes are
    dearer, so it does not want them.
    """

    classes: list[int]
    groups: list[tuple[int, int]]
    low: int
    high: int


def lowest_prices(columns: Columns, ladder: Ladder) -> list[int]:
    """Return the unique lowest clearing price of each class, in micro-dollars per compute-hour."""
    return _search(columns, ladder, _over_demanded, top=_top(columns))


def highest_prices(columns: Columns, ladder: Ladder) -> list[int | None]:
    """Return the highest clearing price of each class; None where nothing bounds it (no asks)."""
    top = _top(columns) + 1
    prices = _search(columns, ladder, _not_under_demanded, top=top)
    return [None if price == top else price for price in prices]


def _top(columns: Columns) -> int:
    values, reserves = columns.bid_values.max(initial=0), columns.ask_reserves.max(initial=0)
    return int(max(values, reserves, *columns.floors, 0))


_Test = Callable[[Flow, list[tuple[int, int]]], int]
"""From a flow and the (group, units) still to be pushed, the classes priced above the threshold, as a mask."""


def _search(columns: Columns, ladder: Ladder, above: _Test, *, top: int) -> list[int]:
    prices = [0] * ladder.classes
    parts = [_Part(list(range(ladder.classes)), list(enumerate(columns.masks)), 0, top)]
    while parts:
        thresholds = np.full(ladder.groups + ladder.classes, -1, dtype=np.int64)
        for part in parts:
            middle = (part.low + part.high) // 2
            thresholds[[group for group, _ in part.groups] + [ladder.groups + c for c in part.classes]] = middle
        units = _wanted_and_offered(ladder, thresholds)
        unfinished = []
        for part in parts:
            for half in _halves(part, units, columns, ladder, above):
                if half.low < half.high:
                    unfinished.append(half)
                else:
                    for c in half.classes:
                        prices[c] = half.low
        parts = unfinished
    return prices


def _wanted_and_offered(ladder: Ladder, thresholds: Ints) -> list[int]:
    """Per group the units bid above its threshold; per class the units asked at or below its threshold."""
    units = ladder.at_most(thresholds)
    units[: ladder.groups] = ladder.totals[: ladder.groups] - units[: ladder.groups]
    counts: list[int] = units.tolist()
    return counts


def _halves(part: _Part, units: list[int], columns: Columns, ladder: Ladder, above: _Test) -> list[_Part]:
    middle = (part.low + part.high) // 2
    index = {c: i for i, c in enumerate(part.classes)}
    # A class below its floor is never priced here: it offers nothing, so that whoever accepts only such is stuck.
    barred = sum(1 << c for c in part.classes if columns.floors[c] > middle)
    offered = [0 if barred >> c & 1 else units[ladder.groups + c] for c in part.classes]
    reach: dict[int, list[int]] = {}
    wanted = []
    for group, mask in part.groups:
        if units[group]:
            reach[group] = [index[c] for c in classes_in(mask & ~barred)]
            wanted.append((group, units[group]))
    flow = Flow(reach, offered)
    found = above(flow, wanted)
    dear = barred | sum(1 << c for i, c in enumerate(part.classes) if found >> i & 1)
    upper = _Part([c for c in part.classes if dear >> c & 1], [], middle + 1, part.high)
    lower = _Part([c for c in part.classes if not dear >> c & 1], [], part.low, middle)
    for group, mask in part.groups:
        if mask & ~dear:
            lower.groups.append((group, mask & ~dear))
        else:
            upper.groups.append((group, mask))
    return [half for half in (upper, lower) if half.classes]


def _over_demanded(flow: Flow, wanted: list[tuple[int, int]]) -> int:
    for group, units in wanted:
        flow.push(group, units)
    return sum(1 << sink for sink in flow.full)


def _not_under_demanded(flow: Flow, wanted: list[tuple[int, int]]) -> int:
    for group, units in wanted:
        flow.push(group, units)
    roomy = flow.roomy()
    return sum(1 << sink for sink in range(len(flow.spare)) if sink not in roomy)
