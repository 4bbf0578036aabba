"""The tick: one price, money held with every award, all or nothing, and once; losers are told why."""

import random
import threading
from typing import Any

import pytest
from sqlmodel import select

from billing.money import hold_micros
from marketplace import auction, bids, clusters, devices, exchange, leases, offers
from marketplace.database import transaction
from marketplace.exchange import Tick
from tests.marketplace.conftest import CLASS, RATE, T0, Floor, bearer, later


def test_award_holds_money(floor: Floor) -> None:
    """An award opens a lease at the clearing price, and the ledger's hold is the lease's."""
    buyer = floor.buyer()
    device = floor.device(floor.person("provider"))
    cluster = floor.cluster(buyer)
    (node,) = floor.bid(cluster)
    assert floor.tick(T0) is not None
    lease = floor.one_lease()
    assert (lease.device_id, lease.bid_id, lease.price_micros_per_hour) == (device.id, node, RATE)
    assert lease.hold_micros == hold_micros(RATE, 60_000, 1000) == floor.balance(f"hold:{lease.id}")
    assert floor.available(buyer) == 100_000_000 - lease.hold_micros
    assert floor.node(node).state == "leased"
    floor.prove()


def test_uniform_price(floor: Floor) -> None:
    """All leases of a class in one tick have one price, the lowest that clears; the rate is that price × the score."""
    provider, buyer = floor.person("provider"), floor.buyer()
    for reserve, score in ((RATE // 4, 1000), (RATE // 2, 1500), (RATE, 800), (54_000_000, 1000)):
        floor.device(provider, reserve_micros_per_hour=reserve, score_millis=score)
    cluster = floor.cluster(buyer)
    floor.bid(cluster, count=3)
    floor.tick(T0)
    found = floor.leases()
    assert {lease.price_micros_per_hour for lease in found} == {RATE}
    assert sorted(lease.rate_micros_per_hour for lease in found) == [RATE * 8 // 10, RATE, RATE * 15 // 10]
    floor.prove()


def test_fast_device_stays_within_the_compute_hour_limit(floor: Floor) -> None:
    """A device five times as fast as the reference costs five times as much an hour, and its hold covers that."""
    floor.device(floor.person("provider"), score_millis=5000)
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster)
    floor.tick(T0)
    lease = floor.one_lease()
    assert lease.rate_micros_per_hour == 5 * RATE
    assert lease.hold_micros == hold_micros(5 * RATE, 60_000, 1000)


def test_losers_are_told(floor: Floor) -> None:
    """A bid and an ask that lose each learn why, with the price that would have won."""
    provider, buyer = floor.person("provider"), floor.buyer()
    dear = floor.device(provider, reserve_micros_per_hour=90_000_000)
    cluster = floor.cluster(buyer)
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    assert not floor.leases()
    bid = floor.node(node)
    assert bid.state == "standing"
    assert bid.lost_clearings == 1
    assert bid.last_loss is not None
    assert bid.last_loss["code"] == "no_trade"
    assert bid.last_loss["all_in_would_win_at_micros"] == 99_000_000
    with floor.sessions() as session:
        ask = session.exec(select(offers.Ask).where(offers.Ask.device_id == dear.id)).one()
    assert ask.lost_clearings == 1
    assert ask.last_loss is not None
    assert "highest bid 50.00" in ask.last_loss["text"]
    assert ask.last_loss["would_win_at_micros"] == 50_000_000


def test_silent_and_leaving_devices_take_no_part(floor: Floor) -> None:
    """Only a device that spoke just now and is not leaving is sold."""
    provider = floor.person("provider")
    floor.device(provider, at=later(-11))
    leaving = floor.device(provider)
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster)
    with transaction(floor.sessions) as session:
        devices.leaving(session, leaving.id, at=T0)
    floor.tick(T0)
    assert not floor.leases()


def test_no_award_without_credit(floor: Floor) -> None:
    """A bid whose shortest lease the buyer cannot pay takes no part and is told so; nothing is held."""
    buyer = floor.buyer(50_000)  # five seconds at 55 dollars an hour cost 76 390
    floor.device(floor.person("provider"))
    cluster = floor.cluster(buyer)
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    assert not floor.leases()
    assert floor.available(buyer) == 50_000
    loss = floor.node(node).last_loss
    assert loss is not None
    assert loss["code"] == "no_money"
    assert "$0.050000" in loss["text"]


def test_short_money_shortens_the_lease(floor: Floor) -> None:
    """With credit for part of a lease, the lease is as long as the credit lasts, and never overdraws it."""
    buyer = floor.buyer(200_001)  # a minute at the price costs 660 000
    floor.device(floor.person("provider"))
    cluster = floor.cluster(buyer)
    floor.bid(cluster)
    floor.tick(T0)
    lease = floor.one_lease()
    assert lease.ends_at - lease.started_at == later(18.181) - T0
    assert 200_001 - 11 <= lease.hold_micros <= 200_001
    assert floor.available(buyer) >= 0
    floor.prove()


def test_several_awards_share_what_is_left(floor: Floor) -> None:
    """Awards of one cluster share its money equally: the first one's lease leaves the others theirs."""
    provider = floor.person("provider")
    for number in range(3):
        floor.device(provider, name=f"d{number}")
    cluster = floor.cluster(floor.buyer(), budget_micros=600_000)
    floor.bid(cluster, count=3)
    floor.tick(T0)
    found = floor.leases()
    assert len(found) == 3
    assert sum(lease.hold_micros for lease in found) <= 600_000
    assert max(x.hold_micros for x in found) - min(x.hold_micros for x in found) <= 11
    floor.prove()


def test_two_clusters_share_one_wallet(floor: Floor) -> None:
    """Two clusters of one buyer never hold more than the wallet has."""
    provider, buyer = floor.person("provider"), floor.buyer(700_000)
    for number in range(2):
        floor.device(provider, name=f"d{number}")
        floor.bid(floor.cluster(buyer))
    floor.tick(T0)
    assert sum(lease.hold_micros for lease in floor.leases()) <= 700_000
    assert floor.available(buyer) >= 0
    floor.prove()


def test_budget_is_never_exceeded(floor: Floor) -> None:
    """Over many ticks with bids, joins, deaths and settlements, spent + held never exceeds the budget or the credit."""
    chance = random.Random(7)
    provider, buyer = floor.person("provider"), floor.buyer(3_000_000)
    machines = [floor.device(provider, name=f"d{n}", reserve_micros_per_hour=RATE - n) for n in range(3)]
    cluster = floor.cluster(buyer, budget_micros=2_000_000, max_nodes=3)
    for second in range(0, 240, 5):
        now = later(second)
        floor.seen(*machines, at=now)
        with floor.sessions() as session:
            wanted = 3 - len(bids.standing(session, cluster))
        floor.bid(cluster, count=wanted, at=now) if wanted else None
        floor.tick(now)
        for lease in floor.leases(cluster, states=("open",)):
            seconds = list(range(max(0, second - 5), second + 1))
            dead = chance.random() < 0.05
            floor.report(cluster, lease.bid_id, seconds, at=now, probes=[second], alive=not dead)
        floor.step(now)
        floor.settle(now)  # proves budget and holds
    assert floor.leases(states=("settled",))
    with floor.sessions() as session:
        assert leases.committed_micros(session, cluster) <= 2_000_000
    assert floor.available(buyer) >= 1_000_000


def test_one_tick_clears_once(floor: Floor) -> None:
    """Two servers that clear the same tick at the same moment open one set of leases and publish one record."""
    provider = floor.person("provider")
    for number in range(4):
        floor.device(provider, name=f"d{number}")
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster, count=4)
    start, results = threading.Barrier(2), []

    def clear() -> None:
        start.wait()
        results.append(floor.tick(T0))

    threads = [threading.Thread(target=clear) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result is None for result in results) == [False, True]
    assert len(floor.leases()) == 4
    with floor.sessions() as session:
        assert len(session.exec(select(Tick)).all()) == 1
    floor.prove()


def test_crash_in_the_middle_leaves_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that dies after its leases and holds were written leaves no lease, hold or record; the next one works."""
    buyer = floor.buyer()
    floor.device(floor.person("provider"))
    cluster = floor.cluster(buyer)
    (node,) = floor.bid(cluster)

    def die(*args: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_explain", die)
        with pytest.raises(RuntimeError, match="killed"):
            floor.tick(T0)
    assert not floor.leases()
    assert floor.available(buyer) == 100_000_000
    assert floor.node(node).state == "standing"
    assert not floor.events(cluster, "awarded")
    floor.prove()
    assert floor.tick(T0) is not None
    assert len(floor.leases()) == 1


def test_the_published_record_replays(floor: Floor) -> None:
    """What a tick stores is recomputed bit for bit, its seed checked against the chain committed to before."""
    provider = floor.person("provider")
    for reserve in (RATE, RATE // 2):
        floor.device(provider, reserve_micros_per_hour=reserve)
    floor.bid(floor.cluster(floor.buyer()), count=3)
    number = floor.tick(T0)
    assert number is not None
    with floor.sessions() as session:
        tick = session.get(Tick, number)
    assert tick is not None
    assert auction.replay(tick.record) == ()
    assert tick.record["book_hash"] == tick.book_hash
    assert len(tick.record["awards"]) == 2
    tick.record["awards"][0]["price_micros"] += 1
    assert auction.replay(tick.record)


def test_seeds_of_neighbouring_ticks_are_one_chain() -> None:
    """Each tick's seed hashes to the one before, and the first of a chain to its commitment."""
    first = 7 * exchange.CHAIN_LENGTH
    seed, committed, steps = exchange.seed_of(b"secret", first)
    after, same, further = exchange.seed_of(b"secret", first + 1)
    assert (steps, further, same) == (1, 2, committed)
    assert auction.follows(seed, committed)
    assert auction.follows(after, seed)
    assert exchange.seed_of(b"secret", first - 1)[1] != committed


def test_nothing_to_clear(floor: Floor) -> None:
    """Without bids no tick is published."""
    floor.device(floor.person("provider"))
    assert floor.tick(T0) is None


def test_foreign_class_is_not_sold(floor: Floor) -> None:
    """A device of the open tier is not sold to a cluster that buys vetted ones."""
    floor.device(floor.person("provider", vetted=False))
    cluster = floor.cluster(floor.buyer())
    floor.bid(cluster, device_class=CLASS)
    floor.tick(T0)
    assert not floor.leases()


def test_locked_rate(floor: Floor) -> None:
    """A lease's price stays as awarded when its device asks more."""
    device = floor.device(floor.person("provider"))
    cluster = floor.cluster(floor.buyer())
    (node,) = floor.bid(cluster)
    floor.tick(T0)
    with transaction(floor.sessions) as session:
        offers.place(
            session,
            device_id=device.id,
            account_id="",
            reserve_micros_per_hour=99_000_000,
            price_max=10**8,
            at=later(5),
        )
    floor.report(cluster, node, range(31), at=later(30), probes=[0, 30])
    floor.settle(later(30))
    lease = floor.one_lease()
    assert lease.rate_micros_per_hour == RATE
    assert lease.charge_micros == 30_000 * 11


def test_stopping_cluster_buys_nothing(floor: Floor) -> None:
    """A bid of a cluster that does not run yet, or no more, takes no part."""
    floor.device(floor.person("provider"))
    buyer = floor.buyer()
    starting = floor.cluster(buyer, running=False)
    floor.bid(starting)
    floor.tick(T0)
    assert not floor.leases()


def test_withdrawing_races_the_tick(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bid that Ray withdraws while the tick awards it leaves nothing open: no device runs for a node nobody wants."""
    floor.device(floor.person("provider"))
    cluster = floor.cluster(floor.buyer())
    (node,) = floor.bid(cluster)
    head = bearer(floor.program_key(cluster, "head"))
    answers: list[int] = []

    def give_back() -> None:
        path = f"/v1/clusters/{cluster}/nodes/{node}"
        answers.append(floor.client.delete(path, headers=head).status_code)

    thread = threading.Thread(target=give_back)
    clear = exchange.auction.clear

    def slowly(*args: Any, **more: Any) -> Any:
        thread.start()
        thread.join(0.3)  # it waits for the bid, which this tick holds
        return clear(*args, **more)

    monkeypatch.setattr(exchange.auction, "clear", slowly)
    floor.tick(T0)
    thread.join()
    assert answers == [200]
    assert [lease.state for lease in floor.leases()] == ["closed"]
    assert floor.node(node).state == "closed"
    floor.prove()


def test_events_do_not_wait_for_the_tick(floor: Floor) -> None:
    """While a cluster is locked, rows that refer to it can be added: nobody waits in a circle."""
    cluster = floor.cluster(floor.buyer())
    with transaction(floor.sessions) as locking:
        clusters.lock(locking, cluster)
        with transaction(floor.sessions) as other:
            other.connection().exec_driver_sql("SET lock_timeout = '2s'")
            clusters.note(other, cluster, "test", "not blocked", at=T0)
    assert floor.events(cluster, "test") == ["not blocked"]
