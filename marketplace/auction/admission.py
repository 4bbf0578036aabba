"""From a book to its columns: what takes part, after the limit on any one owner."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from marketplace.auction.book import Ask, Bid, Book
from marketplace.auction.columns import Columns

CONCENTRATION_SLOTS = 20
"""Where a class offers no more than this, one owner may take or sell all of it."""


def admitted_units(book: Book) -> dict[str, int]:
    """Return the units of each bid and ask (bids' ids after "bid ", asks' after "ask ") within its owner's limit.

    In a class that offers more than 20 slots, one owner may want at most ``owner_percent_max`` of what all want there,
    and offer at most that share of what all offer. A bid counts in every class that it accepts. An owner's best orders
    go in first; what exceeds the limit is left out of this tick.
    """
    supply, demand = depths(book)
    capped = {name for name, slots in supply.items() if slots > CONCENTRATION_SLOTS}
    units: dict[str, int] = {}
    for total, side in ((demand, "bid"), (supply, "ask")):
        allowed = {name: total[name] * book.owner_percent_max // 100 for name in capped}
        left: dict[tuple[str, str], int] = {}
        for key, owner, names, wanted in _best_first(book, side):
            limits = [left.setdefault((owner, name), allowed[name]) for name in names if name in capped]
            units[f"{side} {key}"] = take = min([wanted, *limits])
            for name in names:
                if name in capped:
                    left[owner, name] -= take
    return units


def depths(book: Book) -> tuple[Counter[str], Counter[str]]:
    """Return the slots offered and the nodes wanted, at any price, per class; a bid counts in each that it accepts."""
    supply: Counter[str] = Counter()
    demand: Counter[str] = Counter()
    for ask in book.asks:
        supply[ask.device_class] += ask.slots
    for bid in book.bids:
        for name in bid.device_classes:
            demand[name] += bid.quantity
    return supply, demand


def _best_first(book: Book, side: str) -> list[tuple[str, str, Sequence[str], int]]:
    if side == "bid":
        bids = sorted(book.bids, key=lambda bid: (-bid.value_micros, sorted(bid.device_classes), bid.id))
        return [(bid.id, bid.owner, bid.device_classes, bid.quantity) for bid in bids]
    asks = sorted(book.asks, key=lambda ask: (ask.reserve_micros, ask.device_class, ask.id))
    return [(ask.id, ask.owner, (ask.device_class,), ask.slots) for ask in asks]


def columns_of(
    book: Book, units: Mapping[str, int], *, without: Collection[str] = ()
) -> tuple[Columns, list[Bid], list[Ask]]:
    """Return the columns of a book, and the bids and asks that their positions stand for, in order of their ids.

    ``units`` is from ``admitted_units``; orders with none, and the bids named in ``without``, are left out.
    Raises ValueError for more than 2^31 - 1 units on one side.
    """
    names = book.device_classes()
    number = {name: c for c, name in enumerate(names)}
    bids = sorted((b for b in book.bids if units[f"bid {b.id}"] and b.id not in without), key=lambda bid: bid.id)
    asks = sorted((a for a in book.asks if units[f"ask {a.id}"]), key=lambda ask: ask.id)
    bid_masks = [sum(1 << number[name] for name in bid.device_classes) for bid in bids]
    masks = sorted(set(bid_masks))
    owners = sorted({bid.owner for bid in bids} | {ask.owner for ask in asks})
    group = {mask: g for g, mask in enumerate(masks)}
    owner = {name: k for k, name in enumerate(owners)}
    bid_at, ask_at = {bid.id: i for i, bid in enumerate(bids)}, {ask.id: j for j, ask in enumerate(asks)}
    columns = Columns(
        masks=tuple(masks),
        floors=tuple(book.floors.get(name, 0) for name in names),
        bid_ids=list(bid_at),
        bid_values=np.array([bid.value_micros for bid in bids], dtype=np.int64),
        bid_units=np.array([units[f"bid {bid.id}"] for bid in bids], dtype=np.int64),
        bid_groups=np.array([group[mask] for mask in bid_masks], dtype=np.int64),
        bid_owners=np.array([owner[bid.owner] for bid in bids], dtype=np.int64),
        ask_ids=list(ask_at),
        ask_reserves=np.array([ask.reserve_micros for ask in asks], dtype=np.int64),
        ask_units=np.array([units[f"ask {ask.id}"] for ask in asks], dtype=np.int64),
        ask_classes=np.array([number[ask.device_class] for ask in asks], dtype=np.int64),
        ask_owners=np.array([owner[ask.owner] for ask in asks], dtype=np.int64),
        owners=owners,
        incumbents=tuple(
            (bid_at[bid_id], ask_at[ask_id])
            for bid_id, ask_id in sorted(book.incumbents.items())
            if bid_id in bid_at and ask_id in ask_at
        ),
    )
    return columns, bids, asks
