"""Checkout Sessions in payment mode: what is bought, the page where it is paid, and every way that can end."""

from billing.testing import payments
from billing.testing.events import emit
from billing.testing.lists import matching, page
from billing.testing.state import DAY_SECONDS, Fake
from billing.testing.values import Call, JsonObject, StripeRefusal, nulls, required

NOUN = "checkout.session"
OUTCOMES = ("paid", "declined", "async", "async_paid", "async_failed", "expired")


def create(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/checkout/sessions: payment mode, inline prices."""
    params = call.params
    for name in ("mode", "line_items", "success_url"):
        if name not in params:
            raise required(name)
    if params["mode"] != "payment":
        raise StripeRefusal(f"This fake has checkout in payment mode only, not {params['mode']}", param="mode")
    amount, currency = _total(params["line_items"])
    expires_at = params.get("expires_at", fake.now() + DAY_SECONDS)
    if not 1_800 <= expires_at - fake.now() <= DAY_SECONDS:
        raise StripeRefusal(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.",
            param="expires_at",
        )
    session_id = fake.new_id("cs_test")
    session: JsonObject = {
        **_defaults(),
        "id": session_id,
        "object": NOUN,
        "amount_subtotal": amount,
        "amount_total": amount,
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": fake.now(),
        "currency": currency,
        "customer": params.get("customer"),
        "customer_email": params.get("customer_email"),
        "expires_at": expires_at,
        "metadata": params.get("metadata") or {},
        "success_url": params["success_url"],
        "url": f"{call.base_url}/pay/{session_id}",
    }
    return fake.add(session, call.account, intent=params.get("payment_intent_data", {}))


def _defaults() -> JsonObject:
    return {
        "automatic_tax": {"enabled": False, **nulls("liability provider status")},
        "custom_fields": [],
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "customer_creation": "if_required",
        "livemode": False,
        "mode": "payment",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        **nulls(
            "after_expiration allow_promotion_codes billing_address_collection client_secret consent "
            "consent_collection currency_conversion customer_details discounts invoice invoice_creation locale "
            "payment_intent payment_link payment_method_collection payment_method_configuration_details recovered_from "
            "saved_payment_method_options setup_intent shipping_address_collection shipping_cost submit_type "
            "subscription"
        ),
    }


def _total(items: list[JsonObject]) -> tuple[int, str]:
    total, currencies = 0, set()
    for place, item in enumerate(items):
        price = item.get("price_data")
        if price is None:
            raise StripeRefusal("This fake has inline prices only", param=f"line_items[{place}][price_data]")
        if "product_data" not in price and "product" not in price:
            raise required(f"line_items[{place}][price_data][product_data]")
        if "unit_amount" not in price:
            raise required(f"line_items[{place}][price_data][unit_amount]")
        total += price["unit_amount"] * item.get("quantity", 1)
        currencies.add(price["currency"].lower())
    if len(currencies) != 1:
        raise StripeRefusal("All line items must have the same currency.", param="line_items")
    currency = currencies.pop()
    if total < 50:
        raise StripeRefusal(
            "The Checkout Session's total amount due must add up to at least $0.50 usd", code="amount_too_small"
        )
    return total, currency


def retrieve(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/checkout/sessions/{id}."""
    return fake.get(NOUN, call.ids["id"], account=call.account)


def list_sessions(fake: Fake, call: Call) -> JsonObject:
    """GET /v1/checkout/sessions."""
    rows = matching(fake.all(NOUN, call.account), call, "payment_intent", "status", "customer")
    return page(call, "/v1/checkout/sessions", rows)


def expire(fake: Fake, call: Call) -> JsonObject:
    """POST /v1/checkout/sessions/{id}/expire."""
    return finish(fake, retrieve(fake, call), "expired")


def expire_due(fake: Fake) -> None:
    """Expire open sessions whose time is over by the clock."""
    for session in fake.all(NOUN):
        if session["status"] == "open" and session["expires_at"] <= fake.now():
            finish(fake, session, "expired")


def finish(fake: Fake, session: JsonObject, outcome: str, decline_code: str = "card_declined") -> JsonObject:
    """What the buyer or the bank did, one of OUTCOMES; StripeRefusal when the session is not waiting for that."""
    intent = fake.state.objects.get(session["payment_intent"] or "")
    waiting = session["status"] == "complete" and session["payment_status"] == "unpaid" and intent is not None
    if outcome not in OUTCOMES:
        raise StripeRefusal(f"Unknown outcome {outcome}: one of {', '.join(OUTCOMES)}", param="outcome")
    if outcome.startswith("async_") != waiting or (not waiting and session["status"] != "open"):
        raise StripeRefusal(
            f"This Checkout Session is {session['status']} and {session['payment_status']}: it cannot become {outcome}."
        )
    if outcome == "expired":
        session.update(status="expired", url=None)
        emit(fake, "checkout.session.expired", session)
        return session
    if intent is None:
        intent = _intent(fake, session)
    _settle(fake, session, intent, outcome, decline_code)
    return session


def _settle(fake: Fake, session: JsonObject, intent: JsonObject, outcome: str, decline_code: str) -> None:
    if outcome == "declined":
        payments.decline(fake, intent, decline_code)  # the session stays open for another card
        fake.hidden(session["id"])["declined_intent"] = intent["id"]
        return
    session.update(payment_intent=intent["id"], status="complete", url=None)
    email = session["customer_email"] or "buyer@example.com"
    session["customer_details"] = {**nulls("address name phone"), "email": email, "tax_exempt": "none", "tax_ids": []}
    if outcome == "async":
        intent["status"] = "processing"
        emit(fake, "payment_intent.processing", intent)
        emit(fake, "checkout.session.completed", session)
    elif outcome == "async_failed":
        payments.decline(fake, intent, decline_code)
        emit(fake, "checkout.session.async_payment_failed", session)
    else:
        payments.succeed(fake, intent)
        session["payment_status"] = "paid"
        word = "completed" if outcome == "paid" else "async_payment_succeeded"
        emit(fake, f"checkout.session.{word}", session)


def _intent(fake: Fake, session: JsonObject) -> JsonObject:
    hidden = fake.hidden(session["id"])
    if "declined_intent" in hidden:  # a second try pays the same PaymentIntent
        return fake.state.objects[hidden["declined_intent"]]
    extra = hidden["intent"]
    return payments.new_intent(
        fake,
        amount=session["amount_total"],
        currency=session["currency"],
        metadata=extra.get("metadata") or {},
        extra=extra,
    )
