"""Bids: asked twice, placed once; within the cluster's limits; a withdrawn bid's place is kept for the next one."""

from typing import Any

from billing.ids import now_utc
from marketplace import bids, clusters
from marketplace.database import transaction
from tests.marketplace.conftest import CLASS, T0, Floor, bearer, later

NODES = ["nd_00000001", "nd_00000002"]


class Scaler:
    """A cluster's autoscaler, at the door."""

    def __init__(self, floor: Floor, cluster: str) -> None:
        self.client, self.path = floor.client, f"/v1/clusters/{cluster}/nodes"
        self.headers = bearer(floor.program_key(cluster, "head"))

    def bid(self, *nodes: str, device_class: str = CLASS) -> Any:
        body = {"device_class": device_class, "request_id": "r1", "node_ids": list(nodes)}
        return self.client.post(self.path, json=body, headers=self.headers)

    def give_back(self, node: str) -> Any:
        return self.client.delete(f"{self.path}/{node}", headers=self.headers)

    def nodes(self) -> list[str]:
        return [node["node_id"] for node in self.client.get(self.path, headers=self.headers).json()["nodes"]]


def test_asking_twice_bids_once(floor: Floor) -> None:
    """The same node ids again place nothing new and answer the same, also within one request and after they closed."""
    scaler = Scaler(floor, floor.cluster(floor.buyer(), max_nodes=2))
    first, second = scaler.bid(*NODES), scaler.bid(*NODES)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert scaler.nodes() == NODES
    scaler.give_back(NODES[0])
    assert scaler.bid(NODES[0], NODES[0]).status_code == 201
    assert scaler.nodes() == [NODES[1]]


def test_limits_of_a_cluster(floor: Floor) -> None:
    """No more than max_nodes stand, of no class that the cluster does not buy, under proper ids."""
    scaler = Scaler(floor, floor.cluster(floor.buyer(), max_nodes=2, kinds=["cpu-2c-4g"]))
    assert scaler.bid(*NODES, "nd_00000003").status_code == 409
    assert scaler.nodes() == []
    for other in (
        "cpu-4c-8g.eu.vetted",
        "cpu-2c-4g.de.vetted",
        "cpu-2c-4g.eu.open",
        "cpu-2c-4g",
        "x",
        "cpu-2c-4g.eu.vetted\n",
    ):
        assert scaler.bid(NODES[0], device_class=other).status_code == 400, other
    for bad in ("nd_1", "nd_0000000G", "x" * 1000, "nd_00000001\n", "nd_00000001\0"):
        assert scaler.bid(bad).status_code == 400, bad
    assert scaler.bid().status_code == 422
    assert scaler.bid(*NODES).status_code == 201
    assert scaler.bid("nd_00000003").status_code == 409


def test_somebody_elses_node(floor: Floor) -> None:
    """A node id that another cluster uses can be neither bid for nor given back."""
    mine, other = (Scaler(floor, floor.cluster(floor.buyer())) for _ in range(2))
    mine.bid(NODES[0])
    assert other.bid(NODES[0]).status_code == 409
    assert other.give_back(NODES[0]).status_code == 404
    assert mine.nodes() == [NODES[0]]


def test_closed_cluster(floor: Floor) -> None:
    """A cluster that stops takes no new bid and says why; asking for known ids still answers."""
    cluster = floor.cluster(floor.buyer())
    scaler = Scaler(floor, cluster)
    scaler.bid(NODES[0])
    with transaction(floor.sessions) as session:
        clusters.stop(session, cluster, "the budget is spent", at=T0)
    refused = scaler.bid(NODES[1])
    assert refused.status_code == 409
    assert "the budget is spent" in refused.json()["detail"]
    assert scaler.bid(NODES[0]).status_code == 201


def test_withdrawn_places_are_kept(floor: Floor) -> None:
    """Who withdraws a bid and asks again soon keeps its place, once for each; asking for known ids uses none up."""
    cluster = floor.cluster(floor.buyer())
    first, second = floor.bid(cluster, at=T0)[0], floor.bid(cluster, at=later(5))[0]
    with transaction(floor.sessions) as session:
        for node in (first, second):
            bids.close(session, bids.bid(session, node, cluster_id=cluster), "withdrawn", at=later(60))
    with transaction(floor.sessions) as session:  # the autoscaler repeats a request
        bids.place(session, cluster_id=cluster, device_class=CLASS, node_ids=[first], request_id="r", at=later(61))
    places = [floor.node(floor.bid(cluster, at=later(70 + n))[0]).placed_at for n in range(3)]
    assert places == [T0, later(5), later(72)]


def test_late_or_leased_places_are_not_kept(floor: Floor) -> None:
    """A bid that won, and one that was withdrawn long ago, leave no place."""
    floor.device(floor.person("provider"))
    cluster = floor.cluster(floor.buyer())
    (won,) = floor.bid(cluster)
    floor.tick(T0)
    Scaler(floor, cluster).give_back(won)
    (late,) = floor.bid(cluster, at=later(1))
    with transaction(floor.sessions) as session:
        bids.close(session, bids.bid(session, late, cluster_id=cluster), "withdrawn", at=later(2))
    (new,) = floor.bid(cluster, at=later(2 + bids.KEEP_PLACE_SECONDS))
    assert floor.node(new).placed_at == later(2 + bids.KEEP_PLACE_SECONDS)


def test_giving_a_leased_node_back(floor: Floor) -> None:
    """Giving back a leased node ends its lease now; giving it back again is harmless."""
    floor.device(floor.person("provider"), at=now_utc())
    cluster = floor.cluster(floor.buyer())
    scaler = Scaler(floor, cluster)
    scaler.bid(NODES[0])
    floor.tick(now_utc())
    assert floor.one_lease().state == "open"
    for _ in range(2):
        assert scaler.give_back(NODES[0]).status_code == 200
    lease = floor.one_lease()
    assert (lease.state, lease.close_reason) == ("closed", "Ray gave the node back")
    assert scaler.nodes() == []
    floor.prove()
