"""Why an order lost, in plain words with numbers, and the price at which it would have won."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from marketplace.auction.book import Depth


@dataclass(frozen=True, slots=True)
class Loser:
    """An order, or the part of one, that was not filled.

    Prices are micro-dollars per compute-hour before the fee; ``text`` says them in dollars. ``code`` is one of
    no_supply, no_demand, below_floor, no_trade, below_price, above_price, floor_surplus, tied. ``limit_micros`` is the
    bid's value or the ask's reserve, ``price_micros`` the clearing price (None where nothing traded).
    ``would_win_at_micros`` is the nearest price to its own at which, all else equal and every tie lost, it would have
    filled more units than it did: ``would_win_units`` in all; None (and 0) where no price would have helped.
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


class Explainer:
    """Explains the losers of one cleared device class."""

    def __init__(self, device_class: str, *, floor_micros: int, price_micros: int | None, bids: Depth, asks: Depth):
        """``price_micros`` is the clearing price, None where nothing traded; prices are per compute-hour."""
        self._device_class = device_class
        self._floor = floor_micros
        self._price = price_micros
        self._bids = bids
        self._asks = asks
        # The only prices at which the number of units that an order would win can change.
        limits = {floor_micros, *asks.prices, *(value + 1 for value in bids.prices)}
        self._limits = sorted(price for price in limits if price >= floor_micros)
        reserves = {*bids.prices, *(reserve - 1 for reserve in asks.prices)}
        self._reserves = sorted((price for price in reserves if price >= 0), reverse=True)

    def _room_for_bid(self, limit_micros: int) -> int:
        # Units that a bid moved up to this limit surely wins: it counts every bid at that limit as ahead of it.
        return self._asks.at_most(limit_micros) - self._bids.at_least(limit_micros)

    def _room_for_ask(self, reserve_micros: int) -> int:
        return self._bids.at_least(max(reserve_micros, self._floor)) - self._asks.at_most(reserve_micros)

    def bid(self, order_id: str, limit_micros: int, *, quantity: int, won: int) -> Loser:
        """Explain a bid that won fewer nodes than its quantity."""
        index = bisect_left(self._limits, won + 1, key=self._room_for_bid)
        better = self._limits[index] if index < len(self._limits) else None
        units = 0 if better is None else min(quantity, self._room_for_bid(better))
        code, text = self._why_bid(limit_micros, won, quantity)
        if better is not None:
            text += f"; at {dollars(better)} you would have won {_count(units, 'node')}"
        return Loser(order_id, "bid", code, text, better, limit_micros, self._price, won, quantity - won, units)

    def ask(self, order_id: str, reserve_micros: int, *, slots: int, sold: int) -> Loser:
        """Explain an ask that sold fewer slots than it offered."""
        index = bisect_left(self._reserves, sold + 1, key=self._room_for_ask)
        better = self._reserves[index] if index < len(self._reserves) else None
        units = 0 if better is None else min(slots, self._room_for_ask(better))
        code, text = self._why_ask(reserve_micros, sold, slots)
        if better is not None:
            text += f"; at {dollars(better)} you would have sold{'' if slots == 1 else ' ' + _count(units, 'slot')}"
        return Loser(order_id, "ask", code, text, better, reserve_micros, self._price, sold, slots - sold, units)

    def _why_bid(self, limit_micros: int, won: int, quantity: int) -> tuple[str, str]:
        limit = dollars(limit_micros)
        if not self._asks.total:
            return "no_supply", f"no device of class {self._device_class} is offered"
        if limit_micros < self._floor:
            return "below_floor", f"your limit {limit} < floor {dollars(self._floor)}/h of class {self._device_class}"
        if self._price is None:
            return "no_trade", f"lowest ask {dollars(self._asks.prices[0])} > your maximum {limit}"
        if limit_micros < self._price:
            return "below_price", f"your limit {limit} < clearing price {dollars(self._price)}/h"
        offered = self._asks.at_most(limit_micros)
        return "tied", (
            f"tied at the margin {limit}: rationed, you won {won} of {_count(quantity, 'node')} "
            f"({offered} offered at that price or less)"
        )

    def _why_ask(self, reserve_micros: int, sold: int, slots: int) -> tuple[str, str]:
        reserve = dollars(reserve_micros)
        if not self._bids.total:
            return "no_demand", f"no bid for class {self._device_class}"
        if self._price is None:
            highest = self._bids.prices[-1]
            if highest < self._floor:
                floor = dollars(self._floor)
                return "below_floor", f"highest bid {dollars(highest)} < floor {floor}/h of class {self._device_class}"
            return "no_trade", f"highest bid {dollars(highest)} < your reserve {reserve}"
        if reserve_micros > self._price:
            return "above_price", f"reserve {reserve} > clearing price {dollars(self._price)}"
        wanted = self._bids.at_least(self._price)
        result = f"you sold {sold} of {_count(slots, 'slot')} ({wanted} wanted at that price or more)"
        if reserve_micros < self._price:
            # Only a floor can hold the price above the reserve of an ask that did not sell.
            floor = dollars(self._price)
            return "floor_surplus", f"too many slots at the floor price {floor}, lowest reserve first: {result}"
        return "tied", f"tied at the margin {reserve}: rationed, {result}"
