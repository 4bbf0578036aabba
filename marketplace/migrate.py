"""Bring a database to the newest schema, or back."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

_LOCK = 0x5350415244  # two servers that start at once migrate one after the other


def config() -> Config:
    """Return Alembic's configuration; it needs no file."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return found


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Migrate up to a revision. Migrating twice, or from two servers at once, is harmless."""
    _run(engine, lambda alembic: command.upgrade(alembic, revision))


def downgrade(engine: Engine, revision: str) -> None:
    """Migrate down to a revision; ``base`` removes everything."""
    _run(engine, lambda alembic: command.downgrade(alembic, revision))


def check(engine: Engine) -> None:
    """Raise when the tables in code and the migrations differ."""
    _run(engine, command.check)


def _run(engine: Engine, step: Callable[[Config], None]) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        alembic = config()
        alembic.attributes["connection"] = connection
        step(alembic)
