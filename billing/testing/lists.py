"""Stripe's lists (newest first, pages by id) and its expansion of ids into objects."""

import copy
from collections.abc import Sequence

from billing.testing.state import Fake
from billing.testing.values import Call, JsonObject, StripeRefusal, missing

DEFAULT_LIMIT = 10
MAX_LIMIT = 100


def page(call: Call, url: str, found: Sequence[JsonObject]) -> JsonObject:
    """One page of the objects found (given oldest first), by limit, starting_after, ending_before and created."""
    limit = int(call.params.get("limit", DEFAULT_LIMIT))
    if not 1 <= limit <= MAX_LIMIT:
        raise StripeRefusal(
            f"Invalid limit: must be between 1 and {MAX_LIMIT}", code="parameter_invalid_integer", param="limit"
        )
    rows = [row for row in reversed(found) if _created_within(row, call.params.get("created"))]
    backwards = "ending_before" in call.params
    if "starting_after" in call.params:
        rows = rows[_place(rows, call.params["starting_after"], "starting_after") + 1 :]
    if backwards:
        rows = rows[: _place(rows, call.params["ending_before"], "ending_before")]
    shown = rows[-limit:] if backwards else rows[:limit]
    return {"object": "list", "data": list(shown), "has_more": len(rows) > limit, "url": url}


def matching(rows: Sequence[JsonObject], call: Call, *names: str) -> list[JsonObject]:
    """Rows whose fields equal those of these parameters that were given."""
    wanted = {name: call.params[name] for name in names if name in call.params}
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def expand(fake: Fake, answer: JsonObject, paths: Sequence[str]) -> JsonObject:
    """A copy of the answer in which the ids at these dotted paths are replaced by their objects."""
    answer = copy.deepcopy(answer)
    for path in paths:
        nodes: list[JsonObject] = [answer]
        for name in path.split("."):
            nodes = [inner for node in nodes for inner in _expanded(fake, node, name, path)]
    return answer


def _expanded(fake: Fake, node: JsonObject, name: str, path: str) -> list[JsonObject]:
    if name not in node:
        raise StripeRefusal(f"This property cannot be expanded ({path}).", param="expand[]")
    value = node[name]
    if isinstance(value, str) and value in fake.state.objects:
        value = node[name] = copy.deepcopy(fake.state.objects[value])
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    if value is None:
        return []
    raise StripeRefusal(f"This property cannot be expanded ({path}).", param="expand[]")


def _place(rows: Sequence[JsonObject], object_id: str, param: str) -> int:
    for place, row in enumerate(rows):
        if row["id"] == object_id:
            return place
    raise missing("object", object_id, param)


def _created_within(row: JsonObject, bounds: object) -> bool:
    created: int = row["created"]
    if bounds is None:
        return True
    if not isinstance(bounds, dict):
        return created == int(str(bounds))
    checks = {
        "gt": lambda limit: created > limit,
        "gte": lambda limit: created >= limit,
        "lt": lambda limit: created < limit,
        "lte": lambda limit: created <= limit,
    }
    return all(checks[name](int(limit)) for name, limit in bounds.items())
