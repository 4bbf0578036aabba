"""A buyer's credit: holds, captures and releases, also when many act at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import Session

from billing.earnings import LeaseEarning, balances, verify_lease
from billing.errors import Breach, Conflict, InsufficientCredit, InvalidInput, NotFound
from billing.ids import new_id
from billing.ledger import Movement, balance_micros, check, post
from billing.money import charge_micros, earning_micros, hold_micros
from billing.sessions import Sessions, transaction
from billing.wallets import available_micros, capture, held_micros, hold, release

AT = datetime(2026, 1, 1, tzinfo=UTC)


def credit(session: Session, buyer_id: str, amount_micros: int) -> None:
    """Give a buyer credit."""
    movements = [Movement("stripe:pending", f"buyer:{buyer_id}:available", amount_micros)]
    post(session, key=new_id("k"), kind="topup", reference="r", movements=movements, at=AT)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.integers(1, 10**8),
    fee=st.integers(0, 3000),
    lease_ms=st.integers(1, 600_000),
    spans=st.lists(st.integers(0, 60_000), max_size=8),
)
def test_a_lease_settled_in_any_steps_ends_at_its_exact_totals(
    session: Session, rate: int, fee: int, lease_ms: int, spans: list[int]
) -> None:
    """However often a lease is settled, the buyer pays its total, split exactly, and gets the rest back."""
    lease, buyer, provider = new_id("ls"), new_id("b"), new_id("p")
    held = hold_micros(rate, lease_ms, fee)
    credit(session, buyer, held)
    hold(session, lease_id=lease, buyer_id=buyer, amount_micros=held, at=AT)
    fees_before = balance_micros(session, "platform:fee")
    verified_ms = charged = 0
    for span_ms in spans:
        verified_ms = min(verified_ms + span_ms, lease_ms)
        totals = charge_micros(rate, verified_ms, fee), earning_micros(rate, verified_ms)
        for _ in range(2):
            charged += capture(
                session,
                lease_id=lease,
                provider_id=provider,
                charge_total_micros=totals[0],
                earning_total_micros=totals[1],
                at=AT,
            )
    charge, earning = charge_micros(rate, verified_ms, fee), earning_micros(rate, verified_ms)
    assert charged == charge
    assert held_micros(session, buyer) == held - charge
    assert release(session, lease_id=lease, buyer_id=buyer, at=AT) == held - charge
    assert release(session, lease_id=lease, buyer_id=buyer, at=AT) == 0
    verify_lease(session, lease_id=lease, provider_id=provider, amount_micros=earning, at=AT)
    verify_lease(session, lease_id=lease, provider_id=provider, amount_micros=earning, at=AT)
    assert (available_micros(session, buyer), held_micros(session, buyer)) == (held - charge, 0)
    assert (balances(session, provider).pending_micros, balances(session, provider).payable_micros) == (0, earning)
    assert balance_micros(session, "platform:fee") - fees_before == charge - earning
    assert check(session).ok


def test_racing_holds_never_exceed_the_credit(sessions: Sessions) -> None:
    """Twelve leases race for credit that is enough for five: exactly five get it, the others are refused."""
    with transaction(sessions) as session:
        credit(session, "b", 5_000)

    def one(number: int) -> bool:
        try:
            with transaction(sessions) as session:
                hold(session, lease_id=f"l{number}", buyer_id="b", amount_micros=1_000, at=AT)
        except InsufficientCredit:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(one, range(12))) == 5
    with sessions() as session:
        assert (available_micros(session, "b"), held_micros(session, "b")) == (0, 5_000)
        assert check(session).ok


def test_the_same_step_at_once_counts_once(sessions: Sessions) -> None:
    """Processes that hold, charge, release and verify one lease at the same moment do it once, without deadlock."""
    with transaction(sessions) as session:
        credit(session, "b", 10_000)

    def everything(_: int) -> None:
        facts = {"lease_id": "l", "provider_id": "p", "at": AT}
        with transaction(sessions) as session:
            hold(session, lease_id="l", buyer_id="b", amount_micros=4_000, at=AT)
        with transaction(sessions) as session:
            capture(session, charge_total_micros=1_100, earning_total_micros=1_000, **facts)
        with transaction(sessions) as session:
            capture(session, charge_total_micros=2_200, earning_total_micros=2_000, **facts)
            release(session, lease_id="l", buyer_id="b", at=AT)
            verify_lease(session, amount_micros=2_000, **facts)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(everything, range(16)))
    with sessions() as session:
        assert (available_micros(session, "b"), held_micros(session, "b")) == (7_800, 0)
        assert balances(session, "p").payable_micros == 2_000
        assert balance_micros(session, "platform:fee") == 200
        assert check(session).ok


def test_buyers_settled_by_several_processes_in_any_order(sessions: Sessions) -> None:
    """Leases of common buyers and providers, charged at once: every sum is exact at the end."""
    with transaction(sessions) as session:
        for buyer in range(3):
            credit(session, f"b{buyer}", 100_000)

    def one(number: int) -> None:
        lease, buyer, provider = f"l{number}", f"b{number % 3}", f"p{number % 2}"
        with transaction(sessions) as session:
            hold(session, lease_id=lease, buyer_id=buyer, amount_micros=500, at=AT)
        with transaction(sessions) as session:
            facts = {"lease_id": lease, "provider_id": provider, "at": AT}
            capture(session, charge_total_micros=300, earning_total_micros=270, **facts)
        with transaction(sessions) as session:
            release(session, lease_id=lease, buyer_id=buyer, at=AT)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(60)))
    with sessions() as session:
        assert [available_micros(session, f"b{n}") for n in range(3)] == [100_000 - 20 * 300] * 3
        assert [balances(session, f"p{n}").pending_micros for n in range(2)] == [30 * 270] * 2
        assert check(session).ok


def test_refusals(session: Session) -> None:
    """What cannot be right is refused with the error that says who must act."""
    credit(session, "b", 1_000)
    with pytest.raises(InvalidInput):
        hold(session, lease_id="l", buyer_id="b", amount_micros=0, at=AT)
    with pytest.raises(InsufficientCredit, match=r"\$0.002000 are needed, \$0.001000 are available"):
        hold(session, lease_id="l", buyer_id="b", amount_micros=2_000, at=AT)
    hold(session, lease_id="l", buyer_id="b", amount_micros=600, at=AT)
    with pytest.raises(Conflict):
        hold(session, lease_id="l", buyer_id="b", amount_micros=601, at=AT)
    facts = {"lease_id": "l", "at": AT}
    with pytest.raises(Breach):
        capture(session, provider_id="p", charge_total_micros=601, earning_total_micros=1, **facts)
    with pytest.raises(InvalidInput):
        capture(session, provider_id="p", charge_total_micros=1, earning_total_micros=2, **facts)
    with pytest.raises(NotFound):
        capture(session, lease_id="none", provider_id="p", charge_total_micros=1, earning_total_micros=1, at=AT)
    assert capture(session, provider_id="p", charge_total_micros=100, earning_total_micros=90, **facts) == 100
    assert capture(session, provider_id="p", charge_total_micros=50, earning_total_micros=45, **facts) == 0
    with pytest.raises(Conflict):
        capture(session, provider_id="thief", charge_total_micros=100, earning_total_micros=90, **facts)
    with pytest.raises(NotFound):
        release(session, lease_id="l", buyer_id="thief", at=AT)
    with pytest.raises(Breach):
        verify_lease(session, lease_id="l", provider_id="p", amount_micros=91, at=AT)
    session.rollback()
    assert session.get(LeaseEarning, "l") is None


def test_verifying_nothing_or_something_else(session: Session) -> None:
    """A lease that earned nothing needs no journal; one made payable cannot be made payable differently."""
    verify_lease(session, lease_id="none", provider_id="p", amount_micros=0, at=AT)
    with pytest.raises(InvalidInput):
        verify_lease(session, lease_id="none", provider_id="p", amount_micros=-1, at=AT)
    movements = [Movement("stripe:pending", "provider:p:pending", 100)]
    post(session, key="k", kind="usage", reference="l", movements=movements, at=AT)
    verify_lease(session, lease_id="l", provider_id="p", amount_micros=60, at=AT)
    with pytest.raises(Conflict):
        verify_lease(session, lease_id="l", provider_id="p", amount_micros=40, at=AT)
