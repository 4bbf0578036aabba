"""PaymentIntents, their charges, and what a card payment leaves in the balance."""

from billing.testing import balances
from billing.testing.events import emit
from billing.testing.lists import matching, page
from billing.testing.state import Fake
from billing.testing.values import Call, JsonObject, nulls

FEE_PER_MILLE = 29  # 2.9 % …
FEE_FIXED = 30  # … and 30 cents, what Stripe takes of a domestic card
DECLINES = {
    "card_declined": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
}
_OWN_CODE = frozenset({"expired_card", "incorrect_cvc", "processing_error"})  # the others are codes of a card_declined


def card_fee(amount: int) -> int:
    """Stripe's fee on a card payment, in minor units, rounded half up."""
    return (amount * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED


def new_intent(fake: Fake, *, amount: int, currency: str, metadata: JsonObject, extra: JsonObject) -> JsonObject:
    """A PaymentIntent that waits for a payment method. Amount in minor units."""
    intent_id = fake.new_id("pi")
    intent: JsonObject = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_secret_fake",
        "confirmation_method": "automatic",
        "created": fake.now(),
        "currency": currency,
        "livemode": False,
        "metadata": metadata,
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
        **nulls(
            "application application_fee_amount automatic_payment_methods canceled_at cancellation_reason customer "
            "description last_payment_error latest_charge next_action on_behalf_of payment_method processing "
            "receipt_email review setup_future_usage shipping statement_descriptor statement_descriptor_suffix "
            "transfer_data transfer_group"
        ),
    }
    intent.update({name: extra[name] for name in ("description", "receipt_email", "transfer_group") if name in extra})
    fake.add(intent)
    emit(fake, "payment_intent.created", intent)
    return intent


def new_charge(fake: Fake, *, prefix: str, account: str, amount: int, currency: str, **fields: object) -> JsonObject:
    """A charge that succeeded, with these fields set over its usual ones. Amount in minor units."""
    charge: JsonObject = {
        "id": fake.new_id(prefix),
        "object": "charge",
        "amount": amount,
        "amount_captured": amount,
        "amount_refunded": 0,
        "billing_details": nulls("address email name phone tax_id"),
        "captured": True,
        "created": fake.now(),
        "currency": currency,
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": {},
        "paid": True,
        "refunded": False,
        "status": "succeeded",
        **nulls(
            "application application_fee application_fee_amount balance_transaction calculated_statement_descriptor "
            "customer description failure_balance_transaction failure_code failure_message on_behalf_of outcome "
            "payment_intent payment_method payment_method_details receipt_email receipt_number receipt_url review "
            "shipping source_transfer statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
        ),
    }
    charge.update(fields)
    return fake.add(charge, account)


def succeed(fake: Fake, intent: JsonObject) -> None:
    """The buyer's money arrives: a charge, a pending balance transaction less the card fee, and the events."""
    charge = _charge(fake, intent)
    entry = balances.book(
        fake,
        account="",
        kind="charge",
        source=charge["id"],
        amount=intent["amount"],
        currency=intent["currency"],
        fee=card_fee(intent["amount"]),
        available_on=fake.now() + balances.SETTLE_SECONDS,
        description=intent["description"],
    )
    charge["balance_transaction"] = entry["id"]
    intent.update(
        status="succeeded",
        amount_received=intent["amount"],
        latest_charge=charge["id"],
        last_payment_error=None,
    )
    emit(fake, "charge.succeeded", charge)
    emit(fake, "payment_intent.succeeded", intent)


def decline(fake: Fake, intent: JsonObject, decline_code: str) -> None:
    """The bank refuses: a failed charge, the intent waits for another card, and the events."""
    code = decline_code if decline_code in _OWN_CODE else "card_declined"
    message = DECLINES.get(decline_code, DECLINES["card_declined"])
    charge = _charge(
        fake, intent, paid=False, captured=False, amount_captured=0, status="failed", failure_code=code,
        failure_message=message,
    )  # fmt: skip
    intent.update(
        status="requires_payment_method",
        latest_charge=charge["id"],
        last_payment_error={
            "type": "card_error",
            "code": code,
            "decline_code": decline_code,
            "message": message,
            "charge": charge["id"],
        },
    )
    emit(fake, "charge.failed", charge)
    emit(fake, "payment_intent.payment_failed", intent)


def _charge(fake: Fake, intent: JsonObject, **fields: object) -> JsonObject:
    return new_charge(
        fake,
        prefix="ch",
        account="",
        amount=intent["amount"],
        currency=intent["currency"],
        payment_intent=intent["id"],
        metadata=dict(intent["metadata"]),
        description=intent["description"],
        transfer_group=intent["transfer_group"],
        **fields,
    )


def retrieve_intent(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/payment_intents/{id}."""
    return fake.get("payment_intent", call.ids["id"], account=call.account)


def list_intents(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/payment_intents."""
    rows = matching(fake.all("payment_intent", call.account), call, "customer")
    return page(call, "/v1/payment_intents", rows)


def retrieve_charge(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/charges/{id}."""
    return fake.get("charge", call.ids["id"], account=call.account)


def list_charges(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/charges."""
    rows = matching(fake.all("charge", call.account), call, "payment_intent", "transfer_group", "customer")
    return page(call, "/v1/charges", rows)
