"""The only door to Stripe: StripeClient in, plain frozen values and our own errors out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import stripe
from stripe.params import TransferCreateParams

from billing.errors import InvalidInput
from billing.gateway import (
    Checkout,
    ConnectedAccount,
    Endpoint,
    Event,
    GatewayOutage,
    GatewayRefusal,
    SentTransfer,
    TransferParams,
)
from billing.money import CURRENCY

API_VERSION = "2026-10-28.endive"
TIMEOUT_SECONDS = 20
RETRIES = 2

stripe.enable_telemetry = False


class StripeGateway:
    """Speaks to Stripe, or to whatever speaks like it at ``api_base``."""

    def __init__(
        self,
        api_key: str,
        *,
        api_base: str = "",
        webhook_secret: str,
        connect_webhook_secret: str,
        capabilities: tuple[str, ...] = ("transfers",),
        timeout_seconds: int = TIMEOUT_SECONDS,
    ) -> None:
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base} if api_base else {},
            stripe_version=API_VERSION,
            max_network_retries=RETRIES,
            http_client=stripe.RequestsClient(timeout=timeout_seconds),
        )
        self._secrets: dict[Endpoint, str] = {"platform": webhook_secret, "connect": connect_webhook_secret}
        self._capabilities = capabilities

    def create_checkout(
        self, *, topup_id: str, buyer_id: str, amount_cents: int, success_url: str, cancel_url: str
    ) -> Checkout:
        """Open a Checkout Session; the same ``topup_id`` always gives the same one."""
        metadata = {"spare_topup_id": topup_id}
        price = {"currency": CURRENCY, "unit_amount": amount_cents, "product_data": {"name": "Spare credit"}}
        params = {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "client_reference_id": buyer_id,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        with _translated():
            return _checkout(
                self._client.v1.checkout.sessions.create(
                    params=cast(Any, params), options={"idempotency_key": topup_id}
                )
            )

    def checkout(self, checkout_id: str) -> Checkout:
        """Fetch a Checkout Session."""
        with _translated():
            return _checkout(self._client.v1.checkout.sessions.retrieve(checkout_id))

    def create_account(self, *, provider_id: str, email: str, country: str) -> ConnectedAccount:
        """Open an Express account, made with controller properties, that can receive transfers."""
        params = {
            "country": country,
            "email": email,
            "controller": {
                "fees": {"payer": "application"},
                "losses": {"payments": "application"},
                "requirement_collection": "stripe",
                "stripe_dashboard": {"type": "express"},
            },
            "capabilities": {name: {"requested": True} for name in self._capabilities},
            "metadata": {"spare_provider_id": provider_id},
        }
        with _translated():
            # No idempotency key across calls: a provider may correct its email, and only the account stored first is
            # used. The SDK makes one up for its own retries.
            return _account(self._client.v1.accounts.create(params=cast(Any, params)))

    def account(self, account_id: str) -> ConnectedAccount:
        """Fetch a connected account."""
        with _translated():
            return _account(self._client.v1.accounts.retrieve(account_id))

    def account_link(self, *, account_id: str, return_url: str, refresh_url: str) -> str:
        """Return the URL, good for one use, where a provider gives its details."""
        with _translated():
            link = self._client.v1.account_links.create(
                params={
                    "account": account_id,
                    "type": "account_onboarding",
                    "return_url": return_url,
                    "refresh_url": refresh_url,
                }
            )
            return link.url

    def create_transfer(self, params: TransferParams, *, key: str) -> SentTransfer:
        """Send money under an idempotency key, in one attempt: the outbox must know of each attempt it makes."""
        with _translated():
            return _transfer(
                self._client.v1.transfers.create(
                    params=cast(TransferCreateParams, dict(params)),
                    options={"idempotency_key": key, "max_network_retries": 0},
                )
            )

    def transfers(self, *, group: str) -> list[SentTransfer]:
        """Return every transfer of a transfer group."""
        with _translated():
            found = self._client.v1.transfers.list(params={"transfer_group": group, "limit": 100})
            return [_transfer(transfer) for transfer in found.auto_paging_iter()]

    def open_event(self, *, payload: bytes, signature: str, endpoint: Endpoint) -> Event:
        """Check a webhook's signature and age; InvalidInput when it is not Stripe's for that endpoint."""
        secret = self._secrets.get(endpoint)
        if not secret:
            raise InvalidInput(f"no webhook secret is set for the endpoint {endpoint!r}")
        try:
            self._client.construct_event(payload, signature, secret)
            event = json.loads(payload)
            return Event(
                id=str(event["id"]),
                type=str(event["type"]),
                object_id=str(event["data"]["object"].get("id", "")),
                account_id=str(event.get("account") or ""),
            )
        except (stripe.SignatureVerificationError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                "this webhook was not signed by Stripe for this endpoint", hint="check the webhook secret"
            ) from error


@contextmanager
def _translated() -> Iterator[None]:
    """Turn Stripe's errors into ours, keeping what they say about whether the request was carried out."""
    try:
        yield
    except stripe.APIConnectionError as error:
        raise GatewayOutage(f"no answer from Stripe: {error.user_message or error}", doubt="lost") from error
    except stripe.StripeError as error:
        status, message = error.http_status or 0, str(error.user_message or error)
        if isinstance(error, stripe.RateLimitError) or status in (401, 403, 429):
            raise GatewayOutage(f"Stripe did not accept the request: {message}", doubt="none") from error
        # 409: another request with this key is under way. An answer without a status could not be read.
        if status in (0, 409) or 200 <= status < 400:
            raise GatewayOutage(f"Stripe has not finished the request: {message}", doubt="lost") from error
        if status >= 500 or isinstance(error, stripe.IdempotencyError):
            raise GatewayOutage(f"Stripe failed: {message}", doubt="failed") from error
        raise GatewayRefusal(message, code=str(error.code or ""), status=status) from error


def _checkout(session: stripe.checkout.Session) -> Checkout:
    metadata = session.metadata.to_dict() if session.metadata else {}
    return Checkout(
        id=session.id,
        url=session.url or "",
        status=session.status or "",
        paid=session.payment_status == "paid",
        topup_id=str(metadata.get("spare_topup_id", "")),
        amount_cents=session.amount_total or 0,
        currency=session.currency or "",
    )


def _account(account: stripe.Account) -> ConnectedAccount:
    requirements, capabilities = account.requirements, account.capabilities
    transfers = getattr(capabilities, "transfers", None) if capabilities else None
    reasons = []
    if requirements and requirements.disabled_reason:
        reasons.append(f"Stripe says {requirements.disabled_reason}")
    if transfers != "active":
        reasons.append(f"its transfers capability is {transfers or 'not requested'}")
    if not account.payouts_enabled:
        reasons.append("its payouts are not enabled")
    due = [str(item) for item in (requirements.currently_due or [])] if requirements and reasons else []
    if due:
        reasons.append("Stripe still needs " + ", ".join(due))
    return ConnectedAccount(id=account.id, country=account.country or "", not_payable="; ".join(reasons))


def _transfer(transfer: stripe.Transfer) -> SentTransfer:
    return SentTransfer(
        id=transfer.id,
        destination=_id_of(transfer.destination),
        amount_cents=transfer.amount,
        currency=transfer.currency,
        group=transfer.transfer_group or "",
        reversed=transfer.reversed,
        destination_payment_id=_id_of(transfer.destination_payment),
        metadata=dict(transfer.metadata.to_dict()) if transfer.metadata else {},
    )


def _id_of(link: object) -> str:
    """Return the id of what Stripe gives either as an id or as the object itself."""
    return link if isinstance(link, str) else str(getattr(link, "id", ""))
