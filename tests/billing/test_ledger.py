"""The ledger against a dictionary, and everything that PostgreSQL must refuse even in raw SQL."""

from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlmodel import Session, SQLModel

from billing.errors import Breach, Conflict, InsufficientCredit, InvalidInput
from billing.ledger import Movement, balance_micros, check, post
from billing.models import constraints_sql

AT = datetime(2026, 1, 1, tzinfo=UTC)
BUYER, HOLD, PENDING = "buyer:b:available", "hold:l", "provider:p:pending"
NAMES = [BUYER, HOLD, PENDING, "provider:p:payable", "payout:o:in_flight", "platform:fee", "stripe:pending"]


def put(session: Session, key: str, *moves: tuple[str, str, int]) -> int:
    """Post a journal of the given movements and return its id."""
    movements = [Movement(*move) for move in moves]
    return post(session, key=key, kind="test", reference=key, movements=movements, at=AT).id


moves = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(-1, 30))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 12), st.lists(moves, min_size=1, max_size=4)), max_size=15))
def test_ledger_is_a_dictionary_that_refuses(
    session: Session, steps: list[tuple[int, list[tuple[str, str, int]]]]
) -> None:
    """Any sequence of postings, legal or not, repeated or not, leaves exactly the balances that a plain model has."""
    model: defaultdict[str, int] = defaultdict(int)
    posted: dict[str, list[tuple[str, str, int]]] = {}
    for number, wanted in steps:
        key = f"k{number}"
        after = model.copy()
        for debit, credit, amount in wanted:
            after[debit] -= amount
            after[credit] += amount
        legal = all(amount > 0 and debit != credit for debit, credit, amount in wanted)
        touched = {name for debit, credit, _ in wanted for name in (debit, credit)}
        overdrawn = any(after[n] < 0 for n in touched if not n.startswith(("stripe:", "platform:")))
        try:
            put(session, key, *wanted)
        except InvalidInput:
            assert not legal
        except Conflict:
            assert key in posted
            assert posted[key] != wanted
        except (InsufficientCredit, Breach):
            assert overdrawn
            # The refused journal's key was inserted: a caller rolls back, and so do we.
            session.rollback()
            model, posted = defaultdict(int), {}
        else:
            assert legal
            if key in posted:
                assert posted[key] == wanted
            else:
                assert not overdrawn
                model, posted[key] = after, wanted
    for name in NAMES:
        sign = -1 if name.startswith("stripe:") else 1
        assert balance_micros(session, name) == sign * model[name]
    checked = check(session)
    assert checked.ok, checked.problems
    session.rollback()


def test_a_key_posts_once(session: Session) -> None:
    """The same key and payload is one journal, at whatever time it comes again; another payload is refused."""
    first = put(session, "k", ("stripe:pending", BUYER, 5))
    assert put(session, "k", ("stripe:pending", BUYER, 5)) == first
    assert balance_micros(session, BUYER) == 5
    with pytest.raises(Conflict):
        put(session, "k", ("stripe:pending", BUYER, 6))
    with pytest.raises(InvalidInput):
        put(session, "empty")


@pytest.fixture
def posted(session: Session) -> Session:
    """A ledger with one committed journal of 100 micros for the buyer and 40 of them held."""
    put(session, "topup", ("stripe:pending", BUYER, 100))
    put(session, "hold", (BUYER, HOLD, 40))
    session.commit()
    return session


JOURNAL = (
    "INSERT INTO ledger_journal (key, kind, reference, transfer_count, posted_at) VALUES ('x', 'x', 'x', 1, now()) "
)
TRANSFER = (
    "WITH journal AS (" + JOURNAL + "RETURNING id) INSERT INTO ledger_transfer"
    " (journal_id, debit_account, credit_account, amount_micros) SELECT id, {} FROM journal"
)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger_transfer SET amount_micros = 1",
        "DELETE FROM ledger_transfer",
        "TRUNCATE ledger_transfer",
        "UPDATE ledger_journal SET kind = 'other'",
        "DELETE FROM ledger_journal",
        "TRUNCATE ledger_journal CASCADE",
        "UPDATE ledger_account SET credits_micros = credits_micros + 1",
        "DELETE FROM ledger_account",
        "TRUNCATE ledger_account CASCADE",
        "INSERT INTO ledger_account VALUES ('buyer:rich:available', 0, 1000000)",
        "INSERT INTO ledger_account VALUES ('escrow:x', 0, 0)",
        JOURNAL.replace("'x', 'x'", "'topup', 'x'", 1),
        JOURNAL,
        TRANSFER.format("'buyer:b:available', 'hold:l', 61"),
        TRANSFER.format("'hold:l', 'buyer:b:available', 41"),
        TRANSFER.format("'hold:l', 'buyer:b:available', 0"),
        TRANSFER.format("'hold:l', 'buyer:b:available', -1"),
        TRANSFER.format("'hold:l', 'hold:l', 1"),
        TRANSFER.format("'hold:l', 'hold:unknown', 1"),
        "INSERT INTO ledger_transfer (journal_id, debit_account, credit_account, amount_micros)"
        " SELECT id, 'hold:l', 'buyer:b:available', 1 FROM ledger_journal WHERE key = 'hold'",
    ],
)
def test_postgresql_refuses(posted: Session, sql: str) -> None:
    """No client, however it writes, can overdraw, alter, remove, forge or leave incomplete what the ledger says."""
    with pytest.raises(DBAPIError) as refused:  # noqa: PT012 - some are refused only at the commit
        posted.connection().execute(text(sql))
        posted.commit()
    assert not isinstance(refused.value, ProgrammingError), "the SQL itself must be right"
    posted.rollback()
    assert check(posted).ok
    assert (balance_micros(posted, BUYER), balance_micros(posted, HOLD)) == (60, 40)


def test_raw_sql_that_is_legal_keeps_the_balances(posted: Session) -> None:
    """The balances follow every posted transfer, even one that did not come through ``post``."""
    posted.connection().execute(text(TRANSFER.format("'hold:l', 'buyer:b:available', 40")))
    posted.commit()
    assert (balance_micros(posted, BUYER), balance_micros(posted, HOLD)) == (100, 0)
    assert check(posted).ok


def test_overdraft_names_who_must_act(posted: Session) -> None:
    """A buyer without credit is told to top up; any other overdraft is our own broken invariant."""
    with pytest.raises(InsufficientCredit, match="1 too few"):
        put(posted, "a", (BUYER, HOLD, 61))
    posted.rollback()
    with pytest.raises(Breach):
        put(posted, "b", (HOLD, PENDING, 41))


def test_check_finds_a_forged_balance(posted: Session) -> None:
    """If somebody switches the triggers off and changes a balance, the check says where."""
    posted.connection().execute(text("ALTER TABLE ledger_account DISABLE TRIGGER USER"))
    posted.connection().execute(text("UPDATE ledger_account SET credits_micros = 999 WHERE name = 'hold:l'"))
    found = check(posted)
    assert not found.ok
    assert "hold:l keeps 999" in found.problems[0]


def test_constraints_can_be_applied_again(engine: Engine) -> None:
    """Applying the constraints to a database that has them changes nothing."""
    SQLModel.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(constraints_sql())
