"""The door of the API: key, version, faults, both validators and idempotency, around the work of one route."""

import re
from dataclasses import dataclass, field

import stripe
from starlette.requests import Request
from starlette.responses import JSONResponse

from billing.testing import balances, checkout, faults, forms, sdk_parameters
from billing.testing.lists import expand
from billing.testing.openapi import Description
from billing.testing.routes import Route, find
from billing.testing.state import DAY_SECONDS, Fake
from billing.testing.values import Call, FakeBroken, JsonObject, StripeRefusal

_KEY = re.compile(r"^Bearer (sk|rk)_test_\w+$")
KEY_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: JsonObject
    headers: dict[str, str] = field(default_factory=dict)


class Door:
    """Answers every request under /v1 as Stripe would."""

    def __init__(self, fake: Fake, description: Description | None) -> None:
        self.fake = fake
        self.description = description

    async def serve(self, request: Request) -> JSONResponse:
        """Answer one request. Between reading the body and the answer nothing is awaited: requests never interleave."""
        method, path, request_id = request.method, request.url.path, self.fake.new_id("req")
        body = (await request.body()).decode()
        fault = faults.take(self.fake, method, path, faults.BEFORE)
        if fault is not None and fault["kind"] != "rate_limit":
            await faults.misbehave(request, fault)
            return JSONResponse({}, 500)
        if fault is not None:
            answer = _refused(
                StripeRefusal("Too many requests hit the API too quickly.", status=429, code="rate_limit")
            )
        else:
            answer = self._answer(request, request_id, body or request.url.query)
        self.fake.save()
        fault = faults.take(self.fake, method, path, faults.AFTER)
        if fault is not None:
            await faults.misbehave(request, fault)
        headers = {"Request-Id": request_id, "Stripe-Version": stripe.api_version or "", **answer.headers}
        return JSONResponse(answer.body, answer.status, headers)

    def _answer(self, request: Request, request_id: str, text: str) -> _Answer:
        key = request.headers.get("Idempotency-Key", "") if request.method == "POST" else ""
        self.fake.request = {"id": request_id, "idempotency_key": key or None}
        try:
            route, call = self._admit(request, text, key)
            replayed = self._replay(request, call, key)
            if replayed is not None:
                return replayed
            answer = self._work(request, route, call)
            if key:
                self.fake.state.answers[f"{call.account}:{key}"] = {
                    "request": request_id,
                    "method": request.method,
                    "path": request.url.path,
                    "params": call.params,
                    "status": answer.status,
                    "body": answer.body,
                    "created": self.fake.now(),
                }
            return answer
        except StripeRefusal as refusal:  # refused before any work: not saved under the key
            return self._checked(refusal)
        except FakeBroken as broken:
            return self._broken(broken)
        finally:
            self.fake.request = None

    def _admit(self, request: Request, text: str, key: str) -> tuple[Route, Call]:
        """The route and the call, once key, version, account and parameters are in order."""
        _require_key(request.headers.get("Authorization", ""))
        version = request.headers.get("Stripe-Version", stripe.api_version)
        if version != stripe.api_version:
            raise StripeRefusal(f"Invalid Stripe API version: {version}. This fake speaks {stripe.api_version} only.")
        if len(key) > KEY_CHARACTERS_MAX:
            raise StripeRefusal(f"Idempotency-Key is longer than {KEY_CHARACTERS_MAX} characters.")
        checkout.expire_due(self.fake)
        balances.settle(self.fake)
        route, ids = find(request.method, request.url.path)
        params = sdk_parameters.check(route.parameters, forms.parse(text))
        if self.description is not None:
            self.description.check_request(route.method, route.template, params)
        account = request.headers.get("Stripe-Account", "")
        if account and not route.connected:
            raise StripeRefusal(f"This fake has no {route.method} {route.template} for a connected account.")
        if account and self.fake.state.objects.get(account, {}).get("object") != "account":
            raise StripeRefusal(
                f"The provided key does not have access to account '{account}' (or that account does not exist).",
                status=403,
                code="account_invalid",
            )
        return route, Call(params, ids, account, str(request.base_url).rstrip("/"))

    def _replay(self, request: Request, call: Call, key: str) -> _Answer | None:
        """The saved answer of this key, if it is the same request; keys are forgotten after 24 hours.

        Source: https://docs.stripe.com/api/idempotent_requests
        """
        answers, now = self.fake.state.answers, self.fake.now()
        for old in [name for name, saved in answers.items() if now - saved["created"] >= DAY_SECONDS]:
            del answers[old]
        saved = answers.get(f"{call.account}:{key}") if key else None
        if saved is None:
            return None
        if (saved["method"], saved["path"]) != (request.method, request.url.path):
            raise StripeRefusal(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('{request.url.path}' vs '{saved['path']}'). Try using a key other than '{key}' if you meant to "
                "execute a different request.",
                kind="idempotency_error",
            )
        if saved["params"] != call.params:
            raise StripeRefusal(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. "
                f"Try using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        headers = {"Idempotent-Replayed": "true", "Original-Request": saved["request"], "Idempotency-Key": key}
        return _Answer(saved["status"], saved["body"], headers)

    def _work(self, request: Request, route: Route, call: Call) -> _Answer:
        fault = faults.take(self.fake, request.method, request.url.path, faults.DURING)
        if fault is not None and fault["kind"] == "error_before":
            return _failure(fault)
        try:
            body = expand(self.fake, route.handler(self.fake, call), call.params.get("expand", []))
        except StripeRefusal as refusal:
            return self._checked(refusal)
        if self.description is not None:
            self.description.check_response(route.method, route.template, body)
        return _Answer(200, body) if fault is None else _failure(fault)

    def _checked(self, refusal: StripeRefusal) -> _Answer:
        try:
            if self.description is not None:
                self.description.check_error(refusal.body)
        except FakeBroken as broken:
            return self._broken(broken)
        return _refused(refusal)

    def _broken(self, broken: FakeBroken) -> _Answer:
        self.fake.state.breaches.append(str(broken))
        error = {"type": "api_error", "message": f"The fake broke Stripe's description: {broken}"}
        return _Answer(500, {"error": error}, {"Stripe-Should-Retry": "false"})


def _require_key(header: str) -> None:
    if not header:
        raise StripeRefusal(
            "You did not provide an API key. You need to provide your API key in the Authorization header, using "
            "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
            status=401,
        )
    if not _KEY.match(header):  # the key itself is never repeated: it might be a real one
        raise StripeRefusal("Invalid API Key provided. This fake takes keys that begin with sk_test_ only.", status=401)


def _refused(refusal: StripeRefusal) -> _Answer:
    return _Answer(refusal.status, refusal.body)


def _failure(fault: JsonObject) -> _Answer:
    error = fault["error"] or {"type": "api_error", "message": "An error occurred on Stripe's side."}
    # Stripe tells clients not to retry what its saved answer would only repeat.
    headers = {"Stripe-Should-Retry": "false"} if fault["status"] >= 500 else {}
    return _Answer(fault["status"], {"error": error}, headers)
