"""The part of Stripe's API that the fake covers: one row per method and path, with the SDK's parameters for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from stripe import params
from stripe.params import checkout as checkout_params

from billing.testing import accounts, balances, checkout, payments, transfers
from billing.testing.lists import page
from billing.testing.state import Fake
from billing.testing.values import Call, JsonObject, StripeRefusal

Handler = Callable[[Fake, Call], JsonObject]


@dataclass(frozen=True)
class Route:
    """One method of the API. connected: whether it can be asked for a connected account with Stripe-Account."""

    method: str
    template: str
    handler: Handler
    parameters: type
    connected: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of this route."""
        return re.compile("^" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template) + "$")


def _retrieve_event(fake: Fake, call: Call) -> JsonObject:
    return fake.get("event", call.ids["id"], account=call.account)


def _list_events(fake: Fake, call: Call) -> JsonObject:
    rows = fake.all("event", call.account)
    kinds = call.params.get("types") or ([call.params["type"]] if "type" in call.params else None)
    if kinds is not None:
        rows = [row for row in rows if row["type"] in kinds]
    return page(call, "/v1/events", rows)


ROUTES = (
    Route("POST", "/v1/checkout/sessions", checkout.create, checkout_params.SessionCreateParams),
    Route("GET", "/v1/checkout/sessions", checkout.list_sessions, checkout_params.SessionListParams),
    Route("GET", "/v1/checkout/sessions/{id}", checkout.retrieve, checkout_params.SessionRetrieveParams),
    Route("POST", "/v1/checkout/sessions/{id}/expire", checkout.expire, checkout_params.SessionExpireParams),
    Route("GET", "/v1/payment_intents", payments.list_intents, params.PaymentIntentListParams),
    Route("GET", "/v1/payment_intents/{id}", payments.retrieve_intent, params.PaymentIntentRetrieveParams),
    Route("GET", "/v1/charges", payments.list_charges, params.ChargeListParams, True),
    Route("GET", "/v1/charges/{id}", payments.retrieve_charge, params.ChargeRetrieveParams, True),
    Route("GET", "/v1/balance", balances.retrieve, params.BalanceRetrieveParams, True),
    Route("GET", "/v1/balance_transactions", balances.list_entries, params.BalanceTransactionListParams, True),
    Route(
        "GET", "/v1/balance_transactions/{id}", balances.retrieve_entry, params.BalanceTransactionRetrieveParams, True
    ),
    Route("POST", "/v1/accounts", accounts.create, params.AccountCreateParams),
    Route("GET", "/v1/accounts", accounts.list_accounts, params.AccountListParams),
    Route("GET", "/v1/accounts/{id}", accounts.retrieve, params.AccountRetrieveParams),
    Route("POST", "/v1/accounts/{id}", accounts.update, params.AccountUpdateParams),
    Route("POST", "/v1/accounts/{id}/login_links", accounts.create_login_link, params.AccountLoginLinkCreateParams),
    Route("POST", "/v1/account_links", accounts.create_link, params.AccountLinkCreateParams),
    Route("POST", "/v1/transfers", transfers.create, params.TransferCreateParams),
    Route("GET", "/v1/transfers", transfers.list_transfers, params.TransferListParams),
    Route("GET", "/v1/transfers/{id}", transfers.retrieve, params.TransferRetrieveParams),
    Route("POST", "/v1/transfers/{id}", transfers.update, params.TransferUpdateParams),
    Route("POST", "/v1/transfers/{id}/reversals", transfers.reverse, params.TransferReversalCreateParams),
    Route("GET", "/v1/transfers/{id}/reversals", transfers.list_reversals, params.TransferReversalListParams),
    Route(
        "GET",
        "/v1/transfers/{id}/reversals/{reversal}",
        transfers.retrieve_reversal,
        params.TransferReversalRetrieveParams,
    ),
    Route("GET", "/v1/payouts", transfers.list_payouts, params.PayoutListParams, True),
    Route("GET", "/v1/payouts/{id}", transfers.retrieve_payout, params.PayoutRetrieveParams, True),
    Route("GET", "/v1/events", _list_events, params.EventListParams, True),
    Route("GET", "/v1/events/{id}", _retrieve_event, params.EventRetrieveParams, True),
)


def find(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """The route of a request and the ids in its path; Stripe's 404 when the fake does not have it."""
    for route in ROUTES:
        found = route.pattern.match(path)
        if route.method == method and found is not None:
            return route, found.groupdict()
    raise StripeRefusal(
        f"Unrecognized request URL ({method}: {path}). This fake of Stripe covers only: "
        + ", ".join(f"{route.method} {route.template}" for route in ROUTES),
        status=404,
    )
