"""Balances, always derived from balance transactions: what came in, what it cost, and from when it can be used."""

from billing.testing.events import emit
from billing.testing.lists import matching, page
from billing.testing.state import DAY_SECONDS, Fake
from billing.testing.values import Call, JsonObject, StripeRefusal

SETTLE_SECONDS = 2 * DAY_SECONDS


def book(
    fake: Fake,
    *,
    account: str,
    kind: str,
    source: str,
    amount: int,
    currency: str,
    fee: int = 0,
    available_on: int = 0,
    description: str | None = None,
) -> JsonObject:
    """One balance transaction in minor units on an account; pending while available_on (epoch seconds) lies ahead."""
    now = fake.now()
    fees = [
        {"amount": fee, "application": None, "currency": currency, "description": "Stripe fees", "type": "stripe_fee"}
    ]
    entry: JsonObject = {
        "id": fake.new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": max(available_on, now),
        "balance_type": "payments",
        "created": now,
        "currency": currency,
        "description": description,
        "exchange_rate": None,
        "fee": fee,
        "fee_details": fees if fee else [],
        "net": amount - fee,
        "reporting_category": kind if kind != "payment" else "charge",
        "source": source,
        "status": "pending" if available_on > now else "available",
        "type": kind,
    }
    return fake.add(entry, account)


def total(fake: Fake, account: str, currency: str, status: str) -> int:
    """The available or pending balance of an account in minor units."""
    return sum(
        entry["net"]
        for entry in fake.all("balance_transaction", account)
        if entry["status"] == status and entry["currency"] == currency
    )


def settle(fake: Fake, *, everything: bool = False) -> int:
    """Make pending money available: what is due by the clock, or everything. Returns how many entries settled."""
    now = fake.now()
    due = [
        entry
        for entry in fake.all("balance_transaction", None)
        if entry["status"] == "pending" and (everything or entry["available_on"] <= now)
    ]
    for entry in due:
        entry["status"] = "available"
        entry["available_on"] = min(entry["available_on"], now)
    for account in sorted({fake.hidden(entry["id"])["account"] for entry in due}):
        emit(fake, "balance.available", of_account(fake, account), account=account)
    return len(due)


def of_account(fake: Fake, account: str) -> JsonObject:
    """The balance object of an account."""
    currencies = sorted({entry["currency"] for entry in fake.all("balance_transaction", account)} | {"usd"})

    def amounts(status: str) -> list[JsonObject]:
        sums = [(currency, total(fake, account, currency, status)) for currency in currencies]
        return [{"amount": amount, "currency": name, "source_types": {"card": amount}} for name, amount in sums]

    return {
        "object": "balance",
        "available": amounts("available"),
        "livemode": False,
        "pending": amounts("pending"),
    }


def require_available(fake: Fake, account: str, amount: int, currency: str) -> None:
    """StripeRefusal balance_insufficient when the account has less available than this many minor units."""
    if total(fake, account, currency, "available") < amount:
        raise StripeRefusal(
            "You have insufficient available funds in your Stripe account. Try adding funds directly to your available "
            "balance by creating Charges using the 4000000000000077 test card. "
            "See: https://stripe.com/docs/testing#available-balance",
            code="balance_insufficient",
        )


def retrieve(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/balance."""
    return of_account(fake, call.account)


def retrieve_entry(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/balance_transactions/{id}."""
    return fake.get("balance_transaction", call.ids["id"], account=call.account)


def list_entries(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/balance_transactions."""
    rows = matching(fake.all("balance_transaction", call.account), call, "type", "source", "currency")
    if "payout" in call.params:
        rows = [row for row in rows if row["source"] == call.params["payout"]]
    return page(call, "/v1/balance_transactions", rows)
