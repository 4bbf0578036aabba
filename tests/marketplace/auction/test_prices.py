"""The prices are exactly the bottom and the top of the lattice of clearing prices."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, milp

from marketplace.auction import Ask, Bid, Book, clear, clear_columns
from marketplace.auction.admission import admitted_units, columns_of
from tests.marketplace.auction.books import (
    MANY,
    PRICES,
    SEEDS,
    SMALL,
    UNITS,
    books,
    cheapest,
    low,
    lyapunov,
    minimisers,
    sold,
    subsets,
    won,
)

TINY = books(orders_max=5, prices=SMALL)


@settings(deadline=None)
@given(TINY)
def test_prices_are_the_bottom_of_the_lattice(book: Book) -> None:
    """Of all price vectors that minimise L, tried one by one, ours is the lowest in every class; the interval's top is
    the highest."""
    assume(book.bids or book.asks)
    result, top = clear(book, seed=b""), 8
    found = minimisers(book, top)
    assert low(result) in found
    for one in result.classes:
        each = [prices[one.device_class] for prices in found]
        assert one.low_micros == min(each)
        # Nothing bounds the price of a class without asks: then the interval is said to be a point.
        assert one.high_micros == (max(each) if max(each) < top else one.low_micros)


@given(MANY)
def test_no_set_of_classes_can_be_lowered(book: Book) -> None:
    """Lowering the price of any classes together, as far as floors allow, or raising any, makes nobody's market."""
    prices = low(clear(book, seed=b""))
    least = lyapunov(book, prices)
    for names in subsets(list(prices)):
        raised = prices | {name: prices[name] + 1 for name in names}
        lowered = prices | {name: prices[name] - 1 for name in names}
        assert lyapunov(book, raised) >= least
        if all(lowered[name] >= book.floors.get(name, 0) for name in names):
            assert lyapunov(book, lowered) > least


@given(MANY, SEEDS)
def test_strong_duality(book: Book, seed: bytes) -> None:
    """The value that the awards create is L(p), less only what a binding floor keeps its sellers from selling."""
    result = clear(book, seed=seed)
    prices, slots = low(result), sold(result)
    values = {bid.id: bid.value_micros for bid in book.bids}
    reserves = {ask.id: ask.reserve_micros for ask in book.asks}
    welfare = sum(values[award.bid_id] - reserves[award.ask_id] for award in result.awards)
    unsold = [
        (ask.device_class, (ask.slots - slots[ask.id]) * max(0, prices[ask.device_class] - ask.reserve_micros))
        for ask in book.asks
    ]
    assert all(prices[name] == book.floors.get(name, 0) for name, surplus in unsold if surplus)
    assert welfare + sum(surplus for _, surplus in unsold) == lyapunov(book, prices)


def optimum(book: Book) -> int:
    """The most value that any assignment creates, by HiGHS; the operator takes a class's surplus at its floor."""
    pairs = [(bid, name) for bid in book.bids for name in bid.device_classes]
    names = book.device_classes()
    gain = [bid.value_micros for bid, _ in pairs] + [-ask.reserve_micros for ask in book.asks]
    gain += [book.floors.get(name, 0) for name in names]
    rows = [[float(pair[0] is bid) for pair in pairs] + [0.0] * (len(book.asks) + len(names)) for bid in book.bids]
    for name in names:
        taken = [float(pair[1] == name) for pair in pairs]
        given_ = [-float(ask.device_class == name) for ask in book.asks]
        rows.append([*taken, *given_, *(float(other == name) for other in names)])
    limits = [float(bid.quantity) for bid in book.bids] + [0.0] * len(names)
    units = [bid.quantity for bid, _ in pairs] + [ask.slots for ask in book.asks] + [10**6] * len(names)
    found = milp(
        -np.array(gain, dtype=float),
        constraints=LinearConstraint(np.array(rows), -np.inf, limits),
        integrality=np.ones(len(gain)),
        bounds=(0, np.array(units)),
    )
    return round(-found.fun)


@settings(deadline=None)  # HiGHS loads slowly the first time
@given(books(orders_max=10, prices=st.integers(0, 40)))
def test_welfare_equals_highs(book: Book) -> None:
    """L at our prices is exactly the most value that HiGHS finds in whole units."""
    assume(book.bids and book.asks)
    assert lyapunov(book, low(clear(book, seed=b""))) == optimum(book)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1))
def test_large_books_equal_highs(number: int) -> None:
    """With 300 orders in six classes too, HiGHS finds the same welfare and the same lowest prices."""
    chance = np.random.default_rng(number)
    names = [f"c{i}" for i in range(6)]
    top = int(chance.choice([10, 300, 100_000]))
    draw = lambda high: int(chance.integers(0, high))  # noqa: E731
    bids = []
    for i in range(150):
        mask = tuple(name for name in names if draw(3) == 0) or (names[draw(6)],)
        bids.append(Bid(f"b{i}", draw(top), 1 + draw(5), mask, f"o{i}"))
    asks = [Ask(f"a{i}", draw(top), 1 + draw(5), names[draw(6)], f"o{i}") for i in range(150)]
    floors = {name: draw(top // 2) if draw(2) else 0 for name in names}
    book = Book(tuple(bids), tuple(asks), floors, owner_percent_max=100)
    result = clear(book, seed=b"")
    assert lyapunov(book, low(result)) == optimum(book)
    assert [one.low_micros for one in result.classes] == lowest_by_highs(book)


def lowest_by_highs(book: Book) -> list[int]:
    """The lowest clearing prices by two linear programs: the least L(p), then the least sum of prices with that L."""
    names, n, m = book.device_classes(), len(book.bids), len(book.asks)
    index = {name: c for c, name in enumerate(names)}
    width = len(names) + n + m  # prices, then each bid's and each ask's surplus
    rows, limits = [], []
    for i, bid in enumerate(book.bids):
        for name in bid.device_classes:
            row = np.zeros(width)
            row[index[name]], row[len(names) + i] = -1, -1
            rows.append(row)
            limits.append(-bid.value_micros)
    for j, ask in enumerate(book.asks):
        row = np.zeros(width)
        row[index[ask.device_class]], row[len(names) + n + j] = 1, -1
        rows.append(row)
        limits.append(ask.reserve_micros)
    units = [0.0] * len(names) + [float(bid.quantity) for bid in book.bids] + [float(ask.slots) for ask in book.asks]
    bounds = [(book.floors.get(name, 0), None) for name in names] + [(0, None)] * (n + m)
    least = linprog(units, A_ub=np.array(rows), b_ub=limits, bounds=bounds, method="highs").fun
    again = linprog(
        [1.0] * len(names) + [0.0] * (n + m),
        A_ub=np.array([*rows, units]),
        b_ub=[*limits, least + 1e-4],
        bounds=bounds,
        method="highs",
    )
    return [round(price) for price in again.x[: len(names)]]


@given(MANY, PRICES, UNITS, st.sets(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_more_orders_move_prices_the_right_way(book: Book, price: int, units: int, names: set[str]) -> None:
    """One more bid lowers no price of any class, one more ask raises none."""
    assume(book.bids or book.asks)
    before = low(clear(book, seed=b""))
    bid = Bid("new", price, units, tuple(sorted(names)), "o")
    ask = Ask("new", price, units, min(names), "o")
    with_bid = low(clear(replace(book, bids=(*book.bids, bid)), seed=b""))
    with_ask = low(clear(replace(book, asks=(*book.asks, ask)), seed=b""))
    assert all(with_bid[name] >= price for name, price in before.items())
    assert all(with_ask[name] <= price for name, price in before.items())


@given(MANY, SEEDS, st.integers(2, 10**6))
def test_scaling_prices_scales_the_result(book: Book, seed: bytes, factor: int) -> None:
    """In another currency the same orders win at the same, converted, prices."""
    top = max([0, *(b.value_micros for b in book.bids), *(a.reserve_micros for a in book.asks), *book.floors.values()])
    factor = min(factor, 10**9 // max(top, 1))
    scaled = replace(
        book,
        bids=tuple(replace(bid, value_micros=bid.value_micros * factor) for bid in book.bids),
        asks=tuple(replace(ask, reserve_micros=ask.reserve_micros * factor) for ask in book.asks),
        floors={name: floor * factor for name, floor in book.floors.items()},
    )
    before, after = clear(book, seed=seed), clear(scaled, seed=seed)
    assert after.awards == tuple(replace(award, price_micros=award.price_micros * factor) for award in before.awards)
    assert [(one.low_micros, one.high_micros) for one in after.classes] == [
        (one.low_micros * factor, one.high_micros * factor) for one in before.classes
    ]


@given(MANY, st.sampled_from([10**5, 10**7]))
def test_huge_quantities_clear_alike(book: Book, factor: int) -> None:
    """Orders a million times as large, near the bounds of the integers used, clear at the same prices."""
    small = clear(book, seed=b"")
    units = [bid.quantity for bid in book.bids] + [ask.slots for ask in book.asks]
    factor = min(factor, (2**31 - 1) // max(sum(units), 1))
    huge = replace(
        book,
        bids=tuple(replace(bid, quantity=bid.quantity * factor) for bid in book.bids),
        asks=tuple(replace(ask, slots=ask.slots * factor) for ask in book.asks),
        incumbents={},
    )
    columns, _, _ = columns_of(huge, admitted_units(huge))
    outcome = clear_columns(columns, seed=b"")
    assert outcome.low == [one.low_micros for one in small.classes]
    plain = replace(book, incumbents={})
    volume = len(clear(plain, seed=b"").awards)
    assert int(outcome.allocation.won.sum()) == int(outcome.allocation.sold.sum()) == volume * factor


@given(books(prices=SMALL, running=False), SEEDS, SMALL, SMALL, st.data())
def test_a_buyer_of_one_node_does_best_with_the_truth(
    book: Book, seed: bytes, value: int, lie: int, data: st.DataObject
) -> None:
    """Whatever price and classes a buyer of one node bids, it gains no more than by bidding what is true."""
    masks = st.sets(st.sampled_from(["a", "b", "c"]), min_size=1)
    true, false = data.draw(masks), data.draw(masks)

    def gain(bid_micros: int, names: set[str]) -> int:
        mine = Bid("mine", bid_micros, 1, tuple(sorted(names)), "me")
        result = clear(replace(book, bids=(*book.bids, mine)), seed=seed)
        return sum(
            (value if award.device_class in true else 0) - award.price_micros
            for award in result.awards
            if award.bid_id == "mine"
        )

    assert gain(lie, false) <= gain(value, true)


@given(MANY, SEEDS)
def test_every_filled_bid_sits_in_its_cheapest_class(book: Book, seed: bytes) -> None:
    """No bid is put into a dearer class than another that it accepts, and every bid above its price is filled whole."""
    result = clear(book, seed=seed)
    prices, nodes, bids = low(result), won(result), {bid.id: bid for bid in book.bids}
    for award in result.awards:
        assert award.price_micros == prices[award.device_class] == cheapest(bids[award.bid_id], prices)
    for bid in book.bids:
        if bid.value_micros > cheapest(bid, prices):
            assert nodes[bid.id] == bid.quantity


@given(MANY, SEEDS)
def test_above_the_floor_every_ask_below_the_price_sells(book: Book, seed: bytes) -> None:
    """Where a price is above its floor, no ask below it is left unsold."""
    result = clear(book, seed=seed)
    prices, slots = low(result), sold(result)
    for ask in book.asks:
        if ask.reserve_micros < prices[ask.device_class] > book.floors.get(ask.device_class, 0):
            assert slots[ask.id] == ask.slots


@pytest.mark.parametrize(
    ("values", "reserves", "floor", "price", "interval"),
    [
        ([], [], 0, None, None),
        ([20], [], 0, None, (20, 20)),
        ([], [10], 0, None, (0, 10)),
        ([20], [30], 0, None, (20, 30)),
        ([20], [10], 0, 10, (10, 20)),
        ([30, 20], [10], 0, 20, (20, 30)),
        ([30, 20], [10, 12], 0, 12, (12, 20)),
        ([30, 20], [10, 12, 15], 0, 12, (12, 15)),
        ([20, 20, 20], [20, 20], 0, 20, (20, 20)),
        ([0], [0], 0, 0, (0, 0)),
        ([10**9], [1], 0, 1, (1, 10**9)),
        ([30, 20], [10, 12, 15], 25, 25, (25, 25)),
        ([20], [10], 25, None, (25, 25)),
    ],
)
def test_known_books(
    values: list[int], reserves: list[int], floor: int, price: int | None, interval: tuple[int, int] | None
) -> None:
    """Empty, one-sided, tied, free and huge books clear to the price worked out by hand."""
    bids = tuple(Bid(f"b{n}", value, 1, ("c",), "o") for n, value in enumerate(values))
    asks = tuple(Ask(f"a{n}", reserve, 1, "c", "o") for n, reserve in enumerate(reserves))
    classes = clear(Book(bids, asks, {"c": floor}), seed=b"").classes
    assert [one.price_micros for one in classes] == ([price] if interval else [])
    assert [(one.low_micros, one.high_micros) for one in classes] == ([interval] if interval else [])


def test_a_flexible_bid_pulls_two_classes_together() -> None:
    """Whoever accepts either class ties their prices; whoever needs one of them pays no more than that."""
    bids = (
        Bid("any", 30, 2, ("big", "small"), "o"),
        Bid("big", 50, 1, ("big",), "p"),
        Bid("late", 20, 1, ("big",), "q"),
    )
    asks = (Ask("b", 5, 1, "big", "s"), Ask("s1", 10, 1, "small", "s"), Ask("s2", 22, 1, "small", "s"))
    result = clear(Book(bids, asks), seed=b"")
    assert low(result) == {"big": 22, "small": 22}
    assert [(a.bid_id, a.ask_id) for a in result.awards] == [("big", "b"), ("any", "s1"), ("any", "s2")]
