"""The published record of one clearing, and replaying it: the same book and seed give the same result, bit for bit."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from marketplace.auction.book import Book, book_content, book_of, canonical_hash
from marketplace.auction.clearing import Clearing, clear
from marketplace.auction.seeds import follows

VERSION = 1


def record(book: Book, clearing: Clearing, *, seed: bytes, revealed: bytes, steps: int = 1) -> dict[str, Any]:
    """Return everything needed to recompute a clearing, as plain JSON values, with a hash over all of it.

    ``revealed`` is the seed published last (or the chain's commitment), ``steps`` links before ``seed``.
    """
    content = {
        "version": VERSION,
        "book": book_content(book),
        "seed": seed.hex(),
        "commitment": {"revealed": revealed.hex(), "steps": steps},
        **_results(clearing),
    }
    return {**content, "hash": canonical_hash(content)}


def replay(record: Mapping[str, Any], *, published_hash: str | None = None) -> tuple[str, ...]:
    """Recompute a record and return every difference in words; empty if it is what the auction did.

    Whoever rewrites book, results and hash together makes a record that agrees with itself: only ``published_hash``,
    as it was published at the time, and the seed's commitment can tell. Never raises for a malformed record.
    """
    content = {key: value for key, value in record.items() if key != "hash"}
    problems = []
    try:
        if record.get("hash") != canonical_hash(content):
            problems.append("hash: is not that of the record")
        if published_hash is not None and record.get("hash") != published_hash:
            problems.append("hash: is not the published one")
        if content.get("version") != VERSION:
            problems.append(f"version: {content.get('version')!r}, not {VERSION}")
        seed, chain = bytes.fromhex(content["seed"]), content["commitment"]
        if not follows(seed, bytes.fromhex(chain["revealed"]), steps=chain["steps"]):
            problems.append("seed: does not hash to the one revealed before it")
        book = book_of(content["book"])
        again = {"version": VERSION, "book": book_content(book), "seed": seed.hex(), "commitment": chain}
        again |= _results(clear(book, seed=seed))
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        return (*problems, f"record: cannot be read: {type(error).__name__}: {error}")
    problems += [f"{key}: is missing" for key in again if key not in content]
    problems += [f"{key}: is not part of a record" for key in content if key not in again]
    for key in again:
        if key in content and _text(content[key]) != _text(again[key]):
            problems += _differences(key, content[key], again[key])
    return tuple(problems)


def _results(clearing: Clearing) -> dict[str, Any]:
    results = asdict(clearing)
    # Through JSON and back, so that a stored record and a fresh one are made of the same types.
    plain: dict[str, Any] = json.loads(json.dumps(results))
    return plain


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differences(where: str, recorded: Any, again: Any) -> list[str]:
    if isinstance(recorded, list) and isinstance(again, list):
        if len(recorded) != len(again):
            return [f"{where}: {len(recorded)} recorded, {len(again)} recomputed"]
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(recorded, again, strict=True))]
    elif isinstance(recorded, dict) and isinstance(again, dict) and recorded.keys() == again.keys():
        pairs = [(f"{where}.{key}", recorded[key], again[key]) for key in again]
    else:
        return [f"{where}: recorded {recorded!r}, recomputed {again!r}"]
    return [line for at, a, b in pairs if _text(a) != _text(b) for line in _differences(at, a, b)]
