"""The ledger: accounts and transfers, immutable and double-entry; every row of money the market ever moved.

A journal is a set of transfers under one key of our own; each transfer debits one account and credits another, so
every journal sums to zero by construction. What must never be (an overdraft, a change of what was posted) is
refused by PostgreSQL itself: see ``ledger.sql``.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, Session, SQLModel, col, select

from billing.errors import Breach, Conflict, InsufficientCredit, InvalidInput
from billing.sessions import run_sql

CHART = (
    r"^(stripe:(pending|available)|platform:fee|buyer:[^:]+:available|hold:[^:]+"
    r"|provider:[^:]+:(pending|payable)|payout:[^:]+:in_flight)$"
)
"""Every account name the ledger knows. ``stripe:…`` are assets; all others are what we owe, or our income."""


class LedgerAccount(SQLModel, table=True):
    """One account and, unless it is one that every posting touches, its sums of debits and credits in micro-dollars."""

    __tablename__ = "ledger_account"
    __table_args__ = (
        CheckConstraint("name ~ '{}'".format(CHART.replace(":", r"\:")), name="ledger_account_in_chart"),
        CheckConstraint("debits_micros >= 0 AND credits_micros >= debits_micros", name="ledger_account_no_overdraft"),
    )

    name: str = Field(primary_key=True)
    debits_micros: int = Field(default=0, sa_type=BigInteger)
    credits_micros: int = Field(default=0, sa_type=BigInteger)


class Journal(SQLModel, table=True):
    """A set of transfers that were posted together, once, under ``key``."""

    __tablename__ = "ledger_journal"

    id: int = Field(default=None, primary_key=True, sa_type=BigInteger)
    key: str = Field(unique=True)
    kind: str
    reference: str = Field(index=True)
    transfer_count: int
    posted_at: datetime = Field(index=True)


class Transfer(SQLModel, table=True):
    """An immutable movement of ``amount_micros`` from one account to another."""

    __tablename__ = "ledger_transfer"
    __table_args__ = (
        CheckConstraint("amount_micros > 0", name="ledger_transfer_positive"),
        CheckConstraint("debit_account <> credit_account", name="ledger_transfer_between_two"),
    )

    id: int = Field(default=None, primary_key=True, sa_type=BigInteger)
    journal_id: int = Field(foreign_key="ledger_journal.id", index=True, sa_type=BigInteger)
    debit_account: str = Field(foreign_key="ledger_account.name", index=True)
    credit_account: str = Field(foreign_key="ledger_account.name", index=True)
    amount_micros: int = Field(sa_type=BigInteger)


@dataclass(frozen=True)
class Movement:
    """What to post: ``amount_micros`` from the account ``debit`` to the account ``credit``."""

    debit: str
    credit: str
    amount_micros: int


@dataclass(frozen=True)
class AccountRow:
    """One line of the trial balance, in micro-dollars, summed from the transfers."""

    name: str
    debits_micros: int
    credits_micros: int
    balance_micros: int


@dataclass(frozen=True)
class LedgerCheck:
    """The trial balance and whatever is wrong with it."""

    rows: tuple[AccountRow, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def post(
    session: Session, *, key: str, kind: str, reference: str, movements: Sequence[Movement], at: datetime
) -> Journal:
    """Post a journal once: a second call with the same key and payload returns the first one's journal.

    Raises InvalidInput for an amount that is not positive or a movement within one account, Conflict when the key was
    used for another payload, InsufficientCredit when a buyer's account would be overdrawn, Breach when any other would.
    """
    wanted = tuple(movements)
    if not wanted or any(move.amount_micros <= 0 or move.debit == move.credit for move in wanted):
        raise InvalidInput(f"journal {key}: every movement needs a positive amount and two accounts")
    # Accounts first, then the key: whoever posts takes its locks in this order, so nobody waits in a circle.
    balances = lock(session, {name for move in wanted for name in (move.debit, move.credit)})
    statement = (
        insert(Journal)
        .values(key=key, kind=kind, reference=reference, transfer_count=len(wanted), posted_at=at)
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(col(Journal.id))
    )
    journal_id = session.exec(statement).scalar_one_or_none()
    if journal_id is None:
        return _posted_before(session, key, kind, reference, wanted)
    _refuse_overdraft(balances, wanted, key)
    rows = [
        {
            "journal_id": journal_id,
            "debit_account": m.debit,
            "credit_account": m.credit,
            "amount_micros": m.amount_micros,
        }
        for m in wanted
    ]
    session.exec(insert(Transfer).values(rows))
    return session.exec(select(Journal).where(Journal.id == journal_id)).one()


def lock(session: Session, names: Iterable[str]) -> dict[str, int]:
    """Open the accounts that do not exist, lock the tracked ones in name order, and return their balances in micros."""
    wanted = list(names)
    run_sql(
        session,
        "INSERT INTO ledger_account (name, debits_micros, credits_micros)"
        " SELECT name, 0, 0 FROM unnest(CAST(:names AS text[])) AS name"
        " WHERE name NOT IN (SELECT name FROM ledger_account WHERE name = ANY(CAST(:names AS text[])))"
        " ORDER BY name ON CONFLICT DO NOTHING",
        names=wanted,
    )
    rows = run_sql(
        session,
        "SELECT name, credits_micros - debits_micros FROM ledger_account"
        " WHERE name = ANY(:names) AND ledger_is_tracked(name) ORDER BY name FOR UPDATE",
        names=wanted,
    )
    return {name: balance for name, balance in rows}


def balance_micros(session: Session, account: str) -> int:
    """Return the balance of an account in micros, in its normal sense; 0 if it does not exist."""
    sql = "SELECT credits_micros - debits_micros FROM ledger_account WHERE name = :name"
    if account.startswith(("platform:", "stripe:")):
        sql = (
            "SELECT coalesce((SELECT sum(amount_micros) FROM ledger_transfer WHERE credit_account = :name), 0)"
            " - coalesce((SELECT sum(amount_micros) FROM ledger_transfer WHERE debit_account = :name), 0)"
        )
    credit_balance = int(run_sql(session, sql, name=account).scalar() or 0)
    return -credit_balance if account.startswith("stripe:") else credit_balance


def check(session: Session) -> LedgerCheck:
    """Return the trial balance: debits equal credits, kept balances equal sums, and no tracked account is overdrawn."""
    # One statement, so that it sees one moment while others go on posting.
    found = run_sql(
        session,
        "WITH sides AS ("
        " SELECT debit_account AS name, amount_micros AS debit, 0 AS credit FROM ledger_transfer"
        " UNION ALL SELECT credit_account, 0, amount_micros FROM ledger_transfer),"
        " sums AS (SELECT name, sum(debit)::bigint AS debits, sum(credit)::bigint AS credits FROM sides GROUP BY name)"
        " SELECT name, coalesce(debits, 0), coalesce(credits, 0), coalesce(debits_micros, 0),"
        " coalesce(credits_micros, 0), ledger_is_tracked(name)"
        " FROM ledger_account FULL JOIN sums USING (name) ORDER BY name",
    ).all()
    rows, problems = [], []
    for name, debits, credits, kept_debits, kept_credits, tracked in found:
        balance = debits - credits if name.startswith("stripe:") else credits - debits
        rows.append(AccountRow(name, debits, credits, balance))
        if tracked and balance < 0:
            problems.append(f"{name} is overdrawn by {-balance} micros")
        if tracked and (kept_debits, kept_credits) != (debits, credits):
            problems.append(f"{name} keeps {kept_credits - kept_debits} micros but its transfers sum to {balance}")
    off = sum(row.debits_micros for row in rows) - sum(row.credits_micros for row in rows)
    if off:
        problems.append(f"debits and credits differ by {off} micros")
    return LedgerCheck(tuple(rows), tuple(problems))


def _posted_before(session: Session, key: str, kind: str, reference: str, wanted: tuple[Movement, ...]) -> Journal:
    journal = session.exec(select(Journal).where(Journal.key == key)).one()
    transfers = session.exec(select(Transfer).where(Transfer.journal_id == journal.id).order_by(col(Transfer.id))).all()
    posted = tuple(Movement(t.debit_account, t.credit_account, t.amount_micros) for t in transfers)
    if (journal.kind, journal.reference, posted) != (kind, reference, wanted):
        raise Conflict(f"journal {key} was posted before with another payload", hint="use a new key")
    return journal


def _refuse_overdraft(balances: dict[str, int], wanted: tuple[Movement, ...], key: str) -> None:
    # The database would refuse it too, but only by breaking off the caller's whole transaction.
    after = defaultdict(int, balances)
    for move in wanted:
        after[move.debit] -= move.amount_micros
        after[move.credit] += move.amount_micros
    for name in sorted(balances):
        if after[name] >= 0:
            continue
        message = f"{name} has {balances[name]} micros, {-after[name]} too few for {key}"
        if name.startswith("buyer:"):
            raise InsufficientCredit(message, hint="top up your credit, then try again")
        raise Breach(message)
