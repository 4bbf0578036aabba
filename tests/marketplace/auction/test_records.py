"""A published clearing can be checked by anybody, and every change to it is seen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketplace.auction import Ask, Bid, Book, clear, commitment, follows, next_seed, record, replay, seed_at
from marketplace.auction.book import canonical_hash
from tests.marketplace.auction.books import MANY

SECRET = b"a secret of the operator's"
BIDS = (Bid("b1", 30, 2, ("x", "y"), "o"), Bid("b2", 20, 2, ("x",), "p"), Bid("b3", 25, 2, ("y",), "q", min_nodes=2))
ASKS = (Ask("a1", 10, 2, "x", "s"), Ask("a2", 12, 1, "y", "t"), Ask("a3", 90, 1, "y", "t"))
BOOK = Book(BIDS, ASKS, {"x": 5}, {"b1": "a1"})


def published(book: Book = BOOK, position: int = 3) -> dict[str, Any]:
    """The record of one tick in a chain of nine, as it comes back from a database."""
    seed = seed_at(SECRET, position, length=9)
    revealed = commitment(SECRET, length=9)
    return json.loads(json.dumps(record(book, clear(book, seed=seed), seed=seed, revealed=revealed, steps=position)))


@given(MANY)
def test_an_honest_record_replays(book: Book) -> None:
    """What the auction published is recomputed bit for bit from the record alone."""
    one = published(book)
    assert replay(one) == ()
    assert replay(one, published_hash=one["hash"]) == ()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value in a record."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from leaves(child, (*path, key))
    if path:
        yield path


def tampered(one: dict[str, Any], path: tuple[Any, ...], *, delete: bool) -> dict[str, Any]:
    """The record with one value altered or taken out."""
    other = json.loads(json.dumps(one))
    at = other
    for key in path[:-1]:
        at = at[key]
    value = at[path[-1]]
    if delete:
        del at[path[-1]]
    elif isinstance(value, bool) or value is None:
        at[path[-1]] = 1
    elif isinstance(value, int):
        at[path[-1]] = value + 1
    elif isinstance(value, str):
        at[path[-1]] = value[:-1] + ("0" if value[-1:] != "0" else "1")
    else:
        at[path[-1]] = []
    return other


@pytest.mark.parametrize("delete", [False, True])
def test_any_change_is_seen(delete: bool) -> None:
    """Whatever single value of a record is altered or deleted, replay reports it; so with the hash made to fit, unless
    what was altered is an order that leads to exactly the recorded result: then the published hash tells."""
    one = published()
    assert len(one["dropped"]) == 1
    for path in leaves(one):
        other = tampered(one, path, delete=delete)
        if other == one:
            continue
        assert replay(other), path
        if path != ("hash",):
            other["hash"] = canonical_hash({key: value for key, value in other.items() if key != "hash"})
            assert replay(other, published_hash=one["hash"]), path
            if path[0] != "book":
                assert replay(other), path


def test_differences_say_where() -> None:
    """Whoever replays a false record reads which value differs, and both versions of it."""
    one = published()
    one["awards"][0]["price_micros"] += 1
    found = replay(one)
    price = published()["awards"][0]["price_micros"]
    assert f"awards[0].price_micros: recorded {price + 1}, recomputed {price}" in found


def test_another_seed_is_seen() -> None:
    """An operator that draws seeds until a friend wins is caught by the chain, though the record agrees with itself."""
    seed = b"x" * 32
    one = record(BOOK, clear(BOOK, seed=seed), seed=seed, revealed=commitment(SECRET, length=9), steps=3)
    assert replay(one) == ("seed: does not hash to the one revealed before it",)


@pytest.mark.parametrize("content", [{}, {"book": 3}, {"seed": "zz"}, {"version": 1, "seed": "", "commitment": []}])
def test_nonsense_is_no_record(content: dict[str, Any]) -> None:
    """What is no record at all is a difference, not a crash."""
    assert replay(content)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(1, 40))
def test_the_seed_chain(secret: bytes, length: int) -> None:
    """Each seed follows the one before and the commitment, and no other does."""
    start = commitment(secret, length=length)
    seeds = [start, *(seed_at(secret, position, length=length) for position in range(1, length + 1))]
    assert len(set(seeds)) == length + 1
    for position in range(1, length + 1):
        assert next_seed(secret, seeds[position - 1], length=length) == seeds[position]
        assert follows(seeds[position], seeds[position - 1])
        assert follows(seeds[position], start, steps=position)
        assert not follows(seeds[position - 1], seeds[position])
        assert not follows(seeds[position], start, steps=position + 1)
    assert not follows(start, start, steps=0)


def test_no_seed_beyond_the_chain() -> None:
    """A chain that has ended, or a foreign seed, is refused."""
    for position in (0, 10):
        with pytest.raises(ValueError, match="outside the chain"):
            seed_at(SECRET, position, length=9)
    for revealed in (seed_at(SECRET, 9, length=9), b"foreign"):
        with pytest.raises(ValueError, match="not in this chain"):
            next_seed(SECRET, revealed, length=9)


def test_fractions_and_endless_chains_are_no_record() -> None:
    """A price that is no integer, or a seed said to lie further off than any chain is long, is a difference at once."""
    one = published()
    one["book"]["bids"][0][1] = 30.0
    one["hash"] = canonical_hash({key: value for key, value in one.items() if key != "hash"})
    assert replay(one) == ("record: cannot be read: TypeError: a number of the book is not an integer",)
    far = published()
    far["commitment"]["steps"] = 10**12
    assert "seed: does not hash to the one revealed before it" in replay(far)
    with pytest.raises(ValueError, match="longer than"):
        commitment(SECRET, length=10**7)


def test_the_record_of_another_book_differs() -> None:
    """A record whose orders were swapped for others is seen even by its results."""
    one = published()
    other = published(replace(BOOK, bids=BIDS[:2]))
    assert replay({**one, "book": other["book"]})
