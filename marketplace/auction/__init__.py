"""The auction, pure: from a book of bids and asks to prices, awards and a reason for every loser."""

from marketplace.auction.book import Ask, Bid, Book, Depth, book_hash
from marketplace.auction.clearing import Award, ClassClearing, Clearing, clear
from marketplace.auction.columns import Columns
from marketplace.auction.core import Outcome, clear_columns
from marketplace.auction.explain import Loser
from marketplace.auction.records import record, replay
from marketplace.auction.seeds import commitment, follows, next_seed, seed_at

__all__ = [
    "Ask",
    "Award",
    "Bid",
    "Book",
    "ClassClearing",
    "Clearing",
    "Columns",
    "Depth",
    "Loser",
    "Outcome",
    "book_hash",
    "clear",
    "clear_columns",
    "commitment",
    "follows",
    "next_seed",
    "record",
    "replay",
    "seed_at",
]
