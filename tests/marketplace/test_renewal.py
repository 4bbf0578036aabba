"""What happens at a lease's end: the node stays at the new price, or it is told to drain and ends."""

import threading

import pytest

from marketplace import leases
from marketplace.database import transaction
from tests.marketplace.conftest import RATE, T0, Floor, Machine, Person, later


@pytest.fixture
def running(floor: Floor) -> tuple[Machine, str, str, Person]:
    """One device, leased for a minute to one cluster, joined: (device, cluster, node, buyer)."""
    buyer = floor.buyer()
    device = floor.device(floor.person("provider"))
    cluster = floor.cluster(buyer)
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    floor.report(cluster, node, range(1, 39), at=later(39), probes=[2])
    floor.seen(device, at=later(39))
    return device, cluster, node, buyer


def test_renewal_keeps_device_and_time(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """A renewal keeps device and node, begins to the microsecond when the old lease ends, and is held for before."""
    device, _, node, _ = running
    assert floor.tick(later(39)) is None  # not yet due: the notice is twenty seconds
    assert floor.tick(later(40)) is not None
    old, new = floor.leases()
    assert (new.state, new.device_id, new.bid_id, new.renews_id) == ("next", device.id, node, old.id)
    assert new.started_at == old.ends_at == later(60)
    floor.prove()
    floor.seen(device, at=later(60))
    floor.tick(later(41))
    assert len(floor.leases()) == 2  # renewed once only
    floor.step(later(60))
    old, new = floor.leases()
    assert (old.state, old.close_reason, new.state) == ("closed", "renewed", "open")
    assert new.joined_at == old.joined_at
    assert floor.node(node).state == "leased"
    floor.prove()


def test_renewal_without_rival_is_paid_through(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """Over a renewal no millisecond is lost or paid twice: two leases of one node charge the whole time."""
    device, cluster, node, _ = running
    floor.seen(device, at=later(60))
    floor.tick(later(40))
    floor.report(cluster, node, range(38, 91), at=later(90), probes=range(5, 91, 5))
    floor.step(later(60))
    floor.settle(later(90))
    old, new = floor.leases()
    assert (old.state, old.verified_ms) == ("settled", 58_000)
    assert (new.state, new.verified_ms) == ("open", 30_000)
    assert old.charge_micros + new.charge_micros == 88_000 * 11


def test_lost_renewal_gets_notice_then_ends(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """When another bid wins the device, the running lease is told to drain and ends at its time, and the rival gets it
    then; until then the rival is told, and the tick does not fail."""
    device, cluster, node, _ = running
    rival = floor.cluster(floor.buyer(), max_price_micros_per_hour=99_000_000)
    (rival_node,) = floor.bid(rival, at=later(39))
    assert floor.tick(later(40)) is not None
    lease = floor.one_lease()
    assert lease.notice.startswith("not renewed: ")
    assert floor.events(cluster, "notice") == [lease.notice]
    with floor.sessions() as session:
        (order,) = leases.orders(session, [device.id])[device.id]
    assert (order["node_id"], order["state"]) == (node, "drain")
    waiting = floor.node(rival_node)
    assert waiting.state == "standing"
    assert waiting.last_loss is not None
    assert "mill" in waiting.last_loss["text"]
    floor.prove()
    floor.seen(device, at=later(60))
    floor.step(later(60))
    assert floor.one_lease().close_reason == lease.notice
    floor.tick(later(60))
    _, new = floor.leases()
    assert (new.bid_id, new.started_at) == (rival_node, later(60))
    # The price was the loser's limit before the fee while it still bid; alone, the rival pays the reserve.
    assert new.price_micros_per_hour == RATE
    floor.prove()


def test_others_trade_while_a_renewal_is_lost(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """A contested device does not keep the rest of the market from clearing."""
    spare = floor.device(floor.person("provider"), name="spare", reserve_micros_per_hour=RATE + 1, at=later(40))
    rival = floor.cluster(floor.buyer(), max_price_micros_per_hour=99_000_000)
    floor.bid(rival, count=2, at=later(39))
    floor.tick(later(40))
    assert [lease.device_id for lease in floor.leases(rival)] == [spare.id]


def test_cheaper_device_ends_the_renewal(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """Where a cheaper device stands free, the running node is told to drain and why: it cannot move there itself."""
    _, cluster, _, _ = running
    floor.device(floor.person("provider"), name="cheap", reserve_micros_per_hour=RATE // 2, at=later(40))
    floor.tick(later(40))
    lease = floor.one_lease()
    assert lease.notice == "not renewed: its bid won cheap, which asks less, and a running node cannot move"
    (node,) = floor.bid(cluster, at=later(41))  # as Ray does for what must go on
    floor.tick(later(41))
    _, new = floor.leases()
    assert (new.bid_id, new.price_micros_per_hour) == (node, RATE // 2)


def test_renewal_without_money(floor: Floor) -> None:
    """A cluster whose budget is used up keeps its device to the end of the lease, and no longer."""
    device = floor.device(floor.person("provider"))
    cluster = floor.cluster(floor.buyer(), budget_micros=700_000)
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    floor.seen(device, at=later(60))
    for second in range(40, 60, 5):
        floor.tick(later(second))
    floor.step(later(60))
    lease = floor.one_lease()
    assert (lease.state, lease.ends_at) == ("closed", later(60))
    assert "budget" in lease.close_reason
    assert floor.node(node).state == "closed"
    floor.prove()


def test_rival_wins_the_device_of_one_without_money(floor: Floor) -> None:
    """A device whose lease cannot be renewed for lack of money goes to a waiting bid when it ends, not before."""
    device = floor.device(floor.person("provider"))
    cluster = floor.cluster(floor.buyer(), budget_micros=700_000)
    floor.bid(cluster)
    floor.tick(T0)
    rival = floor.cluster(floor.buyer())
    floor.bid(rival)
    floor.seen(device, at=later(60))
    assert floor.tick(later(40)) is not None
    assert not floor.leases(rival)
    floor.step(later(60))
    floor.tick(later(60))
    assert len(floor.leases(rival)) == 1
    floor.prove()


def test_death_ends_the_renewal_too(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """A node that dies after its renewal was awarded ends both, and the whole hold of the renewal goes back at once."""
    _, cluster, node, buyer = running
    floor.tick(later(40))
    floor.report(cluster, node, range(39, 45), at=later(45), probes=[40])
    floor.report(cluster, node, [45, 46, 47], at=later(47), alive=False)
    old, new = floor.leases()
    assert (old.state, new.state) == ("closed", "closed")
    assert new.ends_at == new.started_at
    floor.settle(later(47))
    old, new = floor.leases()
    assert (new.state, new.charge_micros) == ("settled", 0)
    assert old.state == "settled"
    assert floor.available(buyer) == 100_000_000 - old.charge_micros


def test_close_races_the_tick(floor: Floor, running: tuple[Machine, str, str, Person]) -> None:
    """A lease that is ended while the tick runs is not renewed: no renewal is left behind without what it renews."""
    old = floor.one_lease()
    closed, cleared = threading.Event(), threading.Event()

    def tick() -> None:
        closed.wait()
        floor.tick(later(40))
        cleared.set()

    thread = threading.Thread(target=tick)
    thread.start()
    with transaction(floor.sessions) as session:
        leases.close(session, old.id, "Ray gave the node back", at=later(40))
        closed.set()
        cleared.wait(0.3)  # the tick has read the lease as open, or waits for its row
    thread.join()
    assert [lease.state for lease in floor.leases()] == ["closed"]
    floor.prove()
