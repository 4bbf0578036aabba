"""The market from a notebook: connect, look, top up, open a cluster."""

from typing import Any

from billing.errors import InvalidInput
from billing.money import MICROS_PER_CENT, format_usd, parse_usd
from marketplace.client.cluster import Cluster
from marketplace.client.http import Api


class Market:
    """A buyer's connection. Empty arguments mean ``SPARE_URL`` and ``SPARE_API_KEY``."""

    def __init__(self, url: str = "", key: str = "") -> None:
        self._api = Api(url, key)

    def rules(self) -> dict[str, Any]:
        """Return the market's fee, classes, versions and last prices."""
        found: dict[str, Any] = self._api.call("GET", "/v1/market")
        return found

    def wallet(self) -> dict[str, int]:
        """Return ``available_micros`` and ``held_micros``."""
        found: dict[str, int] = self._api.call("GET", "/v1/wallet")
        return found

    def top_up(self, amount: str) -> dict[str, Any]:
        """Start a top-up such as ``"$5"``; pay at its ``url``. Raises InvalidInput for parts of a cent."""
        cents, rest = divmod(parse_usd(amount), MICROS_PER_CENT)
        if rest:
            raise InvalidInput(f"{amount} is not a whole number of cents", hint="write it like $5 or 5.25")
        return dict(self._api.call("POST", "/v1/wallet/topups", {"amount_cents": cents}))

    def top_up_status(self, topup_id: str) -> str:
        """Return ``open``, ``paid``, ``failed`` or ``expired``."""
        return str(self._api.call("GET", f"/v1/wallet/topups/{topup_id}")["status"])

    def cluster(
        self,
        *,
        max_price: str,
        budget: str,
        nodes: int = 1,
        idle_timeout_seconds: int = 300,
        region: str = "eu",
        trust: str = "vetted",
        kinds: list[str] | None = None,
        lease_seconds: int | None = None,
        name: str = "",
    ) -> Cluster:
        """Open a cluster of at most ``nodes`` nodes.

        ``max_price`` such as ``"0.05/h"`` is the most for a compute-hour of one node, fee included; ``budget`` such as
        ``"$2"`` is never exceeded. Raises MarketError with a hint when the market refuses.
        """
        body = {
            "name": name,
            "max_price_micros_per_hour": parse_usd(max_price),
            "budget_micros": parse_usd(budget),
            "max_nodes": nodes,
            "idle_timeout_seconds": idle_timeout_seconds,
            "region": region,
            "trust": trust,
            "kinds": kinds or [],
            "lease_ms": lease_seconds * 1000 if lease_seconds else None,
        }
        return Cluster(self._api, self._api.call("POST", "/v1/clusters", body)["cluster_id"])

    def open_cluster(self, cluster_id: str) -> Cluster:
        """Return a cluster that is open already."""
        return Cluster(self._api, cluster_id)

    def __repr__(self) -> str:
        wallet = self.wallet()
        return f"Market {self._api.url}: {format_usd(wallet['available_micros'])} of credit to spend"
