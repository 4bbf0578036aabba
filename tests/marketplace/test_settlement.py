"""From what the warden saw to money: only what was verified is paid, every micro-dollar is accounted for, once."""

import random
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlmodel import select

from billing import earnings
from billing.money import charge_micros, earning_micros
from billing.settled import SettledLease
from marketplace import bids, leases, readings, settlement
from marketplace.database import transaction
from marketplace.leases import Lease
from tests.marketplace.conftest import RATE, T0, Floor, Person, bearer, later, ms

HELD = 660_000  # a minute at the rate, fee included


@pytest.fixture
def provider(floor: Floor) -> Person:
    return floor.person("provider")


@pytest.fixture
def buyer(floor: Floor) -> Person:
    return floor.buyer()


@pytest.fixture
def node(floor: Floor, provider: Person, buyer: Person) -> tuple[str, str]:
    """A cluster and its one node, leased at T0 for a minute."""
    floor.device(provider)
    cluster = floor.cluster(buyer)
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    return cluster, node_id


def test_only_verified_time_is_paid(floor: Floor, node: tuple[str, str], provider: Person, buyer: Person) -> None:
    """From the first passed check to the last: charged by the money rule, earned, the fee taken, the rest back."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(3, 63), at=later(62), probes=[5, 15, 25, 35, 45, 50])
    floor.step(later(60))
    floor.settle(later(62))
    lease = floor.one_lease()
    assert (lease.state, lease.verified_ms) == ("settled", 45_000)
    assert lease.charge_micros == charge_micros(RATE, 45_000, 1000) == 495_000
    assert lease.earning_micros == earning_micros(RATE, 45_000) == 450_000
    assert floor.balance(f"provider:{provider.id}:pending") == 450_000
    assert floor.balance("platform:fee") == 45_000
    assert floor.available(buyer) == 100_000_000 - 495_000
    assert floor.balance(f"hold:{lease.id}") == 0
    with floor.sessions() as session:
        windows = settlement.windows_of(session, lease.id)
        record = session.get_one(SettledLease, lease.id)
    assert windows[0].start_ms == ms(T0)
    assert windows[-1].end_ms == ms(later(60))
    assert all(a.end_ms == b.start_ms for a, b in pairwise(windows))
    assert sum(settlement.unpaid_by_reason(windows).values()) == 15_000
    assert (record.verified_ms, record.charge_micros, record.fee_micros) == (45_000, 495_000, 45_000)
    assert "joining" in record.unpaid_reason


def test_what_nobody_saw_is_not_paid(floor: Floor, node: tuple[str, str], buyer: Person) -> None:
    """A node that never joined, whatever its device claims, costs nothing: the whole hold goes back."""
    lease = floor.one_lease()
    with transaction(floor.sessions) as session:
        leases.heard(session, lease.device_id, lease.id, phase="running", claimed_ms=60_000, detail="", at=later(60))
    floor.step(later(60), heard_since=T0)
    floor.settle(later(60))
    assert floor.one_lease().state == "closed"  # the warden may still report
    floor.settle(later(91))
    lease = floor.one_lease()
    assert (lease.state, lease.claimed_ms, lease.charge_micros) == ("settled", 60_000, 0)
    assert floor.available(buyer) == 100_000_000


def test_failed_check_is_not_paid(floor: Floor, node: tuple[str, str]) -> None:
    """Time beside a failed check is not paid, and the reason says so."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 63), at=later(62), probes=[0, 10, 20, 40, 50, 61])
    floor.report(cluster, node_id, [], at=later(62), probes=[30], outcome="failed")
    floor.step(later(60))
    floor.settle(later(62))
    lease = floor.one_lease()
    assert (lease.state, lease.verified_ms) == ("settled", 40_000)
    with floor.sessions() as session:
        failed = [w for w in settlement.windows_of(session, lease.id) if w.verdict == "failed"]
    assert sum(w.end_ms - w.start_ms for w in failed) == 20_000
    assert "check failed at +30.0 s" in failed[0].reason


def test_repeats_change_nothing(floor: Floor, node: tuple[str, str], buyer: Person) -> None:
    """A report that comes again, also at its own door, and settling again, change neither usage nor money."""
    cluster, node_id = node
    report = floor.report(cluster, node_id, range(0, 31), at=later(30), probes=range(0, 31, 5))
    floor.settle(later(30))
    first = floor.one_lease()
    assert first.charge_micros == 330_000
    warden = bearer(floor.program_key(cluster, "warden"))
    for _ in range(2):
        assert floor.client.post("/v1/warden/readings", json=report.model_dump(), headers=warden).is_success
        floor.settle(later(30))
    again = floor.one_lease()
    assert again.model_dump(exclude={"judged_at"}) == first.model_dump(exclude={"judged_at"})
    assert floor.available(buyer) == 100_000_000 - HELD


def test_an_old_report_ends_nothing(floor: Floor, node: tuple[str, str]) -> None:
    """A late or repeated report from before the node joined neither ends its lease nor makes it look idle."""
    cluster, node_id = node
    floor.report(cluster, node_id, [1, 2], at=later(2), alive=False, busy=False)
    floor.report(cluster, node_id, range(3, 21), at=later(20))
    floor.report(cluster, node_id, [1, 2], at=later(21), alive=False, busy=False)
    floor.report(cluster, node_id, [3, 4], at=later(21), busy=False)
    lease = floor.one_lease()
    assert (lease.state, lease.joined_at, lease.last_alive_at) == ("open", later(3), later(20))
    assert lease.last_busy_at == later(20)


def test_death_ends_the_lease_there(floor: Floor, node: tuple[str, str], buyer: Person) -> None:
    """A node that dies ends its lease at the first reading that missed it; what was verified before is still paid."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 31), at=later(30), probes=range(0, 31, 5))
    floor.report(cluster, node_id, [31, 32, 33], at=later(33), alive=False)
    lease = floor.one_lease()
    assert (lease.state, lease.ends_at, lease.close_reason) == ("closed", later(31), "the node died: Ray lost it")
    assert floor.node(node_id).state == "closed"
    floor.settle(later(33))
    lease = floor.one_lease()
    assert (lease.state, lease.verified_ms) == ("settled", 30_000)
    assert floor.available(buyer) == 100_000_000 - 330_000


def test_a_flicker_within_a_report_is_no_death(floor: Floor, node: tuple[str, str]) -> None:
    """A node that was missed once and is alive again in the same report keeps its lease; the missed time is unpaid."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 20), at=later(19), probes=[0, 10])
    entries = [{"node_id": node_id, "at_ms": ms(later(s)), "alive": s != 20, "busy": True} for s in range(20, 41)]
    probes = [{"node_id": node_id, "at_ms": ms(later(s)), "outcome": "passed"} for s in (19, 25, 40)]
    with transaction(floor.sessions) as session:
        report = {"cluster_id": cluster, "readings": entries, "probes": probes}
        readings.store(session, readings.Report.model_validate(report), at=later(40))
    floor.settle(later(40))
    lease = floor.one_lease()
    assert lease.state == "open"
    assert 0 < lease.verified_ms < 40_000


def test_foreign_nodes_and_wrong_clocks(floor: Floor, node: tuple[str, str]) -> None:
    """A warden reports its own cluster's nodes alone, and nothing from the future."""
    cluster, node_id = node
    other = floor.cluster(floor.buyer())
    floor.report(other, node_id, range(1, 10), at=later(10), probes=[1, 9])
    with floor.sessions() as session:
        assert not session.exec(select(readings.ReadingRow)).all()
    assert floor.one_lease().joined_at is None
    with pytest.raises(readings.InvalidInput, match="clock"):
        floor.report(cluster, node_id, [100], at=later(10))


def test_many_settlements_equal_one(floor: Floor, provider: Person, buyer: Person) -> None:
    """Settling after every few seconds charges to the micro-dollar what settling once at the end does."""
    for number in range(2):
        floor.device(provider, name=f"d{number}", score_millis=777, reserve_micros_per_hour=33_333_333)
    cluster = floor.cluster(buyer)
    often, once = floor.bid(cluster, count=2)
    floor.tick(T0)
    by_node = {lease.bid_id: lease for lease in floor.leases()}
    for second in range(0, 62, 3):
        for node_id in (often, once):
            floor.report(cluster, node_id, range(second, second + 4), at=later(second), probes=[second])
        with transaction(floor.sessions) as session:
            settlement.settle(session, by_node[often].id, floor.context.settings, at=later(min(second, 59)))
        floor.prove()
    floor.step(later(60), heard_since=T0)
    floor.settle(later(64))
    first, second_ = floor.leases()
    assert first.state == second_.state == "settled"
    assert first.verified_ms == second_.verified_ms == 60_000
    assert first.charge_micros == second_.charge_micros == charge_micros(first.rate_micros_per_hour, 60_000, 1000)
    assert floor.balance(f"provider:{provider.id}:pending") == 2 * earning_micros(first.rate_micros_per_hour, 60_000)


def test_settled_once(floor: Floor, node: tuple[str, str]) -> None:
    """A settled lease stays as it is, whatever is reported afterwards."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 20), at=later(20), probes=[0, 10])
    floor.step(later(60), heard_since=T0)
    floor.settle(later(100))
    before = floor.one_lease()
    assert before.state == "settled"
    floor.report(cluster, node_id, range(20, 62), at=later(101), probes=range(10, 61, 5))
    with transaction(floor.sessions) as session:
        assert settlement.settle(session, before.id, floor.context.settings, at=later(102))
    assert floor.one_lease().model_dump() == before.model_dump()
    floor.prove()


def test_earnings_mature(floor: Floor, node: tuple[str, str], provider: Person) -> None:
    """Earnings become payable once, when the verification hold after settlement has passed, not before."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(0, 63), at=later(62), probes=range(0, 62, 5))
    floor.step(later(60))
    floor.settle(later(62))

    def mature(seconds: float) -> int:
        with transaction(floor.sessions) as session:
            return settlement.mature(session, floor.context.settings, at=later(seconds))

    assert floor.one_lease().earning_micros == 600_000
    assert mature(62 + 3599) == 0
    assert mature(62 + 3600) == 1
    assert mature(62 + 9999) == 0
    with floor.sessions() as session:
        found = earnings.balances(session, provider.id)
    assert (found.pending_micros, found.payable_micros) == (0, 600_000)
    shown = floor.client.get("/v1/earnings", headers=provider.headers("provider")).json()
    assert (shown["pending_micros"], shown["payable_micros"]) == (0, 600_000)
    floor.prove()


def test_free_lease(floor: Floor, provider: Person, buyer: Person) -> None:
    """A device that asks nothing and has no rival bids costs nothing, and its lease still settles."""
    floor.device(provider, reserve_micros_per_hour=0)
    cluster = floor.cluster(buyer)
    (node_id,) = floor.bid(cluster)
    floor.tick(T0)
    floor.report(cluster, node_id, range(0, 63), at=later(62), probes=range(0, 62, 5))
    floor.step(later(60))
    floor.settle(later(62))
    lease = floor.one_lease()
    assert (lease.state, lease.verified_ms, lease.charge_micros, lease.hold_micros) == ("settled", 60_000, 0, 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_money_is_conserved(floor: Floor, seed: int) -> None:
    """Over leases of random prices, speeds, readings, checks and deaths: charges + what went back = all holds,
    earnings + fees = charges, nobody is charged beyond a hold, and the trial balance is zero after every step."""
    chance = random.Random(seed)
    providers = [floor.person("provider") for _ in range(2)]
    buyers = [floor.buyer(chance.randrange(500_000, 5_000_000)) for _ in range(2)]
    credit = {person.id: floor.available(person) for person in buyers}
    machines = [
        floor.device(
            providers[number % 2],
            name=f"d{number}",
            score_millis=chance.randrange(300, 3000),
            reserve_micros_per_hour=chance.randrange(1, RATE),
        )
        for number in range(4)
    ]
    clusters = [floor.cluster(person, budget_micros=chance.randrange(400_000, 3_000_000)) for person in buyers]
    for second in range(0, 121, 15):
        floor.seen(*(m for m in machines if chance.random() < 0.95), at=later(second))
        for cluster in clusters:
            with floor.sessions() as session:
                standing = len(bids.standing(session, cluster))
            if standing < 3:
                floor.bid(cluster, count=3 - standing, at=later(second))
        floor.tick(later(second))
        for lease in floor.leases(states=("open",)):
            kept = [s for s in range(max(0, second - 15), second + 1) if chance.random() < 0.97]
            checks = [s for s in kept if chance.random() < 0.4]
            outcome = "passed" if chance.random() < 0.85 else "failed"
            dead = chance.random() < 0.1
            floor.report(lease.cluster_id, lease.bid_id, kept, at=later(second), probes=checks, outcome=outcome)
            if dead:
                floor.report(lease.cluster_id, lease.bid_id, [second + 0.5], at=later(second), alive=False)
        floor.step(later(second), heard_since=later(second - 40))
        floor.settle(later(second))
    floor.step(later(1000))
    floor.settle(later(1100))
    found = floor.leases()
    assert len(found) >= 4
    assert {lease.state for lease in found} == {"settled"}
    charges = sum(lease.charge_micros for lease in found)
    returned = sum(floor.available(person) for person in buyers) - sum(credit.values())
    assert charges == -returned > 0
    pending = sum(floor.balance(f"provider:{person.id}:pending") for person in providers)
    assert pending == sum(lease.earning_micros for lease in found)
    assert pending + floor.balance("platform:fee") == charges
    for lease in found:
        assert lease.charge_micros == charge_micros(lease.rate_micros_per_hour, lease.verified_ms, 1000)
        assert lease.charge_micros <= lease.hold_micros
        assert lease.verified_ms <= (lease.ends_at - lease.started_at) / timedelta(milliseconds=1)
    floor.prove()


def test_receipt_equals_the_ledger(floor: Floor, node: tuple[str, str], buyer: Person) -> None:
    """A receipt's lines and totals are the ledger's, every leased millisecond is verified or has a reason."""
    cluster, node_id = node
    floor.report(cluster, node_id, range(2, 40), at=later(40), probes=[4, 14, 24, 34, 39])
    floor.report(cluster, node_id, [41], at=later(43), alive=False)
    floor.settle(later(75))
    found = floor.client.get(f"/v1/clusters/{cluster}/receipt", headers=buyer.headers("buyer")).json()
    (line,) = found["leases"]
    assert line["state"] == "settled"
    assert line["leased_ms"] == line["verified_ms"] + line["unpaid_ms"] == 41_000
    assert line["charge_micros"] == charge_micros(line["rate_micros_per_hour"], line["verified_ms"], line["fee_bps"])
    assert line["charge_micros"] == line["earning_micros"] + line["fee_micros"] > 0
    totals = found["totals"]
    assert totals["charge_micros"] == 100_000_000 - floor.available(buyer)
    assert totals["fee_micros"] == floor.balance("platform:fee")
    assert found["final"] is False  # the cluster still runs


def test_one_open_lease_a_device(floor: Floor, node: tuple[str, str]) -> None:
    """The database itself refuses a second open lease of one device and node."""
    lease = floor.one_lease()
    with pytest.raises(Exception, match="lease_one_open_a_"), transaction(floor.sessions) as session:
        session.add(Lease(**{**lease.model_dump(), "id": "ls_2"}))
