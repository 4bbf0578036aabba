"""Random books for the auction's properties, and the measures that they are judged by."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, product

from hypothesis import strategies as st

from marketplace.auction import Ask, Bid, Book, Clearing

SEEDS = st.binary(max_size=4)
# Few distinct prices, so that ties abound; now and then the bounds.
PRICES = st.one_of(st.integers(0, 8), st.integers(0, 8), st.integers(0, 60_000), st.sampled_from([0, 10**9]))
SMALL = st.integers(0, 6)
UNITS = st.integers(1, 4)
CLASSES = ("a", "b", "c")


@st.composite
def books(
    draw: st.DrawFn,
    classes: tuple[str, ...] = CLASSES,
    orders_max: int = 8,
    prices: st.SearchStrategy[int] = PRICES,
    running: bool = True,
    floors: bool = True,
) -> Book:
    """A small book with ties, floors and incumbents, some of them nonsense; no limit on owners."""
    masks = st.sets(st.sampled_from(classes), min_size=1).map(lambda names: tuple(sorted(names)))
    bid_rows = draw(st.lists(st.tuples(prices, UNITS, masks), max_size=orders_max))
    ask_rows = draw(st.lists(st.tuples(prices, UNITS, st.sampled_from(classes)), max_size=orders_max))
    bids = tuple(Bid(f"bid_{i}", *row, f"o{i % 3}") for i, row in enumerate(bid_rows))
    asks = tuple(Ask(f"ask_{i}", *row, f"o{i % 3}") for i, row in enumerate(ask_rows))
    low = draw(st.dictionaries(st.sampled_from(classes), st.one_of(st.just(0), prices))) if floors else {}
    ask_ids = st.sampled_from([*(ask.id for ask in asks), "ask_gone"])
    bid_ids = st.sampled_from([*(bid.id for bid in bids), "bid_gone"])
    incumbents = draw(st.dictionaries(bid_ids, ask_ids, max_size=4)) if running else {}
    return Book(bids, asks, low, incumbents, owner_percent_max=100)


ONE = books(classes=("c",))
MANY = books()


def won(result: Clearing) -> Counter[str]:
    """Nodes won by each bid."""
    return Counter(award.bid_id for award in result.awards)


def sold(result: Clearing) -> Counter[str]:
    """Slots sold by each ask."""
    return Counter(award.ask_id for award in result.awards)


def low(result: Clearing) -> dict[str, int]:
    """The lowest clearing price of each class."""
    return {one.device_class: one.low_micros for one in result.classes}


def cheapest(bid: Bid, prices: Mapping[str, int]) -> int:
    """The price of the bid's cheapest class."""
    return min(prices[name] for name in bid.device_classes)


def lyapunov(book: Book, prices: Mapping[str, int]) -> int:
    """L(p): the surplus of everybody who may take what it likes best at these prices."""
    buyers = sum(bid.quantity * max(0, bid.value_micros - cheapest(bid, prices)) for bid in book.bids)
    return buyers + sum(ask.slots * max(0, prices[ask.device_class] - ask.reserve_micros) for ask in book.asks)


def minimisers(book: Book, top: int) -> list[dict[str, int]]:
    """Every price vector from the floors to ``top`` at which L is least."""
    names = book.device_classes()
    ranges = [range(book.floors.get(name, 0), max(top, book.floors.get(name, 0)) + 1) for name in names]
    found = [(lyapunov(book, p := dict(zip(names, point, strict=True))), p) for point in product(*ranges)]
    least = min(value for value, _ in found)
    return [p for value, p in found if value == least]


def subsets(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Every set of these names that is not empty."""
    for size in range(1, len(names) + 1):
        yield from combinations(names, size)
