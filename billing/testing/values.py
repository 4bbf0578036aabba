"""What every part of the fake passes around: Stripe's open JSON objects, one call, and a refusal in Stripe's form."""

from dataclasses import dataclass, field
from typing import Any

# Stripe's objects are open JSON with hundreds of optional fields: the validators check them, not the type checker.
JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request that passed the door: validated parameters, ids from the path, and whose account it is for."""

    params: JsonObject
    ids: dict[str, str] = field(default_factory=dict)
    account: str = ""  # the connected account in Stripe-Account; "" is the platform
    base_url: str = ""  # where the fake's own pages are, without a trailing slash


class StripeRefusal(Exception):
    """An answer in Stripe's error form; change what the message names."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "invalid_request_error", **extra: object
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: JsonObject = {"type": kind, "message": message}
        self.error.update({name: value for name, value in extra.items() if value not in (None, "")})

    @property
    def body(self) -> JsonObject:
        """The JSON body that Stripe would send."""
        return {"error": self.error}


class FakeBroken(Exception):
    """The fake itself was about to say something that Stripe would not; fix the fake, not the test."""


def missing(noun: str, object_id: str, param: str = "id") -> StripeRefusal:
    """The 404 that Stripe gives for an id it does not know, or a 400 when the id was a parameter."""
    status = 404 if param == "id" else 400
    return StripeRefusal(f"No such {noun}: '{object_id}'", status=status, code="resource_missing", param=param)


def required(param: str) -> StripeRefusal:
    """The refusal for a parameter that is required in this situation."""
    return StripeRefusal(f"Missing required param: {param}.", code="parameter_missing", param=param)


def nulls(names: str) -> JsonObject:
    """Fields that Stripe always sends and that are null here."""
    return dict.fromkeys(names.split())
