"""What billing asks of a payment service, as plain values; ``stripe_gateway.py`` answers it through Stripe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from billing.errors import Outage, Refusal

TransferParams = Mapping[str, Any]
"""The parameters of one transfer to a connected account, exactly as they are sent."""

Endpoint = Literal["platform", "connect"]


class GatewayOutage(Outage):
    """The payment service did not do it, or did not say so; ``doubt`` tells what may be true.

    ``none``: it did not act (it asked to slow down, or refused our API key). ``lost``: no answer, so ask again with the
    same idempotency key. ``failed``: it answered with a fault, and would repeat it for this key: look what is there.
    """

    def __init__(self, message: str, *, doubt: Literal["none", "lost", "failed"]) -> None:
        super().__init__(message, hint="nothing to do: it is tried again")
        self.doubt = doubt


class GatewayRefusal(Refusal):
    """The payment service says that the request cannot be carried out; its words are in the message."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message, hint="change what the message names, then try again")
        self.code = code
        self.status_received = status


@dataclass(frozen=True)
class Checkout:
    """A Checkout Session: a buyer's payment in ``amount_cents`` of ``currency``."""

    id: str
    url: str
    status: str
    paid: bool
    topup_id: str
    amount_cents: int
    currency: str


@dataclass(frozen=True)
class ConnectedAccount:
    """A provider's account at the payment service, and why it cannot be paid (empty: it can)."""

    id: str
    country: str
    not_payable: str


@dataclass(frozen=True)
class SentTransfer:
    """Money sent from the platform to a connected account."""

    id: str
    destination: str
    amount_cents: int
    currency: str
    group: str
    reversed: bool
    destination_payment_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """A webhook event whose signature was checked; ``account_id`` is empty for the platform's own."""

    id: str
    type: str
    object_id: str
    account_id: str


class Gateway(Protocol):
    """The calls. Each may raise GatewayOutage or GatewayRefusal."""

    def create_checkout(
        self, *, topup_id: str, buyer_id: str, amount_cents: int, success_url: str, cancel_url: str
    ) -> Checkout:
        """Open a Checkout Session; the same ``topup_id`` always gives the same one."""

    def checkout(self, checkout_id: str) -> Checkout:
        """Fetch a Checkout Session."""

    def create_account(self, *, provider_id: str, email: str, country: str) -> ConnectedAccount:
        """Open a connected account that can receive transfers."""

    def account(self, account_id: str) -> ConnectedAccount:
        """Fetch a connected account."""

    def account_link(self, *, account_id: str, return_url: str, refresh_url: str) -> str:
        """Return the URL, good for one use, where a provider gives its details."""

    def create_transfer(self, params: TransferParams, *, key: str) -> SentTransfer:
        """Send money, in one attempt, under an idempotency key."""

    def transfers(self, *, group: str) -> list[SentTransfer]:
        """Return every transfer of a transfer group."""

    def open_event(self, *, payload: bytes, signature: str, endpoint: Endpoint) -> Event:
        """Check a webhook's signature; InvalidInput when it is not the payment service's."""
