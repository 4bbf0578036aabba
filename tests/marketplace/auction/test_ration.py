"""Sharing and the small flow underneath: exact, fair, and never more than there is."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from marketplace.auction.flow import Flow
from marketplace.auction.ration import Draw, pro_rata, push_fairly, ration, room

NAMES = [f"n{i}" for i in range(64)]
UNITS = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@given(UNITS, st.integers(0, 400), st.binary(max_size=4))
def test_pro_rata(units: list[int], volume: int, seed: bytes) -> None:
    """All is given out, nobody gets more than it wants, and each is within one unit of its exact share."""
    shares = pro_rata(np.array(units, dtype=np.int64), volume, Draw(seed, NAMES)).tolist()
    total, volume = sum(units), min(volume, sum(units))
    assert sum(shares) == volume
    for want, share in zip(units, shares, strict=True):
        assert want * volume // total <= share <= -(-want * volume // total)


def test_ranks_are_computed_for_the_last_odd_units_only() -> None:
    """Nobody is hashed whose share the remainders already decide."""
    asked = []
    pro_rata(np.array([5, 3, 2], dtype=np.int64), 3, lambda i: bytes([asked.append(i) or i]))
    assert asked == []
    pro_rata(np.array([4, 4, 1], dtype=np.int64), 1, lambda i: bytes([asked.append(i) or i]))
    assert asked == [0, 1]


@given(UNITS, st.integers(0, 300), st.binary(max_size=4), st.data())
def test_ration_by_owner(units: list[int], volume: int, seed: bytes, data: st.DataObject) -> None:
    """An owner gets as much for one order as for its parts, and as an exact share of all its units."""
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(units), max_size=len(units)))
    counts = np.array(units, dtype=np.int64)
    draw = Draw(seed, NAMES)
    shares = ration(counts, np.array(owners), volume, owner_rank=draw, order_rank=draw)
    assert (shares <= counts).all()
    merged: Counter[int] = Counter()
    for owner, want in zip(owners, units, strict=True):
        merged[owner] += want
    whole = ration(
        np.array(list(merged.values())), np.array(list(merged)), volume, owner_rank=draw, order_rank=draw
    ).tolist()
    got: Counter[int] = Counter()
    for owner, share in zip(owners, shares.tolist(), strict=True):
        got[owner] += share
    assert got == Counter(dict(zip(merged, whole, strict=True)))


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[int, list[int]], list[int], dict[int, int]]:
    """Who reaches which sinks, what those take, and what each source wants."""
    sinks = draw(st.integers(1, 5))
    reach = draw(st.lists(st.sets(st.integers(0, sinks - 1)), min_size=1, max_size=6))
    spare = draw(st.lists(st.integers(0, 12), min_size=sinks, max_size=sinks))
    wants = draw(st.lists(st.integers(0, 12), min_size=len(reach), max_size=len(reach)))
    return {i: sorted(sinks) for i, sinks in enumerate(reach)}, spare, dict(enumerate(wants))


def most(reach: dict[int, list[int]], spare: list[int], wants: dict[int, int]) -> int:
    """The maximum flow by scipy."""
    n, m = len(reach), len(spare)
    capacity = np.zeros((n + m + 2, n + m + 2), dtype=np.int32)
    for source, sinks in reach.items():
        capacity[n + m, source] = wants.get(source, 0)
        capacity[source, [n + sink for sink in sinks]] = 1000
    capacity[n : n + m, n + m + 1] = spare
    return int(maximum_flow(csr_array(capacity), n + m, n + m + 1).flow_value)


@given(networks())
def test_the_flow_is_a_maximum_flow(network: tuple[dict[int, list[int]], list[int], dict[int, int]]) -> None:
    """Pushing source by source finds as much room as there is, keeps to reach and room, and takes nothing back."""
    reach, spare, wants = network
    flow = Flow(reach, spare)
    sent = {source: flow.push(source, units) for source, units in wants.items()}
    assert sum(sent.values()) == most(reach, spare, wants)
    held: Counter[int] = Counter()
    for sink, units_of in enumerate(flow.held):
        assert sum(units_of.values()) + flow.spare[sink] == spare[sink]
        assert all(sink in reach[source] and units > 0 for source, units in units_of.items())
        held.update(units_of)
    assert held == Counter(sent)


@given(networks(), st.binary(max_size=2))
def test_pushing_fairly(network: tuple[dict[int, list[int]], list[int], dict[int, int]], seed: bytes) -> None:
    """As much is sent as fits, and nobody could get a unit more from another that got two units more of its share."""
    reach, spare, wants = network
    sent = push_fairly(Flow(reach, spare), wants, Draw(seed, NAMES))
    assert sum(sent.values()) == most(reach, spare, wants)
    assert all(sent[source] <= wants[source] for source in wants)
    for poor in wants:
        for rich in wants:
            # A unit taken from the rich and given to the poor leaves the poor the poorer still, by share of its want.
            if (
                sent[poor] < wants[poor]
                and sent[rich]
                and (sent[poor] + 2) * wants[rich] < (sent[rich] - 2) * wants[poor]
            ):
                given_ = sent | {poor: sent[poor] + 1, rich: sent[rich] - 1}
                assert most(reach, spare, given_) < sum(sent.values())


def test_room_leaves_the_flow_alone() -> None:
    """Asking for room pushes nothing."""
    flow = Flow({0: [0], 1: [0, 1]}, [2, 3])
    assert room(flow, {0: 4, 1: 4}) == 5
    assert flow.spare == [2, 3]
