"""Who waits is told why, with numbers, and what would help."""

from typing import Any

from marketplace import clusters
from marketplace.database import transaction
from tests.marketplace.conftest import RATE, T0, Floor, Person, later


def explained(floor: Floor, buyer: Person, cluster: str) -> dict[str, Any]:
    found = floor.client.get(f"/v1/clusters/{cluster}/why", headers=buyer.headers("buyer"))
    assert found.status_code == 200, found.text
    return dict(found.json())


def test_price_too_low(floor: Floor) -> None:
    """A bid below every ask is told the all-in price that would have won; with exactly that limit it wins."""
    floor.device(floor.person("provider"))
    buyer = floor.buyer()
    cluster = floor.cluster(buyer, max_price_micros_per_hour=20_000_000)
    floor.bid(cluster)
    floor.tick(T0)
    (waiting,) = explained(floor, buyer, cluster)["waiting"]
    assert waiting["limit_micros_per_hour"] == 20_000_000
    assert waiting["would_win_at_micros_per_hour"] == RATE * 11 // 10
    assert waiting["lost_clearings"] == 1
    assert "lowest ask 36.00" in waiting["reason"]
    assert waiting["hint"] == "a max_price of $39.600000/h would have won"
    better = floor.cluster(buyer, max_price_micros_per_hour=waiting["would_win_at_micros_per_hour"])
    floor.bid(better)
    floor.tick(later(1))
    assert len(floor.leases(better)) == 1


def test_no_device(floor: Floor) -> None:
    """Where nothing of the class is offered, no price is named: it says how many are enrolled and leased."""
    floor.device(floor.person("provider"))
    buyer = floor.buyer()
    first, second = floor.cluster(buyer), floor.cluster(buyer)
    floor.bid(first)
    floor.tick(T0)
    floor.bid(second)
    floor.tick(later(1))
    found = explained(floor, buyer, second)
    (waiting,) = found["waiting"]
    assert waiting["would_win_at_micros_per_hour"] is None
    assert "no device of class cpu-2c-4g.eu.vetted is offered" in waiting["reason"]
    assert waiting["hint"].startswith("1 devices of cpu-2c-4g.eu.vetted are enrolled, 1 of them leased")
    assert found["summary"].startswith("1 of 1 nodes wait: ")


def test_no_money(floor: Floor) -> None:
    """Without money for the shortest lease, it says how much there is, how much is needed, and to top up."""
    floor.device(floor.person("provider"))
    buyer = floor.buyer(1_000)
    cluster = floor.cluster(buyer)
    floor.bid(cluster)
    floor.tick(T0)
    (waiting,) = explained(floor, buyer, cluster)["waiting"]
    assert "$0.001000 left" in waiting["reason"]
    assert "needs $0.0763" in waiting["reason"]
    assert waiting["hint"] == "top up your credit, or open a cluster with a larger budget"


def test_states(floor: Floor) -> None:
    """Each state of a cluster is explained: starting, nothing asked, waiting, joining, running, stopping."""
    floor.device(floor.person("provider"))
    buyer = floor.buyer()
    assert "head is starting" in explained(floor, buyer, floor.cluster(buyer, running=False))["summary"]
    cluster = floor.cluster(buyer)
    assert "no task asks for a node; $100.00 of credit is free" in explained(floor, buyer, cluster)["summary"]
    (node,) = floor.bid(cluster)
    assert "waiting for the next clearing" in explained(floor, buyer, cluster)["summary"]
    floor.tick(T0)
    assert "1 of 1 devices are joining" in explained(floor, buyer, cluster)["summary"]
    floor.report(cluster, node, [1, 2], at=later(2))
    assert "1 nodes run; nothing waits" in explained(floor, buyer, cluster)["summary"]
    with transaction(floor.sessions) as session:
        clusters.stop(session, cluster, "enough", at=later(3))
    assert explained(floor, buyer, cluster)["summary"] == "stopping: enough"
