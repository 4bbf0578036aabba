"""One owner's limit, and bids that want all or nothing."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.auction import Ask, Bid, Book, clear
from marketplace.auction.admission import admitted_units
from marketplace.auction.clearing import RECLEARS_MAX
from tests.marketplace.auction.books import SEEDS, SMALL, books, low, lyapunov, sold, won


@st.composite
def crowded(draw: st.DrawFn) -> Book:
    """A book with classes on both sides of 20 slots, and few owners."""
    book = draw(books(prices=SMALL, running=False))
    factor = draw(st.integers(1, 8))
    return replace(
        book,
        bids=tuple(replace(bid, quantity=bid.quantity * factor) for bid in book.bids),
        asks=tuple(replace(ask, slots=ask.slots * factor) for ask in book.asks),
        owner_percent_max=draw(st.integers(1, 100)),
    )


@given(crowded(), SEEDS)
def test_nobody_has_more_than_its_share(book: Book, seed: bytes) -> None:
    """In a class with more than 20 slots nobody wins or sells more than its share of what was wanted or offered; in
    others, and within the share, nobody is cut."""
    result = clear(book, seed=seed)
    bids, asks = {bid.id: bid for bid in book.bids}, {ask.id: ask for ask in book.asks}
    bought = Counter((bids[award.bid_id].owner, award.device_class) for award in result.awards)
    sells = Counter((asks[award.ask_id].owner, award.device_class) for award in result.awards)
    for one in result.classes:
        for owner in ("o0", "o1", "o2"):
            if one.supply > 20:
                assert bought[owner, one.device_class] <= one.demand * book.owner_percent_max // 100
                assert sells[owner, one.device_class] <= one.supply * book.owner_percent_max // 100
    if all(one.supply <= 20 for one in result.classes):
        assert result == replace(clear(replace(book, owner_percent_max=100), seed=seed), book_hash=result.book_hash)


@given(crowded())
def test_splitting_orders_does_not_widen_the_limit(book: Book) -> None:
    """An owner gets as much past the limit with many small orders as with one large."""
    split = replace(
        book,
        bids=tuple(replace(bid, id=f"{bid.id}.{n}", quantity=1) for bid in book.bids for n in range(bid.quantity)),
        asks=tuple(replace(ask, id=f"{ask.id}.{n}", slots=1) for ask in book.asks for n in range(ask.slots)),
    )
    whole: Counter[tuple[str, object]] = Counter()
    parts: Counter[tuple[str, object]] = Counter()
    for one, counts in ((book, whole), (split, parts)):
        units = admitted_units(one)
        for bid in one.bids:
            counts[bid.owner, (bid.device_classes, bid.value_micros)] += units[f"bid {bid.id}"]
        for ask in one.asks:
            counts[ask.owner, (ask.device_class, ask.reserve_micros)] += units[f"ask {ask.id}"]
    assert whole == parts


def test_the_limit_keeps_an_owners_best_orders_and_says_so() -> None:
    """The limit leaves out the weakest orders of an owner, and they are told the limit."""
    asks = (Ask("dear", 20, 20, "c", "big"), Ask("cheap", 10, 20, "c", "big"), Ask("other", 15, 10, "c", "small"))
    bids = tuple(Bid(f"b{n}", 50, 10, ("c",), f"o{n}") for n in range(6))
    result = clear(Book(bids, asks), seed=b"")
    assert sold(result) == {"cheap": 10, "other": 10}
    texts = {loser.order_id: (loser.code, loser.text) for loser in result.losers}
    limit = "one owner may offer at most 20 % of a class with more than 20 slots"
    assert texts["cheap"] == ("concentration", f"10 of 20 slots took part: {limit}")
    assert texts["dear"] == ("concentration", f"0 of 20 slots took part: {limit}")


@st.composite
def demanding(draw: st.DrawFn) -> Book:
    """A book in which many bids want all or nothing, or at least some."""
    book = draw(books(prices=SMALL, orders_max=12))
    return replace(book, bids=tuple(replace(bid, min_nodes=draw(st.integers(1, bid.quantity))) for bid in book.bids))


@given(demanding(), SEEDS)
def test_all_or_nothing(book: Book, seed: bytes) -> None:
    """No bid gets fewer nodes than it needs; the book without those dropped clears at the final prices; the tick is
    cleared again at most three times."""
    result = clear(book, seed=seed)
    nodes = won(result)
    assert all(nodes[bid.id] == 0 or nodes[bid.id] >= bid.min_nodes for bid in book.bids)
    assert len(result.dropped) <= RECLEARS_MAX
    gone = {bid_id for ids in result.dropped for bid_id in ids}
    assert sum(len(ids) for ids in result.dropped) == len(gone)
    assert not gone & set(nodes)
    assert all(bid.min_nodes > 1 for bid in book.bids if bid.id in gone)
    rest = replace(book, bids=tuple(replace(bid, min_nodes=1) for bid in book.bids if bid.id not in gone))
    assert result.awards == clear(rest, seed=seed).awards
    prices = low(result)
    raised = [lyapunov(rest, prices | {name: prices[name] + 1}) for name in prices]
    assert all(value >= lyapunov(rest, prices) for value in raised)


def test_many_falling_bids_are_cleared_again_three_times() -> None:
    """A staircase of bids that each miss one node ends after three more clearings, the rest sold to who takes any."""
    stairs = tuple(Bid(f"b{n}", 50 - n, 3, ("c",), f"o{n}", min_nodes=3) for n in range(8))
    book = Book((*stairs, Bid("any", 5, 2, ("c",), "p")), (Ask("a", 1, 2, "c", "q"),))
    result = clear(book, seed=b"")
    assert [len(ids) for ids in result.dropped] == [1, 1, 6]
    assert won(result) == {"any": 2}
    texts = {loser.order_id: (loser.code, loser.text) for loser in result.losers}
    assert texts["b0"] == ("all_or_nothing", "only 2 of 3 to be had, and you want all 3 nodes or none")


def test_a_dropped_bid_is_told_the_limit_that_wins_all() -> None:
    """A bid that missed one node learns what all of them would have cost."""
    bids = (Bid("mine", 30, 2, ("c",), "o", min_nodes=2), Bid("rival", 40, 1, ("c",), "p"))
    asks = (Ask("a", 10, 2, "c", "q"),)
    [loser] = [loser for loser in clear(Book(bids, asks), seed=b"").losers if loser.side == "bid"]
    assert (loser.code, loser.would_win_at_micros, loser.would_win_units) == ("all_or_nothing", 41, 2)


@pytest.mark.parametrize("percent", [20, 100])
def test_a_bid_cut_below_what_it_needs_is_left_out(percent: int) -> None:
    """A bid that its owner's limit leaves with too few nodes takes none."""
    bids = (Bid("mine", 30, 10, ("c",), "o", min_nodes=10), Bid("rival", 20, 20, ("c",), "p"))
    result = clear(
        Book(bids, (Ask("a", 10, 30, "c", "q"), Ask("b", 10, 10, "c", "r")), owner_percent_max=percent), seed=b""
    )
    assert won(result)["mine"] == (10 if percent == 100 else 0)
