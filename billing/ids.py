"""Ids: a short prefix that names the noun, then 80 random bits, sortable by nothing."""

import secrets
from datetime import UTC, datetime


def new_id(prefix: str) -> str:
    """Return a fresh id such as ``ls_4f1c…`` (prefix, underscore, 20 hex digits)."""
    return f"{prefix}_{secrets.token_hex(10)}"


def now_utc() -> datetime:
    """Return the time now, with its zone."""
    return datetime.now(UTC)
