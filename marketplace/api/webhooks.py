"""Stripe's two doors: verify, store once, answer; the background processes."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from billing import webhooks
from billing.ids import now_utc
from marketplace.api.doors import context_of
from marketplace.context import Context
from marketplace.database import transaction
from marketplace.errors import InvalidInput
from marketplace.wakeups import wake

router = APIRouter(prefix="/v1/stripe/webhooks", tags=["webhooks"])


@router.post("/{endpoint}")
async def receive(endpoint: Literal["platform", "connect"], request: Request) -> dict[str, bool]:
    """Store a signed event."""
    payload = bytearray()
    async for part in request.stream():
        payload += part
        if len(payload) > webhooks.PAYLOAD_BYTES_MAX:
            raise InvalidInput("a webhook has at most a million bytes")
    signature = request.headers.get("stripe-signature", "")
    await run_in_threadpool(_store, context_of(request), bytes(payload), signature, endpoint)
    return {"received": True}


def _store(context: Context, payload: bytes, signature: str, endpoint: Literal["platform", "connect"]) -> None:
    with transaction(context.sessions) as session:
        webhooks.receive(
            session, context.gateway, payload=payload, signature=signature, endpoint=endpoint, at=now_utc()
        )
        wake(session)
