"""Transfers to connected accounts, their reversals, and payouts from there to a bank."""

from billing.testing import balances, payments
from billing.testing.accounts import by_id, merged
from billing.testing.events import changed, emit
from billing.testing.lists import matching, page
from billing.testing.state import DAY_SECONDS, Fake
from billing.testing.values import Call, JsonObject, StripeRefusal, missing, nulls, required


def create(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/transfers: available balance at the platform becomes available balance at the destination."""
    params = call.params
    if "amount" not in params:
        raise required("amount")
    amount, currency = params["amount"], params["currency"].lower()
    if amount < 1:
        raise StripeRefusal("Amount must be at least 1.", code="parameter_invalid_integer", param="amount")
    destination = fake.state.objects.get(params["destination"])
    if destination is None or destination["object"] != "account":
        raise missing("destination", params["destination"], "destination")
    if destination["capabilities"].get("transfers") != "active":
        raise StripeRefusal(
            "Your destination account needs to have at least one of the following capabilities enabled: "
            "transfers, crypto_transfers, legacy_payments",
            code="insufficient_capabilities_for_transfer",
        )
    available_on, group = _funding(fake, params, amount, currency)
    return _move(fake, params, amount, currency, available_on, group)


def _funding(fake: Fake, params: JsonObject, amount: int, currency: str) -> tuple[int, str | None]:
    """From when the money can be used, and the group; StripeRefusal when there is not enough."""
    group = params.get("transfer_group")
    if "source_transaction" not in params:
        balances.require_available(fake, "", amount, currency)
        return 0, group
    charge = fake.get("charge", params["source_transaction"], param="source_transaction")
    used = sum(
        transfer["amount"] - transfer["amount_reversed"]
        for transfer in fake.all("transfer")
        if transfer["source_transaction"] == charge["id"]
    )
    if charge["balance_transaction"] is None or used + amount > charge["amount"]:
        raise StripeRefusal(
            "Cannot create transfers totalling more than the source transaction.",
            code="balance_insufficient",
            param="source_transaction",
        )
    entry = fake.get("balance_transaction", charge["balance_transaction"])
    return (0 if entry["status"] == "available" else entry["available_on"]), group or charge["transfer_group"]


def _move(
    fake: Fake, params: JsonObject, amount: int, currency: str, available_on: int, group: str | None
) -> JsonObject:
    transfer_id = fake.new_id("tr")
    destination = params["destination"]
    entry = balances.book(
        fake, account="", kind="transfer", source=transfer_id, amount=-amount, currency=currency,
        available_on=available_on, description=params.get("description"),
    )  # fmt: skip
    payment = payments.new_charge(
        fake, prefix="py", account=destination, amount=amount, currency=currency, source_transfer=transfer_id
    )
    arrival = balances.book(
        fake, account=destination, kind="payment", source=payment["id"], amount=amount, currency=currency,
        available_on=available_on,
    )  # fmt: skip
    payment["balance_transaction"] = arrival["id"]
    transfer: JsonObject = {
        "id": transfer_id,
        "object": "transfer",
        "amount": amount,
        "amount_reversed": 0,
        "balance_transaction": entry["id"],
        "created": fake.now(),
        "currency": currency,
        "description": params.get("description"),
        "destination": destination,
        "destination_payment": payment["id"],
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "reversals": {"object": "list", "data": [], "has_more": False, "url": f"/v1/transfers/{transfer_id}/reversals"},
        "reversed": False,
        "source_transaction": params.get("source_transaction"),
        "source_type": params.get("source_type", "card"),
        "transfer_group": group,
    }
    fake.add(transfer)
    emit(fake, "transfer.created", transfer)
    return transfer


def retrieve(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/transfers/{id}."""
    return fake.get("transfer", call.ids["id"])


def list_transfers(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/transfers, also by transfer_group and destination."""
    return page(call, "/v1/transfers", matching(fake.all("transfer"), call, "transfer_group", "destination"))


def update(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/transfers/{id}: description and metadata."""
    transfer = retrieve(fake, call)
    before = dict(transfer)
    if "metadata" in call.params:
        transfer["metadata"] = merged(transfer["metadata"], call.params["metadata"])
    if "description" in call.params:
        transfer["description"] = call.params["description"]
    emit(fake, "transfer.updated", transfer, previous=changed(before, transfer))
    return transfer


def reverse(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/transfers/{id}/reversals: all of it or a part comes back, if the destination still has it."""
    transfer = retrieve(fake, call)
    rest = transfer["amount"] - transfer["amount_reversed"]
    amount = call.params.get("amount", rest)
    if not 1 <= amount <= rest:
        raise StripeRefusal(f"Transfer {transfer['id']} has {rest} left to reverse, not {amount}.", param="amount")
    balances.require_available(fake, transfer["destination"], amount, transfer["currency"])
    reversal_id = fake.new_id("trr")
    entry = balances.book(
        fake, account="", kind="transfer_refund", source=reversal_id, amount=amount, currency=transfer["currency"]
    )
    balances.book(
        fake, account=transfer["destination"], kind="payment_refund", source=transfer["destination_payment"],
        amount=-amount, currency=transfer["currency"],
    )  # fmt: skip
    reversal: JsonObject = {
        "id": reversal_id,
        "object": "transfer_reversal",
        "amount": amount,
        "balance_transaction": entry["id"],
        "created": fake.now(),
        "currency": transfer["currency"],
        "destination_payment_refund": None,
        "metadata": call.params.get("metadata") or {},
        "source_refund": None,
        "transfer": transfer["id"],
    }
    fake.add(reversal)
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    transfer["reversals"]["data"].insert(0, dict(reversal))
    emit(fake, "transfer.reversed", transfer)
    return reversal


def list_reversals(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/transfers/{id}/reversals."""
    transfer = retrieve(fake, call)
    rows = [row for row in fake.all("transfer_reversal") if row["transfer"] == transfer["id"]]
    return page(call, transfer["reversals"]["url"], rows)


def retrieve_reversal(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/transfers/{id}/reversals/{reversal}."""
    reversal = fake.get("transfer_reversal", call.ids["reversal"])
    if reversal["transfer"] != call.ids["id"]:
        raise missing("transfer_reversal", call.ids["reversal"])
    return reversal


def pay_out(fake: Fake, account_id: str, currency: str, *, failure_code: str = "") -> JsonObject:
    """Stripe's automatic payout of all that a connected account has available; a failed one returns the money there."""
    account = by_id(fake, account_id)
    amount = balances.total(fake, account_id, currency, "available")
    if amount < 1 or not account["payouts_enabled"]:
        raise StripeRefusal(f"{account_id} has {amount} available, payouts enabled: {account['payouts_enabled']}.")
    payout_id = fake.new_id("po")
    entry = balances.book(fake, account=account_id, kind="payout", source=payout_id, amount=-amount, currency=currency)
    payout: JsonObject = {
        "id": payout_id,
        "object": "payout",
        "amount": amount,
        "arrival_date": fake.now() + 2 * DAY_SECONDS,
        "automatic": True,
        "balance_transaction": entry["id"],
        "created": fake.now(),
        "currency": currency,
        "description": "STRIPE PAYOUT",
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "reconciliation_status": "completed",
        "source_type": "card",
        "status": "in_transit",
        "type": "bank_account",
        **nulls("application_fee application_fee_amount destination failure_balance_transaction failure_code "
                "failure_message original_payout payout_method reversed_by statement_descriptor trace_id"),
    }  # fmt: skip
    fake.add(payout, account_id)
    emit(fake, "payout.created", payout, account=account_id)
    if failure_code:
        back = balances.book(
            fake, account=account_id, kind="payout_failure", source=payout_id, amount=amount, currency=currency
        )
        payout.update(status="failed", failure_code=failure_code, failure_balance_transaction=back["id"])
    else:
        payout["status"] = "paid"
    emit(fake, f"payout.{payout['status']}", payout, account=account_id)
    return payout


def retrieve_payout(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/payouts/{id}, with Stripe-Account for those of a connected account."""
    return fake.get("payout", call.ids["id"], account=call.account)


def list_payouts(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/payouts, with Stripe-Account for those of a connected account."""
    return page(call, "/v1/payouts", matching(fake.all("payout", call.account), call, "status", "destination"))
