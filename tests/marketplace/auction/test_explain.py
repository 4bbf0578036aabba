"""Whoever loses is told why, and the price named would really have won."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.auction import Ask, Bid, Book, Loser, clear
from marketplace.auction.explain import dollars
from tests.marketplace.auction.books import books

BOOKS = books(
    classes=("a", "b"), orders_max=7, prices=st.one_of(st.integers(0, 8), st.integers(0, 50_000)), running=False
)


def sure_units(book: Book, order_id: str, price: int) -> int:
    """How many units an order moved to ``price`` wins if it loses every tie with its own side.

    All prices are doubled, and bids raised by one, so that its own price can lie between its rivals' and the others'.
    """
    bids = [replace(bid, value_micros=2 * bid.value_micros + 1) for bid in book.bids if bid.id != order_id]
    asks = [replace(ask, reserve_micros=2 * ask.reserve_micros) for ask in book.asks if ask.id != order_id]
    bids += [replace(bid, value_micros=2 * price) for bid in book.bids if bid.id == order_id]
    asks += [replace(ask, reserve_micros=2 * price + 1) for ask in book.asks if ask.id == order_id]
    floors = {name: 2 * floor for name, floor in book.floors.items()}
    result = clear(replace(book, bids=tuple(bids), asks=tuple(asks), floors=floors), seed=b"")
    return sum(order_id in (award.bid_id, award.ask_id) for award in result.awards)


@given(BOOKS, st.binary(max_size=2))
def test_exactly_the_losers_are_explained(book: Book, seed: bytes) -> None:
    """Every order not filled whole has one reason, with its numbers; no other order has one."""
    result = clear(book, seed=seed)
    filled = Counter(award.bid_id for award in result.awards) + Counter(award.ask_id for award in result.awards)
    lost = {bid.id: bid.quantity - filled[bid.id] for bid in book.bids}
    lost |= {ask.id: ask.slots - filled[ask.id] for ask in book.asks}
    assert [(loser.order_id, loser.lost_units) for loser in result.losers] == sorted(
        (order_id, units) for order_id, units in lost.items() if units
    )
    limits = {bid.id: bid.value_micros for bid in book.bids} | {ask.id: ask.reserve_micros for ask in book.asks}
    names = {bid.id: bid.device_classes for bid in book.bids} | {ask.id: (ask.device_class,) for ask in book.asks}
    for loser in result.losers:
        assert loser.side == loser.order_id[:3]
        assert loser.won_units == filled[loser.order_id]
        assert loser.limit_micros == limits[loser.order_id]
        prices = {one.device_class: one.price_micros for one in result.classes}
        mine = [prices[name] for name in names[loser.order_id] if prices[name] is not None]
        assert loser.price_micros == min(mine, default=None)
        if loser.would_win_at_micros is not None:
            assert f"; at {dollars(loser.would_win_at_micros)} you would have" in loser.text
        if loser.code not in ("no_supply", "no_demand"):
            assert any(character.isdigit() for character in loser.text)


@given(BOOKS, st.binary(max_size=2))
def test_the_price_named_would_have_won(book: Book, seed: bytes) -> None:
    """At would_win_at the order wins would_win_units whatever the draw; one micro-dollar nearer, none more for sure."""
    floored = {ask.id: book.floors.get(ask.device_class, 0) for ask in book.asks}
    for loser in clear(book, seed=seed).losers:
        price = loser.would_win_at_micros
        nearer = -1 if loser.side == "bid" else 1
        if price is None:
            # Below a floor, asks share by slots alone: none is surer than another.
            best = 10**8 if loser.side == "bid" else floored[loser.order_id]
            if loser.side == "ask" and loser.limit_micros <= best:
                continue
            assert loser.would_win_units == 0
            assert sure_units(book, loser.order_id, best) <= loser.won_units
            continue
        assert sure_units(book, loser.order_id, price) == loser.would_win_units > loser.won_units
        if price + nearer >= floored.get(loser.order_id, 0):
            assert sure_units(book, loser.order_id, price + nearer) <= loser.won_units


def only_loser(values: list[int], reserves: list[int], *, floor: int = 0, side: str) -> Loser:
    bids = tuple(Bid(f"b{n}", value, 1, ("gpu",), "o") for n, value in enumerate(values))
    asks = tuple(Ask(f"a{n}", reserve, 1, "gpu", "o") for n, reserve in enumerate(reserves))
    [loser] = [loser for loser in clear(Book(bids, asks, {"gpu": floor}), seed=b"").losers if loser.side == side]
    return loser


@pytest.mark.parametrize(
    ("values", "reserves", "floor", "side", "code", "text"),
    [
        ([20_000], [], 0, "bid", "no_supply", "no device of class gpu is offered"),
        (
            [20_000],
            [21_000],
            0,
            "bid",
            "no_trade",
            "lowest ask 0.0210 > your maximum 0.0200; at 0.0210 you would have won 1 node",
        ),
        (
            [30_000, 20_000],
            [24_000, 24_000],
            0,
            "bid",
            "below_price",
            "your limit 0.0200 < clearing price 0.0240/h; at 0.0240 you would have won 1 node",
        ),
        (
            [30_000, 20_000],
            [24_000],
            0,
            "bid",
            "below_price",
            "your limit 0.0200 < clearing price 0.0240/h; at 0.030001 you would have won 1 node",
        ),
        (
            [20_000, 20_000],
            [10_000],
            0,
            "bid",
            "tied",
            "tied at the margin 0.0200: rationed, you won 0 of 1 node (1 offered at that price or less); "
            "at 0.020001 you would have won 1 node",
        ),
        (
            [20_000],
            [10_000],
            25_000,
            "bid",
            "below_floor",
            "your limit 0.0200 < floor 0.0250/h of class gpu; at 0.0250 you would have won 1 node",
        ),
        ([], [10_000], 0, "ask", "no_demand", "no bid for class gpu"),
        (
            [20_000],
            [21_000],
            0,
            "ask",
            "no_trade",
            "highest bid 0.0200 < your reserve 0.0210; at 0.0200 you would have sold",
        ),
        (
            [30_000, 24_000],
            [10_000, 31_000],
            0,
            "ask",
            "above_price",
            "reserve 0.0310 > clearing price 0.0240; at 0.0240 you would have sold",
        ),
        (
            [30_000],
            [20_000, 20_000],
            0,
            "ask",
            "tied",
            "tied at the margin 0.0200: rationed, you sold 0 of 1 slot (1 wanted at that price or more); "
            "at 0.019999 you would have sold",
        ),
        (
            [30_000],
            [10_000, 11_000],
            25_000,
            "ask",
            "floor_surplus",
            "too many slots at the floor price 0.0250, shared out: you sold 0 of 1 slot "
            "(1 wanted at that price or more)",
        ),
        ([20_000], [10_000], 25_000, "ask", "below_floor", "highest bid 0.0200 < floor 0.0250/h of class gpu"),
    ],
)
def test_reasons_in_plain_words(
    values: list[int], reserves: list[int], floor: int, side: str, code: str, text: str
) -> None:
    """Each way to lose has its own words, with the numbers that decided it."""
    loser = only_loser(values, reserves, floor=floor, side=side)
    assert (loser.code, loser.text) == (code, text)


def test_a_flexible_bid_is_told_of_its_cheapest_class() -> None:
    """Who accepts two classes is told the lower price, and the limit that would have won in either of them."""
    bids = (Bid("mine", 15, 2, ("x", "y"), "o"), Bid("x", 90, 1, ("x",), "p"), Bid("y", 50, 1, ("y",), "q"))
    asks = (Ask("x", 40, 1, "x", "s"), Ask("x2", 60, 1, "x", "s"), Ask("y", 20, 2, "y", "s"))
    [loser] = [loser for loser in clear(Book(bids, asks), seed=b"").losers if loser.side == "bid"]
    assert loser.text == ("your limit 0.000015 < clearing price 0.00002/h; at 0.00002 you would have won 1 node")
    assert (loser.price_micros, loser.would_win_at_micros, loser.would_win_units) == (20, 20, 1)


def test_what_is_offered_elsewhere() -> None:
    """Who asks for a class that nobody offers is told what is offered."""
    bids = (Bid("mine", 15, 2, ("gpu.eu",), "o"),)
    asks = (Ask("u", 40, 4, "gpu.us", "s"), Ask("c", 40, 1, "cpu.eu", "s"))
    [loser] = [loser for loser in clear(Book(bids, asks), seed=b"").losers if loser.side == "bid"]
    assert loser.text == "no device of class gpu.eu is offered; 4 in gpu.us; 1 in cpu.eu"


def test_dollars_are_exact() -> None:
    """No digit of a price is lost or invented in a text."""
    assert [dollars(micros) for micros in (0, 1, 24_000, 24_001, 24_100, 1_500_000, 10**12)] == [
        "0.0000",
        "0.000001",
        "0.0240",
        "0.024001",
        "0.0241",
        "1.5000",
        "1000000.0000",
    ]
