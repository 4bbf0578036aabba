"""Sharing what there is among orders that tie: pro rata, largest remainder, odd units by a seeded draw."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marketplace.auction.columns import Ints
from marketplace.auction.flow import Flow

Rank = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Draw:
    """The order of whoever ties: by SHA-256(seed ‖ name), computed only when asked for."""

    seed: bytes
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        """Return the rank of the name at an index: the least comes first."""
        return hashlib.sha256(self.seed + self.names[index].encode()).digest()


def pro_rata(units: Ints, volume: int, rank: Rank) -> Ints:
    """Split ``volume`` in proportion to ``units``, at most ``units`` each.

    What the divisions leave over goes one each to the largest remainders, and among equal ones by ``rank`` of their
    position. Both the sum of ``units`` and ``volume`` must be below 2^31.
    """
    total = int(units.sum())
    if volume >= total:
        return units.copy()
    shares: Ints = units * volume // total
    odd = volume - int(shares.sum())
    if odd:
        remainders = units * volume % total
        last = np.partition(remainders, -odd)[-odd]
        shares[remainders > last] += 1
        tied = np.flatnonzero(remainders == last).tolist()
        odd -= int((remainders > last).sum())
        shares[sorted(tied, key=rank)[:odd] if odd < len(tied) else tied] += 1
    return shares


def ration(units: Ints, owners: Ints, volume: int, *, owner_rank: Rank, order_rank: Rank) -> Ints:
    """Split ``volume`` among owners in proportion to the units of all their orders, then each owner's among its orders.

    So an owner gets the same whether it places one order or many. ``order_rank`` takes positions in ``units``,
    ``owner_rank`` takes owners.
    """
    if volume >= int(units.sum()):
        return units.copy()
    if not volume:
        return np.zeros_like(units)
    codes, owner_of, counts = np.unique(owners, return_inverse=True, return_counts=True)
    totals = np.zeros(len(codes), dtype=np.int64)
    np.add.at(totals, owner_of, units)
    shares = pro_rata(totals, volume, lambda code: owner_rank(int(codes[code])))
    won: Ints = np.minimum(units, shares[owner_of])
    by_owner = np.argsort(owner_of, kind="stable")
    ends = np.cumsum(counts)
    for code in np.flatnonzero((counts > 1) & (shares < totals)).tolist():
        mine = by_owner[ends[code] - counts[code] : ends[code]]
        won[mine] = pro_rata(units[mine], int(shares[code]), _within(mine, order_rank))
    return won


def _within(positions: Ints, rank: Rank) -> Rank:
    return lambda i: rank(int(positions[i]))


def room(flow: Flow, wants: Mapping[int, int]) -> int:
    """How many more units the flow could take from these sources in all."""
    trial = flow.copy()
    return sum(trial.push(source, units) for source, units in wants.items())


def push_fairly(flow: Flow, wants: Mapping[int, int], rank: Rank) -> dict[int, int]:
    """Push as much as fits in all, from each source as near to the same share of its want as the sinks allow.

    The tightest set of sources, whose sinks have the least room for what it wants, is filled first (the
    lexicographically optimal flow of Megiddo 1974); integers by largest remainder. Returns what each source sent.
    """
    sent = dict.fromkeys(wants, 0)
    waiting = {source: units for source, units in wants.items() if units}
    while waiting and (volume := room(flow, waiting)):
        part = waiting
        while full := _too_small(flow, part, volume):
            part = {source: units for source, units in part.items() if full.issuperset(flow.reach[source])}
            volume = room(flow, part)
        total = sum(part.values())
        for source, units in part.items():
            sent[source] = flow.push(source, units * volume // total)
        odd = volume - sum(sent[source] for source in part)
        order = sorted(part, key=lambda source: (-(part[source] * volume % total), rank(source))) if odd else []
        while odd:
            for source in order:
                if odd and sent[source] < part[source] and flow.push(source, 1):
                    sent[source] += 1
                    odd -= 1
        waiting = {source: units for source, units in waiting.items() if source not in part}
    return sent


def _too_small(flow: Flow, part: Mapping[int, int], volume: int) -> set[int]:
    """The sinks too small for an equal share of ``volume`` for every source of the part; none if it fits."""
    trial, total = flow.copy(), sum(part.values())
    shares = {source: units * volume // total for source, units in part.items()}
    for source, share in shares.items():
        trial.push(source, share)
    return trial.full
