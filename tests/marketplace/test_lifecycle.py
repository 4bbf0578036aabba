"""What time does to leases: a device that is silent, never joins, idles or leaves loses it, others keep theirs."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from billing.ids import now_utc
from marketplace import clusters, devices, leases, lifecycle, readings, settlement
from marketplace.background import Background
from marketplace.database import transaction
from tests.marketplace.conftest import T0, Floor, Machine, later


@pytest.fixture
def machine(floor: Floor) -> Machine:
    return floor.device(floor.person("provider"))


@pytest.fixture
def node(floor: Floor, machine: Machine) -> tuple[str, str]:
    """A cluster that gives idle nodes back after thirty seconds, and its node."""
    cluster = floor.cluster(floor.buyer(), idle_timeout_seconds=30)
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    return cluster, node_id


def ended(floor: Floor) -> str:
    """Why the only lease ended; empty while it is open."""
    lease = floor.one_lease()
    return lease.close_reason if lease.state != "open" else ""


def test_silent_device(floor: Floor, machine: Machine, node: tuple[str, str]) -> None:
    """A device that was silent for too long loses its lease, its bid closes, and the buyer is told for how long."""
    floor.report(*node, range(1, 5), at=later(5))
    floor.step(later(10))
    assert not ended(floor)
    floor.step(later(10.5))
    assert ended(floor) == "the device was lost: nothing heard from it for 10 s"
    assert floor.node(node[1]).state == "closed"
    assert "mill: the device was lost" in floor.events(node[0], "lease-ended")[0]


def test_a_market_that_was_down_waits(floor: Floor, node: tuple[str, str]) -> None:
    """While the market has itself not listened for long enough, silence proves nothing and ends no lease."""
    floor.report(*node, range(1, 5), at=later(5))
    floor.step(later(20), heard_since=datetime.min.replace(tzinfo=UTC))
    assert not ended(floor)


def test_background_gives_the_same_grace(floor: Floor, engine: Engine, machine: Machine) -> None:
    """The background, just started, ends no lease of a silent device; once it has listened long enough it does."""
    cluster = floor.cluster(floor.buyer())
    (node_id,) = floor.bid(cluster)
    began = now_utc()
    floor.seen(machine, at=began)
    floor.tick(began)
    with transaction(floor.sessions) as session:
        clusters.cluster(session, cluster).state = "starting-elsewhere"  # no head runs here, none shall be watched
    work = Background(floor.context, engine)
    work.step(began + (later(9) - T0))
    floor.seen(machine, at=began - (later(60) - T0))
    work._due.clear()
    work.step(began + (later(9.5) - T0))
    assert not ended(floor)
    work._due.clear()
    work.step(began + (later(11) - T0))
    assert ended(floor).startswith("the device was lost")
    assert floor.node(node_id).state == "closed"


def test_never_joined(floor: Floor, machine: Machine, node: tuple[str, str]) -> None:
    """A node that has not joined in time loses its device, also when renewals came between; nothing is charged."""
    for second in (40, 60, 90, 91):
        floor.seen(machine, at=later(second))
        floor.tick(later(second))
        floor.step(later(second))
        if second <= 90:
            assert floor.leases(states=("open",)), second
    _, last = floor.leases()
    assert last.close_reason == "the device did not join within 90 s"
    floor.settle(later(200))
    assert {(lease.state, lease.charge_micros) for lease in floor.leases()} == {("settled", 0)}


def test_idle(floor: Floor, machine: Machine, node: tuple[str, str]) -> None:
    """A node with nothing to do for the cluster's idle time is given back; one that works stays."""
    floor.report(*node, range(1, 12), at=later(12), busy=True)
    floor.report(*node, range(12, 45), at=later(45), busy=False)
    floor.seen(machine, at=later(41))
    floor.step(later(41))
    assert not ended(floor)
    floor.step(later(41.5))
    assert ended(floor) == "idle for 30 s"


def test_leaving(floor: Floor, machine: Machine, node: tuple[str, str]) -> None:
    """A device that leaves ends its lease at once, and what it did until then is still paid."""
    floor.report(*node, range(0, 21), at=later(20), probes=[0, 10, 20])
    floor.seen(machine, at=later(20))
    with transaction(floor.sessions) as session:
        devices.leaving(session, machine.id, at=later(20))
    floor.step(later(20))
    assert ended(floor) == "the device left"
    floor.settle(later(51))
    lease = floor.one_lease()
    assert (lease.state, lease.verified_ms) == ("settled", 20_000)


def test_end(floor: Floor, machine: Machine, node: tuple[str, str]) -> None:
    """A lease ends at its time and not before, however late the step comes."""
    floor.report(*node, range(1, 60), at=later(60))
    floor.seen(machine, at=later(75))
    floor.step(later(59.9))
    assert not ended(floor)
    floor.step(later(75))
    assert floor.one_lease().ends_at == later(60)
    assert ended(floor) == "the lease ended and was not renewed"


def test_stopping_cluster_settles_before_it_goes(
    floor: Floor, node: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping cluster waits for one more check, pays up to it, gives the rest back, and only then has stopped."""
    monkeypatch.setattr(lifecycle.heads, "stop", lambda folder: True)
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 21), at=later(20), probes=[0, 10])
    (waiting,) = floor.bid(cluster, at=later(20))
    with transaction(floor.sessions) as session:
        clusters.stop(session, cluster, "the buyer stopped it", at=later(20))
    lifecycle.step_clusters(floor.context, at=later(20))
    assert not ended(floor)
    assert floor.node(waiting).state == "closed"
    floor.report(cluster, node_id, range(21, 27), at=later(26), probes=[22])
    lifecycle.step_clusters(floor.context, at=later(26))
    assert floor.one_lease().ends_at == later(22)
    with floor.sessions() as session:
        assert clusters.cluster(session, cluster).state == "stopping"
    floor.settle(later(27))
    assert floor.one_lease().verified_ms == 22_000
    lifecycle.step_clusters(floor.context, at=later(28))
    with floor.sessions() as session:
        assert clusters.cluster(session, cluster).state == "stopped"
    assert floor.events(cluster, "stopped") == ["stopped: the buyer stopped it"]
    floor.prove()


def test_stopping_within_the_notice_of_a_renewal(
    floor: Floor, machine: Machine, node: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that stops after its renewal was awarded gets the renewal's hold back whole and stops as well."""
    monkeypatch.setattr(lifecycle.heads, "stop", lambda folder: True)
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 42), at=later(41), probes=[0, 20, 40])
    floor.seen(machine, at=later(41))
    floor.tick(later(41))
    with transaction(floor.sessions) as session:
        clusters.stop(session, cluster, "the buyer stopped it", at=later(42))
    lifecycle.step_clusters(floor.context, at=later(51))
    assert {lease.state for lease in floor.leases()} == {"closed"}
    floor.settle(later(52))
    floor.settle(later(52) + (later(settlement.LATE_READINGS_MS / 1000) - T0))
    lifecycle.step_clusters(floor.context, at=later(90))
    with floor.sessions() as session:
        assert clusters.cluster(session, cluster).state == "stopped"
    assert {lease.state for lease in floor.leases()} == {"settled"}
    floor.prove()


def test_spent_budget_stops_the_cluster(floor: Floor, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The buyer is warned when four fifths of the budget are committed, once; a budget that buys no further lease
    stops the cluster, when nothing runs or is unsettled any more."""
    monkeypatch.setattr(lifecycle.heads, "running", lambda folder: True)
    monkeypatch.setattr(lifecycle.heads, "warden_running", lambda folder: True)
    cluster = floor.cluster(floor.buyer(), budget_micros=700_000)
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    for _ in range(2):
        lifecycle.step_clusters(floor.context, at=later(1))
    assert len(floor.events(cluster, "budget")) == 1
    floor.report(cluster, node_id, range(0, 63), at=later(62), probes=range(0, 62, 5))
    floor.step(later(60), heard_since=T0)
    lifecycle.step_clusters(floor.context, at=later(61))
    with floor.sessions() as session:
        assert clusters.cluster(session, cluster).state == "running"
    floor.settle(later(62))
    floor.bid(cluster)
    floor.tick(later(63))
    lifecycle.step_clusters(floor.context, at=later(63))
    with floor.sessions() as session:
        found = clusters.cluster(session, cluster)
    assert found.state == "stopping"
    assert "the budget is spent: $0.040000 left" in found.reason


def test_dead_head_stops_the_cluster(floor: Floor, node: tuple[str, str]) -> None:
    """A running cluster whose head is not there any more stops, and the buyer reads why."""
    lifecycle.step_clusters(floor.context, at=later(1))
    with floor.sessions() as session:
        found = clusters.cluster(session, node[0])
    assert (found.state, found.reason) == ("stopping", "the Ray head died")


def test_unchecked_node_is_given_up(floor: Floor, machine: Machine) -> None:
    """A node that stays alive but passes no check for a minute loses its lease: nothing it does can be paid."""
    cluster = floor.cluster(floor.buyer())
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    with transaction(floor.sessions) as session:
        lease = leases.lock(session, floor.one_lease().id)
        lease.ends_at = later(300)
    floor.report(cluster, node_id, range(0, 64), at=later(64), probes=[3])
    floor.step(later(63), heard_since=T0)
    assert floor.one_lease().state == "open"
    floor.report(cluster, node_id, range(64, 66), at=later(66))
    floor.step(later(65), heard_since=T0)
    lease = floor.one_lease()
    assert lease.state == "closed"
    assert lease.close_reason.startswith("no check passed for 6")


def test_prune_keeps_what_is_young(floor: Floor, machine: Machine) -> None:
    """Old readings and the files of clusters stopped long ago go; what is younger than a month stays."""
    cluster = floor.cluster(floor.buyer())
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    floor.report(cluster, node_id, range(0, 10), at=later(10), probes=[3])
    with transaction(floor.sessions) as session:
        found = clusters.cluster(session, cluster)
        found.state, found.stopped_at = "stopped", later(10)
        session.add(found)
    folder = floor.context.head_folder(found)
    folder.mkdir(parents=True)
    lifecycle.prune(floor.context, at=later(20 * 86_400))
    assert folder.exists()
    lifecycle.prune(floor.context, at=later(40 * 86_400))
    assert not folder.exists()
    with floor.sessions() as session:
        assert session.exec(select(readings.ReadingRow)).all() == []
