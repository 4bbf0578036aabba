"""``python -m tests.benchmarks.auction``: one clearing against sorting, HiGHS and pymarket; medians of several runs."""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array

from marketplace.auction import Columns, clear_columns

SORT_RATIO_MAX = 6.0
SPEEDUP_MIN = 1000.0
PRICE_MAX = 10**8
# pymarket 0.7.6 runs with pandas < 2.3 and numpy < 2, so it has an interpreter of its own.
PYMARKET = """
import sys, time, warnings
import numpy, pymarket
warnings.filterwarnings("ignore")
mechanism, orders, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(runs):
    chance, market = numpy.random.default_rng(0), pymarket.Market()
    for user in range(orders):
        market.accept_bid(int(chance.integers(1, 9)), float(chance.integers(0, 10**8)), user, user < orders // 2, 0)
    began = time.perf_counter()
    market.run(mechanism)
    print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: median seconds of one clearing and of the other; ``passed`` is None where there is no target."""

    what: str
    orders: int
    clearing_seconds: float
    other_seconds: float
    target: str
    passed: bool | None

    @property
    def said(self) -> str:
        """The comparison in words."""
        if self.what.startswith("sort"):
            return f"{self.clearing_seconds / self.other_seconds:.1f} × its time"
        return f"{self.other_seconds / self.clearing_seconds:,.0f} × faster"


def random_book(orders: int, *, classes: int, masks: int, seed: int = 0) -> Columns:
    """Half bids, half asks, prices uniform to 100 dollars, 1 to 8 units, every order an owner of its own."""
    chance = np.random.default_rng(seed)
    bids, asks = orders // 2, orders - orders // 2
    found = {1 << c for c in range(classes)}
    while len(found) < masks:
        found.add(int(chance.integers(1, 1 << classes)))
    return Columns(
        masks=tuple(sorted(found)),
        floors=(0,) * classes,
        bid_ids=[f"bid_{i}" for i in range(bids)],
        bid_values=chance.integers(0, PRICE_MAX, bids),
        bid_units=chance.integers(1, 9, bids),
        bid_groups=chance.integers(0, len(found), bids),
        bid_owners=np.arange(bids),
        ask_ids=[f"ask_{i}" for i in range(asks)],
        ask_reserves=chance.integers(0, PRICE_MAX, asks),
        ask_units=chance.integers(1, 9, asks),
        ask_classes=chance.integers(0, classes, asks),
        ask_owners=np.arange(asks),
        owners=[f"owner_{i}" for i in range(max(bids, asks))],
    )


def seconds(work: Callable[[], object], runs: int) -> float:
    """The median time of several runs."""
    taken = []
    for _ in range(runs):
        gc.collect()
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def clearing_seconds(columns: Columns, runs: int) -> float:
    """Prices, their interval and every order's fill."""
    return seconds(lambda: clear_columns(columns, seed=b"benchmark"), runs)


def program(columns: Columns) -> tuple[np.ndarray, csr_array, np.ndarray, Bounds]:
    """The same book as a linear program: cost, constraint rows, their limits, bounds of x (bid, class) and y (ask)."""
    bids, asks, classes = len(columns.bid_ids), len(columns.ask_ids), len(columns.floors)
    accepts = np.array([[mask >> c & 1 for c in range(classes)] for mask in columns.masks], dtype=bool)
    bid, c = np.nonzero(accepts[columns.bid_groups])
    x = np.arange(len(bid))
    rows = np.concatenate((bid, bids + c, bids + columns.ask_classes))
    places = np.concatenate((x, x, len(x) + np.arange(asks)))
    signs = np.concatenate((np.ones(2 * len(x)), -np.ones(asks)))
    matrix = coo_array((signs, (rows, places)), shape=(bids + classes, len(x) + asks)).tocsr()
    cost = np.concatenate((-columns.bid_values[bid], columns.ask_reserves)).astype(float)
    limits = np.concatenate((columns.bid_units.astype(float), np.zeros(classes)))
    return cost, matrix, limits, Bounds(0, np.concatenate((columns.bid_units[bid], columns.ask_units)))


def against_sorting(runs: int) -> list[Row]:
    """A clearing against numpy's sort of as many floats."""
    rows = []
    for classes, masks in ((1, 1), (8, 16)):
        for orders in (10**3, 10**4, 10**5, 10**6):
            floats = np.random.default_rng(1).random(orders)
            ours = clearing_seconds(random_book(orders, classes=classes, masks=masks), runs)
            other = seconds(lambda floats=floats: np.sort(floats), runs)
            goal = orders == 10**6
            passed = ours <= SORT_RATIO_MAX * other if goal else None
            what = f"sort, {classes} class{'es' if classes > 1 else ''}, {masks} mask{'s' if masks > 1 else ''}"
            rows.append(Row(what, orders, ours, other, f"≤ {SORT_RATIO_MAX:.0f} ×" if goal else "", passed))
    return rows


def against_highs(runs: int, orders: int = 10**4) -> list[Row]:
    """A clearing against HiGHS, which finds the best assignment but not the lowest prices.

    The auction's problem, in whole units, is ``milp``. ``linprog`` drops that whole units are wanted; what it finds is
    whole here all the same, so it is shown too.
    """
    rows = []
    for classes, masks in ((1, 1), (8, 16)):
        columns = random_book(orders, classes=classes, masks=masks)
        cost, matrix, limits, bounds = program(columns)
        whole, constraint = np.ones(len(cost)), LinearConstraint(matrix, -np.inf, limits)
        ours = clearing_seconds(columns, 3 * runs)
        integer = seconds(
            lambda c=cost, k=constraint, b=bounds, w=whole: milp(c, constraints=k, bounds=b, integrality=w), 1
        )
        box = np.column_stack((np.zeros(len(cost)), bounds.ub))
        relaxed = seconds(lambda c=cost, m=matrix, u=limits, b=box: linprog(c, A_ub=m, b_ub=u, bounds=b), runs)
        name = f"{classes} class{'es' if classes > 1 else ''}"
        rows.append(Row(f"HiGHS milp, {name}", orders, ours, integer, "≥ 1,000 ×", integer >= SPEEDUP_MIN * ours))
        rows.append(Row(f"HiGHS linprog, {name}", orders, ours, relaxed, "", None))
    return rows


def against_pymarket(python: Path, orders: int = 10**4) -> list[Row]:
    """A clearing of one class against pymarket's two double auctions, one run each (they take seconds)."""
    rows = []
    ours = clearing_seconds(random_book(orders, classes=1, masks=1), 9)
    for mechanism in ("muda", "huang"):
        command = [python, "-c", PYMARKET, mechanism, str(orders), "1"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        other = statistics.median(map(float, said.split()))
        rows.append(Row(f"pymarket {mechanism}", orders, ours, other, "≥ 1,000 ×", other >= SPEEDUP_MIN * ours))
    return rows


def auction_rows(*, runs: int = 5, pymarket: Path | None = None) -> list[Row]:
    """Measure everything; ``pymarket`` is a Python that can import it, and without one it is left out."""
    return against_sorting(runs) + against_highs(runs) + (against_pymarket(pymarket) if pymarket else [])


def main() -> int:
    """Run the command line; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pymarket", type=Path, metavar="PYTHON", help="a Python that can import pymarket")
    arguments = parser.parse_args()
    rows = auction_rows(runs=arguments.runs, pymarket=arguments.pymarket)
    print(f"{'against':32} {'orders':>9} {'clearing':>11} {'other':>12}  ratio")
    for row in rows:
        verdict = {None: "", True: f"(target {row.target}: pass)", False: f"(target {row.target}: MISSED)"}[row.passed]
        times = f"{row.clearing_seconds * 1e3:8.2f} ms {row.other_seconds * 1e3:9.2f} ms"
        print(f"{row.what:32} {row.orders:9,} {times}  {row.said} {verdict}")
    return 0 if all(row.passed is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
