"""Payouts: never twice, never lost, over every pair of faults and a crash at every commit."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from billing.connect import PayoutAccount, apply_account, start_onboarding
from billing.earnings import Earnings, LeaseEarning, balances, verify_lease
from billing.errors import Breach, InvalidInput
from billing.gateway import ConnectedAccount, GatewayOutage
from billing.ledger import Movement, balance_micros, check, post
from billing.payouts import Payout, PayoutOperation, estimate, payout, reconcile_ambiguous, reserve_due, send_due
from billing.sessions import Sessions, transaction

AT = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = ["ok", "lost_before", "lost_after", "failed_before", "failed_after", "slow_down", "refused"]
STEPS_MINUTES = [0, 1, 20, 90, 200, 300, 1500, 1600]


def earn(session: Session, provider_id: str, amount_micros: int, lease_id: str = "") -> None:
    """Give a provider a verified earning, and an account that can be paid."""
    lease_id = lease_id or f"ls_{provider_id}"
    movements = [Movement("stripe:pending", f"provider:{provider_id}:pending", amount_micros)]
    post(session, key=f"usage:{lease_id}", kind="usage", reference=lease_id, movements=movements, at=AT)
    verify_lease(session, lease_id=lease_id, provider_id=provider_id, amount_micros=amount_micros, at=AT)
    if session.get(PayoutAccount, provider_id) is None:
        account = f"acct_{provider_id}"
        session.add(
            PayoutAccount(
                provider_id=provider_id, stripe_account_id=account, country="DE", not_payable="", created_at=AT
            )
        )


class Crash(Exception):
    """The process is gone."""


@contextmanager
def crashing(sessions: Sessions, commit: int, when: str) -> Iterator[Sessions]:
    """Sessions whose ``commit``-th commit (from 0) kills the process, before or after the database has it."""
    count = itertools.count()

    def hook(session: Session) -> None:
        if next(count) == commit:
            raise Crash

    def opened() -> Session:
        session = sessions()
        event.listen(session, f"{when}_commit", hook)
        return session

    yield opened


def run(sessions: Sessions, gateway: Any, at: datetime) -> None:
    """One turn of the background: reserve, send, reconcile."""
    gateway.at = at
    with transaction(sessions) as session:
        reserve_due(session, minimum_cents=500, at=at)
    send_due(sessions, gateway, at=at)
    reconcile_ambiguous(sessions, gateway, at=at)


CRASHES = [(99, "before"), *itertools.product(range(5), ["before", "after"])]


@pytest.mark.parametrize("first", FAULTS)
def test_paid_exactly_once_whatever_happens(engine: Engine, sessions: Sessions, gateway: Any, first: str) -> None:
    """Each fault, then each other, with the process killed at each commit: one transfer, and books that say so."""
    # The machine under PostgreSQL does not crash here, so a commit need not wait for the disk.
    event.listen(engine, "connect", lambda raw, _: (raw.execute("SET synchronous_commit TO off"), raw.commit()))
    for number, (second, (commit, when)) in enumerate(itertools.product(FAULTS, CRASHES)):
        provider_id, scenario = f"p{number}", (first, second, commit, when)
        gateway.sent.clear()
        gateway.faults[:] = [first, second]
        gateway.blind = number % 2
        with transaction(sessions) as session:
            earn(session, provider_id, 7_123_456)
        with crashing(sessions, commit, when) as mortal:
            for minutes in STEPS_MINUTES:
                try:
                    run(mortal, gateway, AT + timedelta(days=3 * number, minutes=minutes))
                except Crash:
                    continue
        with sessions() as session:
            assert [sent.amount_cents for sent in gateway.sent] == [712], scenario
            assert balances(session, provider_id) == Earnings(0, 3_456, 0, 7_120_000), scenario
            lease = session.get(LeaseEarning, f"ls_{provider_id}")
            assert lease is not None
            assert lease.payout_id is not None
            assert payout(session, lease.payout_id).transfer_id == gateway.sent[0].id, scenario
        gateway.answers.clear()
    with sessions() as session:
        assert check(session).ok


def test_a_service_that_always_fails_never_pays_twice_and_keeps_the_money(sessions: Sessions, gateway: Any) -> None:
    """If every call answers 500 although the first was carried out, the lookup finds it; nothing is sent again."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    gateway.faults[:] = ["failed_after"] * 50
    gateway.blind = 3
    for minutes in range(0, 3000, 15):
        run(sessions, gateway, AT + timedelta(minutes=minutes))
    assert len(gateway.sent) == 1
    with sessions() as session:
        assert balances(session, "p").paid_micros == 5_000_000


def test_a_new_key_only_after_two_absences_an_hour_apart(sessions: Sessions, gateway: Any) -> None:
    """One look that finds nothing is not enough to send again: what was sent may still show up."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    gateway.faults[:] = ["failed_before"]
    for minutes in (0, 30, 59):
        run(sessions, gateway, AT + timedelta(minutes=minutes))
    assert set(gateway.answers) == {next(iter(gateway.answers))}
    run(sessions, gateway, AT + timedelta(minutes=60))
    run(sessions, gateway, AT + timedelta(minutes=60))
    assert len(gateway.answers) == 2
    assert len(gateway.sent) == 1
    with sessions() as session:
        statuses = session.exec(select(PayoutOperation.status).order_by(col(PayoutOperation.key))).all()
    assert list(statuses) == ["replaced", "done"]


def test_a_key_is_never_sent_after_23_hours(sessions: Sessions, gateway: Any) -> None:
    """A key that Stripe may have forgotten is looked up, not sent: an old attempt may have been carried out."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    gateway.faults[:] = ["lost_after"]
    run(sessions, gateway, AT)
    gateway.answers.clear()
    run(sessions, gateway, AT + timedelta(hours=30))
    assert len(gateway.sent) == 1
    with sessions() as session:
        assert balances(session, "p").paid_micros == 5_000_000


def test_a_refusal_gives_the_money_back_with_the_reason(sessions: Sessions, gateway: Any) -> None:
    """A payout that Stripe refuses is void at once, in Stripe's words; the next one an hour later has its leases."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    gateway.faults[:] = ["refused"]
    for minutes in (0, 10, 61):
        run(sessions, gateway, AT + timedelta(minutes=minutes))
    with sessions() as session:
        first, second = session.exec(select(Payout).order_by(col(Payout.created_at))).all()
        assert (first.status, first.failure) == ("void", "Your destination account needs a capability")
        assert (second.status, second.gross_micros, second.carried_in_micros) == ("sent", 5_000_000, 0)


def test_the_rest_below_a_cent_is_carried(sessions: Sessions, gateway: Any) -> None:
    """Two payouts in a row: gross + carried in = amount + carried out, and no micro is lost between them."""
    with transaction(sessions) as session:
        earn(session, "p", 5_001_234, "l1")
    run(sessions, gateway, AT)
    with transaction(sessions) as session:
        earn(session, "p", 5_009_999, "l2")
    run(sessions, gateway, AT + timedelta(days=1))
    with sessions() as session:
        found = session.exec(select(Payout).order_by(col(Payout.created_at))).all()
    lines = [(p.gross_micros, p.carried_in_micros, p.amount_cents, p.carried_out_micros) for p in found]
    assert lines == [(5_001_234, 0, 500, 1_234), (5_009_999, 1_234, 501, 1_233)]


def test_processes_at_once_reserve_and_send_once(sessions: Sessions, gateway: Any) -> None:
    """Any number of processes may run payouts at the same moment."""
    with transaction(sessions) as session:
        for number in range(5):
            earn(session, f"p{number}", 5_000_000)
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(run, sessions, gateway, AT) for _ in range(6)]:
            done.result()
    assert len(gateway.sent) == 5
    with sessions() as session:
        assert check(session).ok
        assert all(balances(session, f"p{number}").paid_micros == 5_000_000 for number in range(5))


def test_somebody_must_look_at_two_transfers_of_one_payout(sessions: Sessions, gateway: Any) -> None:
    """If Stripe ever shows a payout twice, or with another amount, the flow stops instead of guessing."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    gateway.faults[:] = ["failed_after"]
    gateway.blind = 1
    run(sessions, gateway, AT)
    gateway.sent.append(gateway.sent[0])
    with pytest.raises(Breach, match="2 transfers"):
        reconcile_ambiguous(sessions, gateway, at=AT + timedelta(minutes=20))


def test_one_live_operation_a_payout(sessions: Sessions, gateway: Any) -> None:
    """PostgreSQL itself refuses a second operation that could send the same payout."""
    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
        reserve_due(session, minimum_cents=500, at=AT)
    copy = text(
        "INSERT INTO payout_operation (key, payout_id, params, status, attempts, due_at, last_error)"
        " SELECT 'other', payout_id, params, 'queued', 0, due_at, '' FROM payout_operation"
    )
    with sessions() as session, pytest.raises(IntegrityError):
        session.connection().execute(copy)


def test_estimate_says_what_blocks_a_payout(sessions: Sessions, gateway: Any) -> None:
    """A provider sees what it would get, or what is missing: an account, Stripe's approval, or the minimum."""
    with transaction(sessions) as session:
        earn(session, "poor", 1_234_567)
        earn(session, "rich", 9_000_001)
        movements = [Movement("stripe:pending", "provider:new:payable", 9_000_000)]
        post(session, key="k", kind="usage", reference="r", movements=movements, at=AT)
    with sessions() as session:
        assert estimate(session, "rich", minimum_cents=500).amount_cents == 900
        poor = estimate(session, "poor", minimum_cents=500)
        assert (poor.amount_cents, poor.carried_micros, poor.blocked[:9]) == (0, 1_234_567, "$3.765433")
        assert estimate(session, "new", minimum_cents=500).blocked == "set up where you are paid first"
        with pytest.raises(InvalidInput):
            reserve_due(session, minimum_cents=0, at=AT)
        assert balance_micros(session, "provider:poor:payable") == 1_234_567


def test_onboarding_keeps_one_account_and_follows_what_stripe_says(sessions: Sessions, gateway: Any) -> None:
    """A provider has one connected account however often it starts; only Stripe's newest word makes it payable."""
    facts = {"provider_id": "p", "email": "p@example.com", "return_url": "https://a/r", "refresh_url": "https://a/f"}
    with pytest.raises(InvalidInput):
        start_onboarding(sessions, gateway, country="D3", **facts)
    urls = {start_onboarding(sessions, gateway, country="de", **facts) for _ in range(2)}
    assert len(urls) == len(gateway.accounts) == 1
    account_id = next(iter(gateway.accounts))
    with transaction(sessions) as session:
        assert "Stripe still needs" in estimate(session, "p", minimum_cents=1).blocked
        apply_account(session, ConnectedAccount(account_id, "DE", ""), at=AT)
        apply_account(session, ConnectedAccount(account_id, "DE", "older view"), at=AT - timedelta(seconds=1))
    with sessions() as session:
        assert "more are needed" in estimate(session, "p", minimum_cents=1).blocked


def test_an_unreachable_service_changes_nothing(sessions: Sessions) -> None:
    """While Stripe cannot be reached, the money stays reserved and every turn just tries again."""

    class Unreachable:
        def create_transfer(self, params: Any, *, key: str) -> Any:
            raise GatewayOutage("no route", doubt="lost")

        def transfers(self, *, group: str) -> Any:
            raise GatewayOutage("no route", doubt="lost")

    with transaction(sessions) as session:
        earn(session, "p", 5_000_000)
    for hours in range(50):
        run(sessions, Unreachable(), AT + timedelta(hours=hours))
    with sessions() as session:
        assert balances(session, "p") == Earnings(0, 0, 5_000_000, 0)
