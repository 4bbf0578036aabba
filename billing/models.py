"""Every table of billing in one import, for migrations, and the constraints that SQLModel cannot say."""

from pathlib import Path


def constraints_sql() -> str:
    """Return the triggers and constraints of the ledger as SQL."""
    return (Path(__file__).parent / "ledger.sql").read_text()
