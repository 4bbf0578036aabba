"""Stripe's form encoding, read back: ``a[b][0]=c`` is ``{"a": {"b": ["c"]}}``."""

import re
from urllib.parse import parse_qsl

from billing.testing.values import JsonObject, StripeRefusal

_KEY = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_FREE_KEYS = frozenset({"metadata"})  # here a key of digits is a name, not a place in a list


def parse(text: str) -> JsonObject:
    """Nested parameters from a form body or query string; values stay text. StripeRefusal for a malformed key."""
    root: JsonObject = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        found = _KEY.match(key)
        if found is None:
            raise StripeRefusal(f"Invalid parameter name: {key}", param=key)
        _put(root, [found[1], *re.findall(r"\[([^\[\]]*)\]", found[2])], value, key)
    return {name: _lists(value, name) for name, value in root.items()}


def _put(root: JsonObject, path: list[str], value: str, key: str) -> None:
    node = root
    for part in path[:-1]:
        node = node.setdefault(part or str(len(node)), {})
        if not isinstance(node, dict):
            raise StripeRefusal(f"Invalid parameter: {key} is both a value and a hash", param=key)
    last = path[-1] or str(len(node))
    if last in node:
        raise StripeRefusal(f"Parameter given twice: {key}", param=key)
    node[last] = value


def _lists(value: object, name: str) -> object:
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(item, key) for key, item in value.items()}
    if name not in _FREE_KEYS and set(inner) == {str(place) for place in range(len(inner))}:
        return [inner[str(place)] for place in range(len(inner))]
    return inner
