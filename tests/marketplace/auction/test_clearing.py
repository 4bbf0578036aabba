"""The auction's promises, exactly: integers, no tolerance."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from marketplace.auction import Ask, Bid, Book, Clearing, Depth, clear

SEEDS = st.binary(max_size=4)
# Few distinct prices, so that ties abound; now and then zero or more than 64 bits.
PRICES = st.one_of(st.integers(0, 8), st.integers(0, 60_000), st.sampled_from([0, 10**9, 2**63, 10**30]))
UNITS = st.integers(1, 4)


@st.composite
def books(draw: st.DrawFn, classes: tuple[str, ...] = ("c",), orders_max: int = 8, prices=PRICES) -> Book:
    """A small book with ties, floors and incumbents, some of them nonsense."""
    rows = st.lists(st.tuples(prices, UNITS, st.sampled_from(classes)), max_size=orders_max)
    bids = tuple(Bid(f"bid_{i}", *row, i, f"o{i % 3}") for i, row in enumerate(draw(rows)))
    asks = tuple(Ask(f"ask_{i}", *row, i, f"o{i % 3}") for i, row in enumerate(draw(rows)))
    floors = draw(st.dictionaries(st.sampled_from(classes), st.one_of(st.just(0), prices)))
    ask_ids = st.sampled_from([*(ask.id for ask in asks), "ask_gone"])
    incumbents = draw(st.dictionaries(st.sampled_from([*(bid.id for bid in bids), "bid_gone"]), ask_ids, max_size=4))
    return Book(bids, asks, floors, incumbents)


MANY = books(classes=("a", "b"))


def won(result: Clearing) -> Counter[str]:
    """Nodes won by each bid."""
    return Counter(award.bid_id for award in result.awards)


def sold(result: Clearing) -> Counter[str]:
    """Slots sold by each ask."""
    return Counter(award.ask_id for award in result.awards)


def clears(book: Book, price: int) -> bool:
    """Whether a one-class book has a feasible trade in which nobody wants to do other than told at ``price``."""
    wanted = Depth((bid.value_micros, bid.quantity) for bid in book.bids)
    offered = Depth((ask.reserve_micros, ask.slots) for ask in book.asks)
    # At a floor that holds the price up, sellers may be left over.
    held_up = price == book.floors.get("c", 0)
    few_sellers = offered.below(price) <= wanted.at_least(price)
    return wanted.above(price) <= offered.at_most(price) and (few_sellers or held_up)


@given(MANY, SEEDS)
def test_feasible(book: Book, seed: bytes) -> None:
    """Nobody gets more than it asked for, no slot is sold twice, classes do not mix, and the counts agree."""
    result = clear(book, seed=seed)
    bids, asks = {bid.id: bid for bid in book.bids}, {ask.id: ask for ask in book.asks}
    assert all(count <= bids[bid_id].quantity for bid_id, count in won(result).items())
    assert all(count <= asks[ask_id].slots for ask_id, count in sold(result).items())
    for award in result.awards:
        assert bids[award.bid_id].device_class == asks[award.ask_id].device_class == award.device_class
    for one in result.classes:
        awards = [award for award in result.awards if award.device_class == one.device_class]
        assert len(awards) == one.volume <= min(one.supply, one.demand)
        assert {award.price_micros for award in awards} <= {one.price_micros}
        assert (one.price_micros is None) == (one.volume == 0)
        assert one.demand == sum(bid.quantity for bid in book.bids if bid.device_class == one.device_class)
        assert one.supply == sum(ask.slots for ask in book.asks if ask.device_class == one.device_class)


@given(MANY, SEEDS)
def test_individual_rationality(book: Book, seed: bytes) -> None:
    """Nobody pays more than its value, nobody is paid less than its reserve, and no floor is undercut."""
    values = {bid.id: bid.value_micros for bid in book.bids}
    reserves = {ask.id: ask.reserve_micros for ask in book.asks}
    for award in clear(book, seed=seed).awards:
        assert reserves[award.ask_id] <= award.price_micros <= values[award.bid_id]
        assert award.price_micros >= book.floors.get(award.device_class, 0)


@given(books(), SEEDS)
def test_best_first(book: Book, seed: bytes) -> None:
    """No better bid is rejected while a weaker one fills; no cheaper ask idles while a dearer one sells."""
    result = clear(book, seed=seed)
    nodes, slots = won(result), sold(result)
    for bid in book.bids:
        if nodes[bid.id] < bid.quantity:
            assert not [b for b in book.bids if b.value_micros < bid.value_micros and nodes[b.id]]
    for ask in book.asks:
        if slots[ask.id] < ask.slots:
            assert not [a for a in book.asks if a.reserve_micros > ask.reserve_micros and slots[a.id]]


@given(books(), SEEDS)
def test_nobody_at_the_price_is_left_out(book: Book, seed: bytes) -> None:
    """Every bid above the price is filled whole, and above the floor every ask below the price sells out."""
    result = clear(book, seed=seed)
    for one in result.classes:
        if one.price_micros is None:
            continue
        nodes, slots = won(result), sold(result)
        assert all(nodes[bid.id] == bid.quantity for bid in book.bids if bid.value_micros > one.price_micros)
        if one.price_micros > book.floors.get("c", 0):
            assert all(slots[ask.id] == ask.slots for ask in book.asks if ask.reserve_micros < one.price_micros)


@given(books(), SEEDS)
def test_price_is_the_lowest_that_clears(book: Book, seed: bytes) -> None:
    """The price clears and lies in the published interval; one micro-dollar less, or above the interval, does not."""
    for one in clear(book, seed=seed).classes:
        floor = book.floors.get("c", 0)
        assert floor <= one.low_micros <= one.high_micros
        assert one.price_micros in (None, one.low_micros)
        assert clears(book, one.low_micros)
        assert clears(book, one.high_micros)
        assert clears(book, (one.low_micros + one.high_micros) // 2)
        assert one.low_micros == floor or not clears(book, one.low_micros - 1)
        if book.asks:
            assert not clears(book, one.high_micros + 1)


@settings(deadline=None)  # HiGHS loads slowly the first time
@given(books(orders_max=6, prices=st.integers(0, 40)), SEEDS)
def test_welfare_equals_linear_program(book: Book, seed: bytes) -> None:
    """The awards create exactly as much value as the optimum that HiGHS finds."""
    floor = book.floors.get("c", 0)
    pairs = [(bid, ask) for bid in book.bids if bid.value_micros >= floor for ask in book.asks]
    assume(pairs)
    rows = [[float(pair[0] is bid) for pair in pairs] for bid in book.bids]
    rows += [[float(pair[1] is ask) for pair in pairs] for ask in book.asks]
    limits = [bid.quantity for bid in book.bids] + [ask.slots for ask in book.asks]
    loss = [ask.reserve_micros - bid.value_micros for bid, ask in pairs]
    optimum = linprog(loss, A_ub=rows, b_ub=limits, method="highs")
    values = {bid.id: bid.value_micros for bid in book.bids}
    reserves = {ask.id: ask.reserve_micros for ask in book.asks}
    welfare = sum(values[award.bid_id] - reserves[award.ask_id] for award in clear(book, seed=seed).awards)
    assert welfare == round(-optimum.fun)


@given(MANY, SEEDS, st.randoms(use_true_random=False))
def test_order_of_listing_means_nothing(book: Book, seed: bytes, shuffler: random.Random) -> None:
    """A book listed in another order clears to the same result, and the same book and seed always do."""
    bids, asks = list(book.bids), list(book.asks)
    shuffler.shuffle(bids)
    shuffler.shuffle(asks)
    incumbents = dict(reversed(book.incumbents.items()))
    assert clear(replace(book, bids=tuple(bids), asks=tuple(asks), incumbents=incumbents), seed=seed) == clear(
        book, seed=seed
    )


@given(books(), SEEDS, SEEDS)
def test_seed_touches_only_the_margin(book: Book, seed: bytes, other: bytes) -> None:
    """Another seed changes no price, no volume and nobody's fill but that of orders tied at one margin."""
    one, two = clear(book, seed=seed), clear(book, seed=other)
    assert one.classes == two.classes
    values = {bid.value_micros for bid in book.bids if won(one)[bid.id] != won(two)[bid.id]}
    reserves = {ask.reserve_micros for ask in book.asks if sold(one)[ask.id] != sold(two)[ask.id]}
    assert len(values) <= 1
    assert len(reserves) <= 1


@given(books(), PRICES, UNITS)
def test_more_orders_move_the_price_the_right_way(book: Book, price: int, units: int) -> None:
    """One more bid never lowers the price, one more ask never raises it."""
    assume(book.bids or book.asks)
    [before] = clear(book, seed=b"").classes
    [bid] = clear(replace(book, bids=(*book.bids, Bid("new", price, units, "c", 0, "o"))), seed=b"").classes
    [ask] = clear(replace(book, asks=(*book.asks, Ask("new", price, units, "c", 0, "o"))), seed=b"").classes
    assert ask.low_micros <= before.low_micros <= bid.low_micros


@given(MANY, SEEDS, st.integers(2, 10**6))
def test_scaling_prices_scales_the_result(book: Book, seed: bytes, factor: int) -> None:
    """In another currency the same orders win at the same, converted, prices."""
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


@given(MANY, SEEDS)
def test_splitting_orders_changes_no_price(book: Book, seed: bytes) -> None:
    """Many orders of one node each clear like one order of many: same prices, same volumes."""
    split = Book(
        tuple(replace(bid, id=f"{bid.id}.{n}", quantity=1) for bid in book.bids for n in range(bid.quantity)),
        tuple(replace(ask, id=f"{ask.id}.{n}", slots=1) for ask in book.asks for n in range(ask.slots)),
        book.floors,
    )
    assert clear(split, seed=seed).classes == clear(book, seed=seed).classes


@given(books(prices=st.integers(0, 8)), SEEDS, st.integers(0, 8), st.integers(0, 8))
def test_a_buyer_of_one_node_does_best_with_its_value(book: Book, seed: bytes, value: int, lie: int) -> None:
    """Whatever a buyer of one node bids, it gains no more than by bidding what the node is worth to it."""

    def gain(bid_micros: int) -> int:
        mine = Bid("mine", bid_micros, 1, "c", 0, "me")
        result = clear(replace(book, bids=(*book.bids, mine)), seed=seed)
        return sum(value - award.price_micros for award in result.awards if award.bid_id == "mine")

    assert gain(lie) <= gain(value)


@given(books(prices=st.integers(0, 2)), SEEDS, st.data())
def test_incumbents_stay_together(book: Book, seed: bytes, data: st.DataObject) -> None:
    """A running lease whose bid and device both still win, if only at zero surplus, goes on on the same device."""
    assume(book.bids and book.asks)
    bid, ask = data.draw(st.sampled_from(book.bids)), data.draw(st.sampled_from(book.asks))
    result = clear(replace(book, incumbents={bid.id: ask.id}), seed=seed)
    filled = [b.value_micros for b in book.bids if won(result)[b.id]]
    selling = [a.reserve_micros for a in book.asks if sold(result)[a.id]]
    if filled and bid.value_micros >= min(filled) and ask.reserve_micros <= max(selling):
        assert (bid.id, ask.id) in {(award.bid_id, award.ask_id) for award in result.awards}


@pytest.mark.parametrize("seed", [bytes([n]) for n in range(8)])
def test_incumbents_win_ties(seed: bytes) -> None:
    """Among tied bids and asks the running lease goes on, whatever the draw; one whose device is gone has no claim."""
    bids = tuple(Bid(f"b{n}", 20, 1, "c", 0, "o") for n in range(4))
    asks = tuple(Ask(f"a{n}", 20, 1, "c", 0, "o") for n in range(6))
    for_one = Book(bids[:1], asks, {}, {"b0": "a5"})
    assert [award.ask_id for award in clear(for_one, seed=seed).awards] == ["a5"]
    of_many = Book(bids, asks[:1], {}, {"b0": "a5", "b1": "a4", "b2": "a0"})
    assert [award.bid_id for award in clear(of_many, seed=seed).awards] == ["b2"]
    losing = Book((*bids[:2], Bid("low", 10, 1, "c", 0, "o")), asks[:3], {}, {"low": "a0", "b0": "a1", "b1": "a2"})
    assert {award.ask_id for award in clear(losing, seed=seed).awards} == {"a1", "a2"}


@given(SEEDS)
def test_ties_are_shared_by_quantity(seed: bytes) -> None:
    """Tied orders share what there is in proportion, so many small ones gain nothing over one large."""
    bids = (Bid("large", 20, 6, "c", 0, "o"), *(Bid(f"small_{n}", 20, 1, "c", 0, "p") for n in range(6)))
    counts = won(clear(Book(bids, (Ask("ask", 10, 6, "c", 0, "q"),)), seed=seed))
    assert counts["large"] == 3


def test_every_seed_gives_another_winner() -> None:
    """The odd unit of a tie is drawn by the seed: over many seeds everybody wins its share."""
    bids = tuple(Bid(f"bid_{n}", 20, 1, "c", 0, "o") for n in range(4))
    book = Book(bids, (Ask("ask", 10, 1, "c", 0, "q"),))
    winners = Counter(clear(book, seed=bytes([n])).awards[0].bid_id for n in range(200))
    assert set(winners) == {bid.id for bid in bids}
    assert min(winners.values()) > 25
    asks = tuple(Ask(f"ask_{n}", 10, 1, "c", 0, "o") for n in range(4))
    book = Book((Bid("bid", 20, 1, "c", 0, "q"),), asks)
    sellers = Counter(clear(book, seed=bytes([n])).awards[0].ask_id for n in range(200))
    assert min(sellers[ask.id] for ask in asks) > 25


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
        ([10**40], [1], 0, 1, (1, 10**40)),
        ([30, 20], [10, 12, 15], 25, 25, (25, 25)),
        ([20], [10], 25, None, (25, 25)),
    ],
)
def test_known_books(
    values: list[int], reserves: list[int], floor: int, price: int | None, interval: tuple[int, int] | None
) -> None:
    """Empty, one-sided, tied, free and huge books clear to the price worked out by hand."""
    bids = tuple(Bid(f"b{n}", value, 1, "c", 0, "o") for n, value in enumerate(values))
    asks = tuple(Ask(f"a{n}", reserve, 1, "c", 0, "o") for n, reserve in enumerate(reserves))
    classes = clear(Book(bids, asks, {"c": floor}), seed=b"").classes
    assert [one.price_micros for one in classes] == ([price] if interval else [])
    assert [(one.low_micros, one.high_micros) for one in classes] == ([interval] if interval else [])
