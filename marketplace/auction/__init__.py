"""The auction, pure: from a book of bids and asks to prices, awards and a reason for every loser."""

from marketplace.auction.book import Ask, Bid, Book, Depth, book_hash
from marketplace.auction.clearing import Award, ClassClearing, Clearing, clear
from marketplace.auction.explain import Loser

__all__ = ["Ask", "Award", "Bid", "Book", "ClassClearing", "Clearing", "Depth", "Loser", "book_hash", "clear"]
