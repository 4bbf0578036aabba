"""Enrolment over HTTP: this device's facts, signed, for an id and a device class."""

import email.utils
import time
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

import httpx

from ray_cluster.agent.facts import Facts
from ray_cluster.agent.identity import Identity, canonical
from ray_cluster.errors import Denied, InvalidInput, Outage, Refusal

MICROS = 1_000_000
PRICE_MICROS_MAX = 1_000 * MICROS
_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the market calls this device."""

    device_id: str
    device_class: str
    name: str


def request_body(
    identity: Identity,
    facts: Facts,
    *,
    token: str,
    name: str,
    region: str,
    score_millis: int,
    reserve_micros_per_hour: int,
) -> dict[str, object]:
    """PURE: return the signed body of the enrolment."""
    body: dict[str, object] = {
        "token": token,
        "public_key": identity.public_key,
        "name": name,
        "facts": facts.as_json(),
        "region": region,
        "score_millis": score_millis,
        "reserve_micros_per_hour": reserve_micros_per_hour,
    }
    return body | {"signature": identity.sign(canonical(body))}


def enrol(url: str, body: dict[str, object], *, transport: httpx.BaseTransport | None = None) -> Enrolment:
    """Enrol, or bring the market up to date about a known key.

    Raises Denied (token or key not accepted), Refusal (anything else the provider must change) and Outage.
    """
    response = _ask("POST", url, "/v1/devices/enrol", body, transport)
    if response.status_code != 200:
        raise _refused(url, response)
    try:
        answer = response.json()
        return Enrolment(str(answer["device_id"]), str(answer["device_class"]), str(answer["name"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Outage(f"{url} does not answer like a Spare market", "check the address after spare join") from error


def clock_skew_ms(url: str, *, transport: httpx.BaseTransport | None = None) -> int | None:
    """Return how far this clock is ahead of the market's (to about a second), or None; raises Outage."""
    response = _ask("GET", url, "/", None, transport)
    said = response.headers.get("date")
    try:
        market_s = email.utils.parsedate_to_datetime(said).timestamp() if said else None
    except ValueError:
        market_s = None
    return None if market_s is None else int((time.time() - market_s) * 1000)


def _ask(
    method: str, url: str, path: str, body: dict[str, object] | None, transport: httpx.BaseTransport | None
) -> httpx.Response:
    try:
        with httpx.Client(timeout=_TIMEOUT_S, transport=transport) as client:
            return client.request(method, url + path, json=body)
    except httpx.HTTPError as error:
        raise Outage(f"cannot reach the market at {url}: {error}", f"is it running?  curl {url}") from error


def _refused(url: str, response: httpx.Response) -> Exception:
    try:
        problem = response.json()
        detail = str(problem.get("detail") or problem.get("title") or "")
        hint = str(problem.get("hint") or "")
    except (ValueError, AttributeError):
        detail, hint = "", ""
    detail = " ".join(detail.split()) or f"HTTP {response.status_code}"
    if response.status_code in (401, 403):
        return Denied(f"the market refused this token: {detail}", hint or f"get a fresh one at {url}, then --token …")
    if response.status_code == 404:
        return InvalidInput(f"there is no Spare market at {url}", "check the address after spare join")
    if response.status_code >= 500:
        return Outage(f"the market has a problem: {detail}", "try again in a minute")
    return Refusal(f"the market refused to enrol this device: {detail}", hint)


def parse_url(text: str) -> str:
    """Return the market's address as ``http(s)://host[:port]``; raises InvalidInput."""
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise InvalidInput(f"{text!r} is not a market's address", "write it like https://spare.example")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def parse_price_micros_per_hour(text: str) -> int:
    """Read ``0.05``, ``$0.05`` or ``$0.05/h`` as integer micro-dollars per compute-hour; raises InvalidInput."""
    hint = "write dollars per compute-hour, like --price 0.05"
    bare = text.strip().removeprefix("$").removesuffix("/hour").removesuffix("/h")
    try:
        micros = Decimal(bare) * MICROS
    except InvalidOperation as error:
        raise InvalidInput(f"cannot read the price {text!r}", hint) from error
    if not micros.is_finite() or not 0 <= micros <= PRICE_MICROS_MAX or micros != micros.to_integral_value():
        raise InvalidInput(f"the price {text!r} is not between $0 and $1000 in steps of a millionth", hint)
    return int(micros)
