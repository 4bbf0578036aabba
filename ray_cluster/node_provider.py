"""Ray's autoscaler sees the market as one more cloud: asking for a node places a bid, giving it back withdraws it.

Runs inside a buyer's head with a key that can only bid for that one cluster. It keeps no state: each round the
market is asked what stands. A bid that has not won yet is a node that is still launching.
"""

import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_LAUNCH_REQUEST,
    TAG_RAY_NODE_KIND,
    TAG_RAY_USER_NODE_TYPE,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

logger = logging.getLogger(__name__)
HEAD_NODE_ID = "head"
HEAD_NODE_TYPE = "head"
SAME_ROUND_SECONDS = 0.05
"""Ray asks several times a round, at once: the market is asked once."""


class MarketNodeProvider(NodeProvider):
    """Ray's node provider over the market's HTTP API.

    ``provider_config`` holds ``market_url``, ``market_key_file`` and ``cluster_id``.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._path = f"/v1/clusters/{provider_config['cluster_id']}/nodes"
        key = Path(provider_config["market_key_file"]).read_text()
        self._market = httpx.Client(
            base_url=provider_config["market_url"],
            headers={"Authorization": f"Bearer {key}"},
            timeout=10,
        )
        self._lock = threading.Lock()
        self._asked = 0.0
        self._nodes: dict[str, dict[str, Any]] = {}

    @retry(
        retry=retry_if_exception_type(httpx.TransportError),
        stop=stop_after_attempt(6),
        wait=wait_exponential_jitter(initial=0.2, max=5),
        reraise=True,
    )
    def _call(self, method: str, path: str, body: object = None) -> Any:
        response = self._market.request(method, path, json=body)
        if response.status_code == httpx.codes.NOT_FOUND and method == "DELETE":
            return {}
        if response.is_error:
            logger.warning("the market answered %s to %s %s: %s", response.status_code, method, path, response.text)
        response.raise_for_status()
        return response.json()

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        """Return the ids of this cluster's standing bids and leased nodes, and the head's."""
        if time.monotonic() - self._asked > SAME_ROUND_SECONDS:
            answer = self._call("GET", self._path)
            with self._lock:
                self._nodes = {node["node_id"]: node for node in answer["nodes"]}
            self._asked = time.monotonic()
        return [n for n in (HEAD_NODE_ID, *self._nodes) if tag_filters.items() <= self.node_tags(n).items()]

    def is_running(self, node_id: str) -> bool:
        """Return whether the node's bid has won and its device has been told."""
        return node_id == HEAD_NODE_ID or self._nodes[node_id]["leased"]

    def is_terminated(self, node_id: str) -> bool:
        """Return whether the node is gone."""
        return node_id != HEAD_NODE_ID and node_id not in self._nodes

    def node_tags(self, node_id: str) -> dict[str, str]:
        """Return Ray's tags of the node."""
        if node_id == HEAD_NODE_ID:
            return {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: HEAD_NODE_TYPE}
        node = self._nodes[node_id]
        return {
            TAG_RAY_NODE_KIND: NODE_KIND_WORKER,
            TAG_RAY_USER_NODE_TYPE: node["device_class"],
            TAG_RAY_LAUNCH_REQUEST: node["request_id"],
        }

    def external_ip(self, node_id: str) -> str:
        """Return nothing: nobody reaches a node by its address but Ray itself."""
        return ""

    internal_ip = external_ip

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> dict[str, Any]:
        """Place ``count`` bids of one node each. The ids are ours, so that a repeated call places nothing twice."""
        nodes = [f"nd_{secrets.token_hex(10)}" for _ in range(count)]
        body = {
            "device_class": tags[TAG_RAY_USER_NODE_TYPE],
            "request_id": tags.get(TAG_RAY_LAUNCH_REQUEST, ""),
            "node_ids": nodes,
        }
        answer: dict[str, Any] = self._call("POST", self._path, body)
        return answer

    def terminate_node(self, node_id: str) -> dict[str, Any]:
        """Withdraw the bid, or give the leased node back."""
        if node_id != HEAD_NODE_ID:
            self._call("DELETE", f"{self._path}/{node_id}")
        return {}

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration as it is: there is nothing to prepare."""
        return cluster_config
