"""Why an order lost, in plain words with numbers, and the price at which it would have won."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from marketplace.auction.book import Ask, Bid, Depth
from marketplace.auction.columns import UNITS_MAX
from marketplace.auction.flow import Flow


@dataclass(frozen=True, slots=True)
class Loser:
    """An order, or the part of one, that was not filled.

    Prices are micro-dollars per compute-hour before the fee; ``text`` says them in dollars. ``code`` is one of
    no_supply, no_demand, below_floor, no_trade, below_price, above_price, floor_surplus, tied, concentration,
    all_or_nothing. ``limit_micros`` is the bid's value or the ask's reserve, ``price_micros`` the lowest clearing price
    among the order's classes (None where nothing traded). ``would_win_at_micros`` is the nearest price to its own at
    which, all else equal and every tie lost, it would have filled more units than it did: ``would_win_units`` in all;
    None (and 0) where no price makes that sure.
    """

    order_id: str
    side: Literal["bid", "ask"]
    code: str
    text: str
    would_win_at_micros: int | None
    limit_micros: int
    price_micros: int | None
    won_units: int
    lost_units: int
    would_win_units: int


def dollars(micros: int) -> str:
    """Micro-dollars as exact dollars with four to six decimals: 24000 is "0.0240", 24001 is "0.024001"."""
    whole, part = divmod(micros, 1_000_000)
    decimals = f"{part:06d}"
    return f"{whole}.{decimals[:4]}{decimals[4:].rstrip('0')}"


def _count(units: int, noun: str) -> str:
    return f"{units} {noun}{'' if units == 1 else 's'}"


_NONE = Depth(())


class Explainer:
    """Explains the losers of one cleared book."""

    def __init__(
        self,
        bids: Iterable[Bid],
        asks: Iterable[Ask],
        *,
        floors: Mapping[str, int],
        prices: Mapping[str, int | None],
        owner_percent_max: int,
    ) -> None:
        """``bids`` and ``asks`` took part, with the units that they took part with.

        ``prices`` are the clearing prices per class, None where nothing traded.
        """
        by_mask: defaultdict[frozenset[str], list[tuple[int, int]]] = defaultdict(list)
        for bid in bids:
            by_mask[frozenset(bid.device_classes)].append((bid.value_micros, bid.quantity))
        by_class: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for ask in asks:
            by_class[ask.device_class].append((ask.reserve_micros, ask.slots))
        self._wanted = {mask: Depth(orders) for mask, orders in by_mask.items()}
        self._offered = {name: Depth(orders) for name, orders in by_class.items()}
        self._floors = floors
        self._prices = prices
        self._percent = owner_percent_max
        # The only prices at which the number of units that an order would win can change.
        values = {value for depth in self._wanted.values() for value in depth.prices}
        reserves = {reserve for depth in self._offered.values() for reserve in depth.prices}
        self._limits = sorted({0, *floors.values(), *reserves, *(value + 1 for value in values)})
        self._reserves = sorted({*values, *(r - 1 for r in reserves if r)}, reverse=True)
        self._found: dict[tuple[object, int], tuple[int | None, int]] = {}

    def _flow(self, price_micros: int, *, extra: frozenset[str] = frozenset()) -> tuple[Flow, list[int], list[str]]:
        """Route all bids at or above a price to all asks at or below it, in classes whose floors allow that price.

        Returns the flow, the units of each mask that found no room, and the classes. ``extra`` is one more source.
        """
        names = [name for name in self._offered if self._floors.get(name, 0) <= price_micros]
        masks = [*self._wanted, extra]
        reach = {i: [c for c, name in enumerate(names) if name in mask] for i, mask in enumerate(masks)}
        flow = Flow(reach, [self._offered[name].at_most(price_micros) for name in names])
        units = [depth.at_least(price_micros) for depth in self._wanted.values()]
        return flow, [count - flow.push(i, count) for i, count in enumerate(units)], names

    def _room_for_bid(self, mask: frozenset[str], limit_micros: int) -> int:
        # Units that a bid moved up to this limit surely wins: it counts every bid at that limit as ahead of it.
        flow, _, _ = self._flow(limit_micros, extra=mask)
        return flow.push(len(self._wanted), UNITS_MAX)

    def _room_for_ask(self, name: str, reserve_micros: int) -> int:
        if reserve_micros < self._floors.get(name, 0):
            # Below its floor a class shares out by units alone: no lower reserve gets more for sure.
            return 0
        flow, waiting, names = self._flow(reserve_micros)
        if name not in names:
            return 0
        flow.spare[names.index(name)] += UNITS_MAX
        flow.full.clear()
        return sum(flow.push(i, units) for i, units in enumerate(waiting))

    def _better_bid(self, mask: frozenset[str], needed: int) -> tuple[int | None, int]:
        """Return the least limit at which a bid would have won ``needed`` units, and how many it could."""
        if (mask, needed) not in self._found:
            index = bisect_left(self._limits, needed, key=lambda limit: self._room_for_bid(mask, limit))
            limit = self._limits[index] if index < len(self._limits) else None
            self._found[mask, needed] = limit, 0 if limit is None else self._room_for_bid(mask, limit)
        return self._found[mask, needed]

    def _better_ask(self, name: str, needed: int) -> tuple[int | None, int]:
        if (name, needed) not in self._found:
            floor = self._floors.get(name, 0)
            reserves = sorted({floor, *(r for r in self._reserves if r > floor)}, reverse=True)
            index = bisect_left(reserves, needed, key=lambda reserve: self._room_for_ask(name, reserve))
            reserve = reserves[index] if index < len(reserves) else None
            self._found[name, needed] = reserve, 0 if reserve is None else self._room_for_ask(name, reserve)
        return self._found[name, needed]

    def bid(self, bid: Bid, *, admitted: int, won: int, partly: int | None) -> Loser:
        """Explain a bid that won fewer nodes than its quantity.

        ``admitted`` of its nodes took part; ``partly`` is what it had got when it was dropped as all-or-nothing.
        """
        mask = frozenset(bid.device_classes)
        price = min((p for name in mask if (p := self._prices.get(name)) is not None), default=None)
        better, units = None, 0
        if won < admitted and max(won + 1, bid.min_nodes) <= admitted:
            better, units = self._better_bid(mask, max(won + 1, bid.min_nodes))
        units = min(admitted, units)
        if admitted < bid.quantity and (won == admitted or admitted < bid.min_nodes):
            code, text = "concentration", self._concentrated("want", admitted, bid.quantity, "node")
        elif partly:
            needs = f"{'all' if bid.min_nodes == bid.quantity else 'at least'} {_count(bid.min_nodes, 'node')}"
            code, text = "all_or_nothing", f"only {partly} of {bid.quantity} to be had, and you want {needs} or none"
        else:
            code, text = self._why_bid(bid, price, won)
        if better is not None:
            text += f"; at {dollars(better)} you would have won {_count(units, 'node')}"
        return Loser(bid.id, "bid", code, text, better, bid.value_micros, price, won, bid.quantity - won, units)

    def ask(self, ask: Ask, *, admitted: int, sold: int) -> Loser:
        """Explain an ask that sold fewer slots than it offered; ``admitted`` of its slots took part."""
        name, price = ask.device_class, self._prices[ask.device_class]
        better, units = self._better_ask(name, sold + 1) if sold < admitted else (None, 0)
        if better is not None and better >= ask.reserve_micros:
            # Shared out at its floor: its own reserve is as good as any lower one.
            better, units = None, 0
        units = min(admitted, units)
        if sold == admitted:
            code, text = "concentration", self._concentrated("offer", admitted, ask.slots, "slot")
        else:
            code, text = self._why_ask(ask, price, sold)
        if better is not None:
            text += f"; at {dollars(better)} you would have sold{'' if ask.slots == 1 else ' ' + _count(units, 'slot')}"
        return Loser(ask.id, "ask", code, text, better, ask.reserve_micros, price, sold, ask.slots - sold, units)

    def _concentrated(self, verb: str, admitted: int, units: int, noun: str) -> str:
        return (
            f"{admitted} of {_count(units, noun)} took part: "
            f"one owner may {verb} at most {self._percent} % of a class with more than 20 slots"
        )

    def _why_bid(self, bid: Bid, price: int | None, won: int) -> tuple[str, str]:
        limit, label = dollars(bid.value_micros), " or ".join(sorted(bid.device_classes))
        offered = {name: self._offered[name] for name in bid.device_classes if name in self._offered}
        if not offered:
            others = sorted(((depth.total, name) for name, depth in self._offered.items()), reverse=True)[:2]
            elsewhere = "".join(f"; {total} in {name}" for total, name in others)
            return "no_supply", f"no device of class {label} is offered{elsewhere}"
        floor, floored = min((self._floors.get(name, 0), name) for name in offered)
        if bid.value_micros < floor:
            return "below_floor", f"your limit {limit} < floor {dollars(floor)}/h of class {floored}"
        if price is None:
            lowest = min(depth.prices[0] for depth in offered.values())
            return "no_trade", f"lowest ask {dollars(lowest)} > your maximum {limit}"
        if bid.value_micros < price:
            return "below_price", f"your limit {limit} < clearing price {dollars(price)}/h"
        units = sum(depth.at_most(bid.value_micros) for depth in offered.values())
        return "tied", (
            f"tied at the margin {limit}: rationed, you won {won} of {_count(bid.quantity, 'node')} "
            f"({units} offered at that price or less)"
        )

    def _why_ask(self, ask: Ask, price: int | None, sold: int) -> tuple[str, str]:
        reserve, name = dollars(ask.reserve_micros), ask.device_class
        wanted = [depth for mask, depth in self._wanted.items() if name in mask]
        if not wanted:
            return "no_demand", f"no bid for class {name}"
        if price is None:
            highest, floor = max(depth.prices[-1] for depth in wanted), self._floors.get(name, 0)
            if highest < floor:
                return "below_floor", f"highest bid {dollars(highest)} < floor {dollars(floor)}/h of class {name}"
            if highest < ask.reserve_micros:
                return "no_trade", f"highest bid {dollars(highest)} < your reserve {reserve}"
            return "no_trade", f"every bid for class {name} found a class that is cheaper than your reserve {reserve}"
        if ask.reserve_micros > price:
            return "above_price", f"reserve {reserve} > clearing price {dollars(price)}"
        units = sum(depth.at_least(price) for depth in wanted)
        result = f"you sold {sold} of {_count(ask.slots, 'slot')} ({units} wanted at that price or more)"
        if ask.reserve_micros < price:
            # Only a floor can hold the price above the reserve of an ask that did not sell.
            return "floor_surplus", f"too many slots at the floor price {dollars(price)}, shared out: {result}"
        return "tied", f"tied at the margin {reserve}: rationed, {result}"
