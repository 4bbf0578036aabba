"""Validator one: the SDK's own TypedDict parameters, checked strictly, so that a misspelt name is refused."""

from collections.abc import Mapping, Sequence
from functools import cache

import stripe
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from billing.testing.values import JsonObject, StripeRefusal


def check(parameters: type, values: JsonObject) -> JsonObject:
    """The values, with text from the form made numbers and booleans; StripeRefusal names the first fault."""
    try:
        return dict(_adapter(parameters).validate_python(values))
    except ValidationError as problem:
        # A misspelt name often leaves a required one missing too: the misspelling is the better thing to say.
        errors = sorted(problem.errors(), key=lambda item: item["type"] != "extra_forbidden")
        first = errors[0]
        raise _refusal(first["type"], _name(first["loc"], values), first["input"]) from problem


@cache
def _adapter(parameters: type) -> TypeAdapter[Mapping[str, object]]:
    # The SDK mixes its own request options (api_key, headers) into the class; on the wire they are unknown parameters.
    options = stripe.RequestOptions.__annotations__
    fields = {name: kind for name, kind in parameters.__annotations__.items() if name not in options}
    bare = TypedDict(parameters.__name__, fields)  # type: ignore[misc]
    bare.__module__ = parameters.__module__  # where the quoted names in its annotations are found
    bare.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    adapter: TypeAdapter[Mapping[str, object]] = TypeAdapter(bare)
    adapter.rebuild(raise_errors=True)
    return adapter


def _refusal(kind: str, name: str, value: object) -> StripeRefusal:
    if kind == "extra_forbidden":
        return StripeRefusal(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
    if kind == "missing":
        return StripeRefusal(f"Missing required param: {name}.", code="parameter_missing", param=name)
    if kind.startswith("int"):
        return StripeRefusal(f"Invalid integer: {value}", code="parameter_invalid_integer", param=name)
    return StripeRefusal(f"Invalid {name}: {value!r} ({kind})", param=name)


def _name(loc: Sequence[int | str], values: JsonObject) -> str:
    """``line_items[0][price_data]`` from pydantic's location, without its tags for the members of a union."""
    parts: list[str] = []
    node: object = values
    for place, part in enumerate(loc):
        if isinstance(node, list) and isinstance(part, int):
            node = node[part]
        elif isinstance(node, dict) and part in node:
            node = node[str(part)]
        elif place < len(loc) - 1 or not isinstance(node, dict):
            continue
        parts.append(str(part))
    return parts[0] + "".join(f"[{part}]" for part in parts[1:]) if parts else ""
