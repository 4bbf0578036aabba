"""Migrations: up, down, up again, and the same as the tables in code."""

from sqlalchemy import Engine, inspect

from marketplace import migrate


def test_up_and_down(engine: Engine) -> None:
    """Every migration can be undone and done again, and leaves nothing behind."""
    migrate.downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    migrate.upgrade(engine)
    migrate.upgrade(engine)
    assert "ledger_transfer" in inspect(engine).get_table_names()


def test_code_and_migrations_agree(engine: Engine) -> None:
    """No table, column or index in code lacks its migration."""
    migrate.check(engine)
