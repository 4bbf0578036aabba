"""A book is checked when made, and its hash pins every part of it."""

import hashlib
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.auction import Ask, Bid, Book, Depth, book_hash, clear
from marketplace.auction.book import book_content, book_of
from tests.marketplace.auction.books import MANY

BID = Bid("b1", 20, 2, ("c", "d"), "buyer")
ASK = Ask("a1", 10, 1, "c", "provider")
BOOK = Book((BID, replace(BID, id="b2")), (ASK, replace(ASK, id="a2")), {"c": 1, "d": 2}, {"b1": "a1", "b2": "a2"})


@given(st.randoms(use_true_random=False))
def test_hash_is_stable_under_permutation(shuffler: random.Random) -> None:
    """The order in which a book is listed does not change its hash."""
    bids, asks = list(BOOK.bids), list(BOOK.asks)
    floors, incumbents = list(BOOK.floors.items()), list(BOOK.incumbents.items())
    for rows in (bids, asks, floors, incumbents):
        shuffler.shuffle(rows)
    assert book_hash(Book(tuple(bids), tuple(asks), dict(floors), dict(incumbents))) == book_hash(BOOK)


@pytest.mark.parametrize("change", ["id", "value_micros", "quantity", "device_classes", "owner", "min_nodes"])
def test_hash_sees_every_field_of_a_bid(change: str) -> None:
    """No field of a bid can be altered behind a published hash."""
    value = {"id": "x", "owner": "x", "device_classes": ("c",), "min_nodes": 2}.get(change, 99)
    assert book_hash(replace(BOOK, bids=(replace(BID, **{change: value}), BOOK.bids[1]))) != book_hash(BOOK)


@pytest.mark.parametrize("change", ["id", "reserve_micros", "slots", "device_class", "owner"])
def test_hash_sees_every_field_of_an_ask(change: str) -> None:
    """No field of an ask can be altered behind a published hash."""
    value = "x" if isinstance(getattr(ASK, change), str) else 99
    assert book_hash(replace(BOOK, asks=(replace(ASK, **{change: value}), BOOK.asks[1]))) != book_hash(BOOK)


def test_hash_sees_every_part_of_the_book() -> None:
    """Dropping an order, moving one to the other side, another floor or incumbent: each gives another hash."""
    changed = [
        Book(),
        replace(BOOK, bids=BOOK.bids[:1]),
        replace(BOOK, asks=BOOK.asks[:1]),
        replace(BOOK, floors={"c": 1}),
        replace(BOOK, floors={"c": 2, "d": 1}),
        replace(BOOK, incumbents={"b1": "a2", "b2": "a1"}),
        replace(BOOK, owner_percent_max=21),
        Book((Bid("x", 1, 1, ("c",), "o"),), ()),
        Book((), (Ask("x", 1, 1, "c", "o"),)),
    ]
    assert len({book_hash(book) for book in [BOOK, *changed]}) == len(changed) + 1


def test_hash_is_what_was_published() -> None:
    """The canonical form is a promise: anybody can recompute a published hash without this code."""
    text = (
        '{"asks":[["a1",10,1,"c","provider"]],"bids":[["b1",20,2,["c","d"],"buyer",1]],'
        '"floors":{"c":1},"incumbents":{"b1":"a1"},"owner_percent_max":20}'
    )
    book = Book((BID,), (ASK,), {"c": 1}, {"b1": "a1"})
    assert book_hash(book) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BID, value_micros=-1), "value -1"),
        (lambda: replace(BID, quantity=0), "quantity 0"),
        (lambda: replace(ASK, reserve_micros=-1), "reserve -1"),
        (lambda: replace(ASK, slots=0), "slots 0"),
        (lambda: Book((BID, BID)), "two bids"),
        (lambda: Book((), (ASK, ASK)), "two asks"),
        (lambda: Book(floors={"c": -1}), "floor"),
        (lambda: replace(BID, value_micros=10**9 + 1), "value 1000000001"),
        (lambda: replace(ASK, reserve_micros=10**9 + 1), "reserve 1000000001"),
        (lambda: Book(floors={"c": 10**9 + 1}), "floor"),
        (lambda: replace(BID, device_classes=()), "no device class"),
        (lambda: replace(BID, device_classes=("c", "c")), "twice"),
        (lambda: replace(BID, min_nodes=0), "min_nodes 0"),
        (lambda: replace(BID, min_nodes=3), "min_nodes 3"),
        (lambda: Book(owner_percent_max=0), "owner_percent_max 0"),
        (lambda: Book((), tuple(Ask(f"a{n}", 1, 1, f"c{n}", "o") for n in range(65))), "65 device classes"),
        (lambda: clear(Book((replace(BID, quantity=2**31),)), seed=b""), "2147483647"),
        (
            lambda: clear(
                Book((), (replace(ASK, slots=2**31 - 1), replace(ASK, id="x", owner="x")), owner_percent_max=100),
                seed=b"",
            ),
            "in all",
        ),
    ],
)
def test_nonsense_is_refused(make, message: str) -> None:
    """What no auction can mean never enters a book."""
    with pytest.raises(ValueError, match=message):
        make()


@given(MANY)
def test_a_book_survives_json(book: Book) -> None:
    """What is published of a book is the whole book."""
    again = book_of(json.loads(json.dumps(book_content(book))))
    assert book_hash(again) == book_hash(book)
    assert clear(again, seed=b"") == clear(book, seed=b"")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3))), st.integers(-1, 10))
def test_depth_counts(orders: list[tuple[int, int]], price: int) -> None:
    """Depth counts units as a plain sum over the orders does."""
    depth = Depth(orders)
    assert depth.total == sum(units for _, units in orders)
    assert depth.at_most(price) == sum(units for at, units in orders if at <= price)
    assert depth.below(price) == sum(units for at, units in orders if at < price)
    assert depth.at_least(price) == sum(units for at, units in orders if at >= price)
    assert depth.above(price) == sum(units for at, units in orders if at > price)
