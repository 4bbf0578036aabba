"""A receipt in a notebook or a terminal: data first, tables for people."""

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from billing.money import decimal_text, format_usd

HEADINGS = ("device", "$/h×speed", "claimed", "verified", "charge $", "earned $", "fee $")
UNPAID_HEADINGS = ("device", "seconds", "verdict", "why")


@dataclass(frozen=True)
class Receipt:
    """What a cluster cost and why; ``data`` is all of it, money in micro-dollars, durations in milliseconds."""

    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether nothing of it can change any more."""
        return bool(self.data["final"])

    @property
    def charge_micros(self) -> int:
        """What was charged in all, in micro-dollars."""
        return int(self.data["totals"]["charge_micros"])

    def rows(self) -> list[tuple[str, ...]]:
        """Return the leases as text cells under ``HEADINGS``, the totals last."""
        totals = self.data["totals"]
        money = [decimal_text(totals[key]) for key in ("charge_micros", "earning_micros", "fee_micros")]
        total = ("total", "", _s(totals["claimed_ms"]), _s(totals["verified_ms"]), *money)
        return [*(_row(lease) for lease in self.data["leases"]), total]

    def unpaid_rows(self) -> list[tuple[str, ...]]:
        """Return every stretch of leased time that nobody pays for, under ``UNPAID_HEADINGS``."""
        return [
            (lease["device_name"], _s(ms), *why.split(": ", 1))
            for lease in self.data["leases"]
            for why, ms in lease["unpaid"].items()
        ]

    def __str__(self) -> str:
        state = "final" if self.final else "so far"
        return f"Receipt {self.data['cluster_id']} ({state}): {format_usd(self.charge_micros)} charged"

    def _repr_html_(self) -> str:
        unpaid = f"<p>Not paid, and why</p>{_html(UNPAID_HEADINGS, self.unpaid_rows())}"
        return f"<p><b>{escape(str(self))}</b></p>{_html(HEADINGS, self.rows())}{unpaid}"

    def to_json(self) -> str:
        """Return the receipt as JSON."""
        return json.dumps(self.data, indent=2)


def _row(lease: dict[str, Any]) -> tuple[str, ...]:
    return (
        lease["device_name"],
        f"{decimal_text(lease['price_micros_per_hour'], 4)}×{lease['score_millis'] / 1000:.2f}",
        _s(lease["claimed_ms"]),
        _s(lease["verified_ms"]),
        decimal_text(lease["charge_micros"]),
        decimal_text(lease["earning_micros"]),
        decimal_text(lease["fee_micros"]),
    )


def _html(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _s(ms: int) -> str:
    return f"{ms / 1000:.1f} s"
