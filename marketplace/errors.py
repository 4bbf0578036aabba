"""The market's own refusals, on the tree that ``billing.errors`` draws.

Refusal
├── Unauthenticated   401  no key, or one that is not known
├── Forbidden         403  a key that may not do this
├── Gone              410  it was there and is over
└── VersionMismatch   426  another version of Ray or Python is needed; the hint says which
"""

from billing.errors import (
    Breach,
    Conflict,
    InsufficientCredit,
    InvalidInput,
    NotFound,
    Outage,
    Refusal,
    SpareError,
)

__all__ = [
    "Breach",
    "Conflict",
    "Forbidden",
    "Gone",
    "InsufficientCredit",
    "InvalidInput",
    "NotFound",
    "Outage",
    "Refusal",
    "SpareError",
    "Unauthenticated",
    "VersionMismatch",
]


class Unauthenticated(Refusal):
    """No key, or one that is not known."""

    status = 401


class Forbidden(Refusal):
    """A key that may not do this."""

    status = 403


class Gone(Refusal):
    """It was there and is over."""

    status = 410


class VersionMismatch(Refusal):
    """Another version of Ray or Python is needed."""

    status = 426
