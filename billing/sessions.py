"""Sessions, and the rule that one call is one transaction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import CursorResult, text
from sqlmodel import Session

Sessions = Callable[[], Session]
"""Opens a new session; the caller closes it."""


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """Commit at the end, roll back on any error."""
    with sessions() as session, session.begin():
        yield session


def run_sql(session: Session, sql: str, **parameters: object) -> CursorResult[*tuple[Any, ...]]:
    r"""Run SQL within the session's transaction, after what the session has still to write.

    ``:name`` is a parameter; a colon before a letter that is none is written ``\:``.
    """
    session.flush()
    return session.connection().execute(text(sql), parameters)
