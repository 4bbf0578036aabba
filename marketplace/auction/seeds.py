"""The seeds that order ties: a hash chain, committed to before the first tick and revealed one link a tick.

Nobody, the operator included, can choose a seed after seeing the book: each revealed seed hashes to the one revealed
before it (Lamport 1981), and the end of the chain was published first.
"""

import hashlib

CHAIN_LENGTH_MAX = 1_000_000
"""Longer chains take seconds to walk."""


def commitment(secret: bytes, *, length: int) -> bytes:
    """Return what to publish before the first of ``length`` ticks: the secret hashed so many times.

    Raises ValueError for more than ``CHAIN_LENGTH_MAX``.
    """
    return _hashed(secret, length)


def seed_at(secret: bytes, position: int, *, length: int) -> bytes:
    """Return the seed of the tick at ``position`` (1 to ``length``); the last one is the secret itself.

    Raises ValueError for a position outside the chain. Takes about a second for each two million links to the end.
    """
    if not 1 <= position <= length:
        raise ValueError(f"position {position} is outside the chain of {length} seeds")
    return _hashed(secret, length - position)


def next_seed(secret: bytes, revealed: bytes, *, length: int) -> bytes:
    """Return the seed that comes after the last revealed one (or after the commitment).

    Raises ValueError where ``revealed`` is no part of the secret's chain, or its last seed.
    """
    seed = secret
    for _ in range(length):
        hashed = _hashed(seed, 1)
        if hashed == revealed:
            return seed
        seed = hashed
    raise ValueError("that seed is not in this chain, or is its last")


def follows(seed: bytes, revealed: bytes, *, steps: int = 1) -> bool:
    """Whether ``seed`` lies ``steps`` links after ``revealed``, an earlier seed or the commitment."""
    return 1 <= steps <= CHAIN_LENGTH_MAX and _hashed(seed, steps) == revealed


def _hashed(value: bytes, times: int) -> bytes:
    if times > CHAIN_LENGTH_MAX:
        raise ValueError(f"a chain of {times} links is longer than {CHAIN_LENGTH_MAX}")
    for _ in range(times):
        value = hashlib.sha256(value).digest()
    return value
