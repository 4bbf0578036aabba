"""Connected accounts made with controller properties, and the single-use links by which their owners finish them."""

import copy

from billing.testing.events import changed, emit
from billing.testing.lists import page
from billing.testing.state import Fake
from billing.testing.values import Call, JsonObject, StripeRefusal, nulls, required

LINK_SECONDS = 300
DUE = ("business_type", "external_account", "tos_acceptance.date", "tos_acceptance.ip")
_CURRENCIES = {"US": "usd", "GB": "gbp", "CA": "cad", "AU": "aud", "CH": "chf", "JP": "jpy"}


def create(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/accounts."""
    params = call.params
    controller = params.get("controller")
    if controller is not None and "type" in params:
        raise StripeRefusal("You may not provide the `type` parameter with the `controller` parameter.", param="type")
    if controller is None:
        raise StripeRefusal("This fake makes accounts with `controller` properties only", param="controller")
    requested = sorted(name for name, value in params.get("capabilities", {}).items() if value.get("requested"))
    if not requested:
        raise required("capabilities")
    country = params.get("country", "US")
    account: JsonObject = {
        "id": f"acct_{fake.new_id('')[1:17]}",
        "object": "account",
        "business_profile": _business_profile(params.get("business_profile", {})),
        "business_type": params.get("business_type"),
        "capabilities": dict.fromkeys(requested, "inactive"),
        "charges_enabled": False,
        "controller": _controller(controller),
        "country": country,
        "created": fake.now(),
        "default_currency": _CURRENCIES.get(country, "eur"),
        "details_submitted": False,
        "email": params.get("email"),
        "external_accounts": {"object": "list", "data": [], "has_more": False, "url": "/v1/accounts/external_accounts"},
        "future_requirements": _requirements(),
        "metadata": params.get("metadata") or {},
        "payouts_enabled": False,
        "requirements": _requirements(DUE),
        "tos_acceptance": nulls("date ip user_agent"),
        "type": "none",
    }
    account["external_accounts"]["url"] = f"/v1/accounts/{account['id']}/external_accounts"
    return fake.add(account)


def _business_profile(given: JsonObject) -> JsonObject:
    empty = nulls("annual_revenue mcc name product_description support_address support_email support_phone "
                  "support_url url")  # fmt: skip
    return {**empty, **given}


def _controller(given: JsonObject) -> JsonObject:
    return {
        "fees": {"payer": given.get("fees", {}).get("payer", "account")},
        "is_controller": True,
        "losses": {"payments": given.get("losses", {}).get("payments", "stripe")},
        "requirement_collection": given.get("requirement_collection", "stripe"),
        "stripe_dashboard": {"type": given.get("stripe_dashboard", {}).get("type", "full")},
        "type": "application",
    }


def _requirements(due: tuple[str, ...] = ()) -> JsonObject:
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": list(due),
        "disabled_reason": "requirements.past_due" if due else None,
        "errors": [],
        "eventually_due": list(due),
        "past_due": list(due),
        "pending_verification": [],
    }


def retrieve(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/accounts/{id}."""
    return by_id(fake, call.ids["id"])


def by_id(fake: Fake, account_id: str) -> JsonObject:
    """A connected account; Stripe answers 403 for one that it does not know."""
    obj = fake.state.objects.get(account_id)
    if obj is None or obj["object"] != "account":
        raise StripeRefusal(
            f"The provided key 'sk_test_***' does not have access to account '{account_id}' (or that account does not "
            "exist). Application access may have been revoked.",
            status=403,
            code="account_invalid",
        )
    return obj


def list_accounts(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/accounts."""
    return page(call, "/v1/accounts", fake.all("account"))


def update(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/accounts/{id}: email, metadata, business_type and requested capabilities."""
    account = retrieve(fake, call)
    params = dict(call.params)
    before = copy.deepcopy(account)
    if "metadata" in params:
        account["metadata"] = merged(account["metadata"], params["metadata"])
    for name in ("email", "business_type"):
        if name in params:
            account[name] = params[name]
    for name, value in params.get("capabilities", {}).items():
        if value.get("requested"):
            account["capabilities"].setdefault(name, "inactive")
    emit(fake, "account.updated", account, account=account["id"], previous=changed(before, account))
    return account


def merged(old: JsonObject, new: object) -> JsonObject:
    """Metadata after an update: an empty value removes its key, an empty whole removes all."""
    if not isinstance(new, dict):
        return {}
    return {key: value for key, value in {**old, **new}.items() if value != ""}


def flip(fake: Fake, account_id: str, **fields: object) -> JsonObject:
    """Change an account as Stripe's own checks would, and tell the Connect endpoint.

    Fields: capabilities (status by name), payouts_enabled, charges_enabled, details_submitted, currently_due,
    disabled_reason.
    """
    account = by_id(fake, account_id)
    before = copy.deepcopy(account)
    capabilities = fields.pop("capabilities", None)
    if isinstance(capabilities, dict):
        account["capabilities"].update(capabilities)
    for name, value in fields.items():
        if name in ("disabled_reason", "currently_due"):
            account["requirements"][name] = value
        else:
            account[name] = value
    emit(fake, "account.updated", account, account=account_id, previous=changed(before, account))
    return account


def onboard(fake: Fake, account_id: str) -> JsonObject:
    """The owner gave everything that was asked: capabilities active, payouts enabled, nothing due."""
    account = by_id(fake, account_id)
    account["requirements"].update(_requirements())
    return flip(
        fake,
        account_id,
        capabilities=dict.fromkeys(account["capabilities"], "active"),
        charges_enabled="card_payments" in account["capabilities"],
        payouts_enabled=True,
        details_submitted=True,
    )


def create_link(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/account_links."""
    account = by_id(fake, call.params["account"])
    for name in ("refresh_url", "return_url"):
        if name not in call.params:
            raise required(name)
    token = fake.new_id("link")
    now = fake.now()
    fake.state.hidden[token] = {
        "account": "",
        "for": account["id"],
        "return_url": call.params["return_url"],
        "refresh_url": call.params["refresh_url"],
        "expires_at": now + LINK_SECONDS,
        "used": False,
    }
    url = f"{call.base_url}/onboard/{token}"
    return {"object": "account_link", "created": now, "expires_at": now + LINK_SECONDS, "url": url}


def create_login_link(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/accounts/{id}/login_links: the way into the Express dashboard, once onboarding is done."""
    account = retrieve(fake, call)
    if not account["details_submitted"]:
        raise StripeRefusal("Cannot create a login link for an account that has not completed onboarding.")
    url = f"{call.base_url}/dashboard/{account['id']}"
    return {"object": "login_link", "created": fake.now(), "url": url}
