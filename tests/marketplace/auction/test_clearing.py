"""Who wins: the auction's promises, exactly: integers, no tolerance."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billing.money import charge_micros, earning_micros, hold_micros
from marketplace.auction import Ask, Bid, Book, Clearing, clear
from tests.marketplace.auction.books import MANY, ONE, SEEDS, books, cheapest, low, sold, won


@given(MANY, SEEDS)
def test_feasible(book: Book, seed: bytes) -> None:
    """Nobody gets more than it asked for or a class it does not accept, no slot is sold twice, and the counts agree."""
    result = clear(book, seed=seed)
    bids, asks = {bid.id: bid for bid in book.bids}, {ask.id: ask for ask in book.asks}
    assert all(count <= bids[bid_id].quantity for bid_id, count in won(result).items())
    assert all(count <= asks[ask_id].slots for ask_id, count in sold(result).items())
    for award in result.awards:
        assert award.device_class in bids[award.bid_id].device_classes
        assert award.device_class == asks[award.ask_id].device_class
    for one in result.classes:
        awards = [award for award in result.awards if award.device_class == one.device_class]
        assert len(awards) == one.volume <= min(one.supply, one.demand)
        assert {award.price_micros for award in awards} <= {one.price_micros}
        assert (one.price_micros is None) == (one.volume == 0)
        assert one.price_micros in (None, one.low_micros)
        assert book.floors.get(one.device_class, 0) <= one.low_micros <= one.high_micros
        assert one.demand == sum(bid.quantity for bid in book.bids if one.device_class in bid.device_classes)
        assert one.supply == sum(ask.slots for ask in book.asks if ask.device_class == one.device_class)


@given(MANY, SEEDS, st.integers(0, 600_000), st.integers(0, 600_000), st.integers(0, 10_000))
def test_budget_balance(book: Book, seed: bytes, one_ms: int, other_ms: int, fee_bps: int) -> None:
    """For any verified time within the lease, what the buyer pays is what the provider gets and the fee, and no more
    than was held."""
    lease_ms, verified_ms = max(one_ms, other_ms), min(one_ms, other_ms)
    for award in clear(book, seed=seed).awards:
        charge = charge_micros(award.price_micros, verified_ms, fee_bps)
        earning = earning_micros(award.price_micros, verified_ms)
        assert 0 <= earning <= charge <= hold_micros(award.price_micros, lease_ms, fee_bps)


@given(MANY, SEEDS)
def test_individual_rationality(book: Book, seed: bytes) -> None:
    """Nobody pays more than its value, nobody is paid less than its reserve, and no floor is undercut."""
    values = {bid.id: bid.value_micros for bid in book.bids}
    reserves = {ask.id: ask.reserve_micros for ask in book.asks}
    for award in clear(book, seed=seed).awards:
        assert reserves[award.ask_id] <= award.price_micros <= values[award.bid_id]
        assert award.price_micros >= book.floors.get(award.device_class, 0)


@given(MANY, SEEDS)
def test_best_first(book: Book, seed: bytes) -> None:
    """No better bid is rejected while a weaker one with the same classes fills, and above the floor no cheaper ask
    idles while a dearer one of its class sells."""
    result = clear(book, seed=seed)
    nodes, slots, prices = won(result), sold(result), low(result)
    for bid in book.bids:
        if nodes[bid.id] < bid.quantity:
            rivals = [b for b in book.bids if b.device_classes == bid.device_classes and nodes[b.id]]
            assert all(rival.value_micros >= bid.value_micros for rival in rivals)
    for ask in book.asks:
        name = ask.device_class
        if slots[ask.id] < ask.slots and prices[name] > book.floors.get(name, 0):
            sellers = [a for a in book.asks if a.device_class == name and slots[a.id]]
            assert all(seller.reserve_micros <= ask.reserve_micros for seller in sellers)


@given(books(running=False), SEEDS)
def test_no_trade_is_left_undone(book: Book, seed: bytes) -> None:
    """No bid is left waiting that could trade at the price with an ask left unsold."""
    result = clear(book, seed=seed)
    nodes, slots, prices = won(result), sold(result), low(result)
    for bid in book.bids:
        for ask in book.asks:
            if (
                nodes[bid.id] == bid.quantity
                or slots[ask.id] == ask.slots
                or ask.device_class not in bid.device_classes
            ):
                continue
            price = prices[ask.device_class]
            assert ask.reserve_micros > price or bid.value_micros < price or price > cheapest(bid, prices)


@given(MANY, SEEDS, st.randoms(use_true_random=False))
def test_order_of_listing_means_nothing(book: Book, seed: bytes, shuffler: random.Random) -> None:
    """A book listed in another order clears to the same result, and the same book and seed always do."""
    bids, asks = [replace(bid, device_classes=bid.device_classes[::-1]) for bid in book.bids], list(book.asks)
    shuffler.shuffle(bids)
    shuffler.shuffle(asks)
    incumbents = dict(reversed(book.incumbents.items()))
    assert clear(replace(book, bids=tuple(bids), asks=tuple(asks), incumbents=incumbents), seed=seed) == clear(
        book, seed=seed
    )


@given(MANY, SEEDS, SEEDS)
def test_seed_touches_only_the_margin(book: Book, seed: bytes, other: bytes) -> None:
    """Another seed changes no price, no total and nobody's fill but that of orders exactly at their price, or of asks
    that share a binding floor."""
    one, two = clear(book, seed=seed), clear(book, seed=other)
    prices = low(one)
    assert prices == low(two)
    assert len(one.awards) == len(two.awards)
    for bid in book.bids:
        assert won(one)[bid.id] == won(two)[bid.id] or bid.value_micros == cheapest(bid, prices)
    for ask in book.asks:
        price = prices[ask.device_class]
        margin = ask.reserve_micros == price or price == book.floors.get(ask.device_class, 0)
        assert sold(one)[ask.id] == sold(two)[ask.id] or margin


def of_owners(book: Book, result: Clearing) -> tuple[Counter[object], Counter[object]]:
    """What each owner won per set of classes, and sold per class."""
    bids, asks = {bid.id: bid for bid in book.bids}, {ask.id: ask for ask in book.asks}
    nodes, slots = won(result), sold(result)
    return (
        Counter((bids[i].owner, bids[i].device_classes) for i in nodes.elements()),
        Counter((asks[i].owner, asks[i].device_class) for i in slots.elements()),
    )


@given(books(running=False), SEEDS)
def test_splitting_and_merging_gain_nothing(book: Book, seed: bytes) -> None:
    """Many orders of one node each clear like one order of many: same prices, same volumes, same for each owner."""
    split = replace(
        book,
        bids=tuple(replace(bid, id=f"{bid.id}.{n}", quantity=1) for bid in book.bids for n in range(bid.quantity)),
        asks=tuple(replace(ask, id=f"{ask.id}.{n}", slots=1) for ask in book.asks for n in range(ask.slots)),
    )
    one, many = clear(book, seed=seed), clear(split, seed=seed)
    assert one.classes == many.classes
    assert of_owners(book, one) == of_owners(split, many)


@given(books(classes=("c",), prices=st.integers(0, 2)), SEEDS, st.data())
def test_incumbents_stay_together(book: Book, seed: bytes, data: st.DataObject) -> None:
    """A running lease whose bid and device both still win, if only at zero surplus, goes on on the same device."""
    assume(book.bids and book.asks)
    bid, ask = data.draw(st.sampled_from(book.bids)), data.draw(st.sampled_from(book.asks))
    result = clear(replace(book, incumbents={bid.id: ask.id}), seed=seed)
    filled = [b.value_micros for b in book.bids if won(result)[b.id]]
    selling = [a.reserve_micros for a in book.asks if sold(result)[a.id]]
    if filled and bid.value_micros >= min(filled) and ask.reserve_micros <= max(selling):
        assert (bid.id, ask.id) in {(award.bid_id, award.ask_id) for award in result.awards}


@given(books(classes=("c",), prices=st.integers(0, 3)), SEEDS)
def test_no_running_lease_moves_within_a_class(book: Book, seed: bytes) -> None:
    """Whose bid and own device both win does not get another device, unless another lease claims that device too."""
    held = {bid_id: ask_id for ask_id, bid_id in {a: b for b, a in book.incumbents.items()}.items()}
    result = clear(replace(book, incumbents=held), seed=seed)
    pairs = {(award.bid_id, award.ask_id) for award in result.awards}
    for bid_id, ask_id in held.items():
        assert (bid_id, ask_id) in pairs or not (won(result)[bid_id] and sold(result)[ask_id])


@given(books(prices=st.integers(0, 3)), SEEDS)
def test_incumbents_change_no_price(book: Book, seed: bytes) -> None:
    """Who holds what now decides among ties only: no price, and nobody strictly inside its price, is touched by it."""
    one, two = clear(book, seed=seed), clear(replace(book, incumbents={}), seed=seed)
    prices = low(one)
    assert prices == low(two)
    for bid in book.bids:
        assert bid.value_micros == cheapest(bid, prices) or won(one)[bid.id] == won(two)[bid.id]


@pytest.mark.parametrize("seed", [bytes([n]) for n in range(8)])
def test_incumbents_win_ties(seed: bytes) -> None:
    """Among tied bids and asks the running lease goes on, whatever the draw; one whose device is gone has no claim."""
    bids = tuple(Bid(f"b{n}", 20, 1, ("c",), "o") for n in range(4))
    asks = tuple(Ask(f"a{n}", 20, 1, "c", "o") for n in range(6))
    for_one = Book(bids[:1], asks, {}, {"b0": "a5"})
    assert [award.ask_id for award in clear(for_one, seed=seed).awards] == ["a5"]
    of_many = Book(bids, asks[:1], {}, {"b0": "a5", "b1": "a4", "b2": "a0"})
    assert [award.bid_id for award in clear(of_many, seed=seed).awards] == ["b2"]
    losing = Book((*bids[:2], Bid("low", 10, 1, ("c",), "o")), asks[:3], {}, {"low": "a0", "b0": "a1", "b1": "a2"})
    assert {award.ask_id for award in clear(losing, seed=seed).awards} == {"a1", "a2"}


@pytest.mark.parametrize("seed", [bytes([n]) for n in range(8)])
def test_a_flexible_incumbent_keeps_its_class(seed: bytes) -> None:
    """A lease that could run in either of two equally priced classes goes on in its own, on its own device."""
    bids = tuple(Bid(f"b{n}", 20, 1, ("x", "y"), "o") for n in range(4))
    asks = tuple(Ask(f"{name}{n}", 5, 1, name, "o") for name in "xy" for n in range(3))
    held = {"b0": "y2", "b1": "x1", "b2": "y0", "b3": "y1"}
    found = {award.bid_id: award.ask_id for award in clear(Book(bids, asks, {}, held), seed=seed).awards}
    assert found == held


@pytest.mark.parametrize("seed", [bytes([n]) for n in range(8)])
def test_ties_are_drawn_around_running_leases(seed: bytes) -> None:
    """A flexible lease at zero surplus is not moved to another class to make room for a rival at zero surplus."""
    bids = (Bid("any", 20, 1, ("x", "y"), "o"), Bid("x", 20, 1, ("x",), "o"), Bid("y", 20, 1, ("y",), "o"))
    asks = (Ask("x", 5, 1, "x", "o"), Ask("y", 5, 1, "y", "o"))
    result = clear(Book(bids, asks, {}, {"any": "x"}), seed=seed)
    assert low(result) == {"x": 20, "y": 20}
    assert {(a.bid_id, a.ask_id) for a in result.awards} == {("any", "x"), ("y", "y")}


def test_a_running_lease_gives_way_to_a_strict_ask() -> None:
    """Where leases on devices that ask the price itself fill all demand, an ask below the price still sells."""
    bids = (Bid("b1", 20, 1, ("c",), "o"), Bid("b2", 20, 1, ("c",), "o"))
    asks = (Ask("low", 5, 1, "c", "o"), Ask("a1", 10, 1, "c", "o"), Ask("a2", 10, 1, "c", "o"))
    result = clear(Book(bids, asks, {}, {"b1": "a1", "b2": "a2"}), seed=b"")
    assert low(result) == {"c": 10}
    assert sold(result)["low"] == 1
    assert len({(a.bid_id, a.ask_id) for a in result.awards} & {("b1", "a1"), ("b2", "a2")}) == 1


def test_a_running_lease_gives_way_to_a_strict_bid() -> None:
    """A flexible lease moves where a bid above the price could otherwise not be filled."""
    bids = (Bid("any", 30, 1, ("x", "y"), "o"), Bid("x", 40, 1, ("x",), "p"), Bid("y", 10, 1, ("y",), "q"))
    asks = (Ask("x", 10, 1, "x", "s"), Ask("y", 10, 1, "y", "s"))
    result = clear(Book(bids, asks, {}, {"any": "x"}), seed=b"")
    assert low(result) == {"x": 10, "y": 10}
    assert {(a.bid_id, a.ask_id) for a in result.awards} == {("any", "y"), ("x", "x")}


@given(SEEDS)
def test_ties_are_shared_by_quantity(seed: bytes) -> None:
    """Tied orders share what there is in proportion, so many small ones gain nothing over one large."""
    bids = (Bid("large", 20, 6, ("c",), "o"), *(Bid(f"small_{n}", 20, 1, ("c",), "p") for n in range(6)))
    counts = won(clear(Book(bids, (Ask("ask", 10, 6, "c", "q"),)), seed=seed))
    assert counts["large"] == 3


@given(SEEDS)
def test_ties_are_shared_across_classes(seed: bytes) -> None:
    """Tied bids that accept different classes share what they all reach, and tied asks of classes that one bid accepts
    share it too."""
    bids = (Bid("any", 20, 6, ("x", "y"), "o"), Bid("x", 20, 6, ("x",), "p"), Bid("y", 20, 6, ("y",), "q"))
    result = clear(Book(bids, (Ask("ax", 5, 3, "x", "s"), Ask("ay", 5, 3, "y", "s"))), seed=seed)
    assert won(result) == {"any": 2, "x": 2, "y": 2}
    asks = (Ask("ax", 5, 4, "x", "s"), Ask("ay", 5, 8, "y", "s"))
    assert sold(clear(Book((Bid("any", 20, 6, ("x", "y"), "o"),), asks), seed=seed)) == {"ax": 2, "ay": 4}


@given(SEEDS)
def test_a_binding_floor_is_shared_pro_rata(seed: bytes) -> None:
    """At a floor that holds the price up, asks below it share the demand by slots, whatever their reserves."""
    asks = (Ask("low", 1, 6, "c", "o"), Ask("high", 9, 3, "c", "p"), Ask("at", 10, 9, "c", "q"))
    result = clear(Book((Bid("b", 20, 6, ("c",), "o"),), asks, {"c": 10}), seed=seed)
    assert low(result) == {"c": 10}
    assert sold(result) == {"low": 4, "high": 2}


def test_every_seed_gives_another_winner() -> None:
    """The odd unit of a tie is drawn by the seed: over many seeds everybody wins its share."""
    bids = tuple(Bid(f"bid_{n}", 20, 1, ("c",), f"o{n % 2}") for n in range(4))
    book = Book(bids, (Ask("ask", 10, 1, "c", "q"),))
    winners = Counter(clear(book, seed=bytes([n])).awards[0].bid_id for n in range(200))
    assert set(winners) == {bid.id for bid in bids}
    assert min(winners.values()) > 25
    asks = tuple(Ask(f"ask_{n}", 10, 1, "c", "o") for n in range(4))
    book = Book((Bid("bid", 20, 1, ("c",), "q"),), asks)
    sellers = Counter(clear(book, seed=bytes([n])).awards[0].ask_id for n in range(200))
    assert min(sellers[ask.id] for ask in asks) > 25


@given(ONE, SEEDS)
def test_one_class_is_a_plain_double_auction(book: Book, seed: bytes) -> None:
    """With one class the price is the dearest ask needed or the highest bid refused, and at least the floor: the
    (K+1)-th highest of all bids and asks together, where asks offer K units."""
    bids = [bid.value_micros for bid in book.bids for _ in range(bid.quantity)]
    asks = [ask.reserve_micros for ask in book.asks for _ in range(ask.slots)]
    ranked = [*sorted([*bids, *asks], reverse=True), 0]
    for one in clear(book, seed=seed).classes:
        assert one.low_micros == max(ranked[len(asks)], book.floors.get("c", 0))
