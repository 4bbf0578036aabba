"""Delivers queued events in the background: signed as Stripe signs, tried again until the endpoint answers 2xx."""

import asyncio
import hashlib
import hmac
import json
import time

import httpx

from billing.testing.state import Fake
from billing.testing.values import JsonObject

TIMEOUT_SECONDS = 10


def signature(payload: bytes, secret: str, at: int) -> str:
    """The Stripe-Signature header (scheme v1) of a payload at an epoch second.

    Source: https://docs.stripe.com/webhooks#verify-manually
    """
    digest = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Postman:
    """One loop that sends what is due, oldest first, and forgets nothing."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self._wake = asyncio.Event()
        fake.wake = self._wake.set

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            while True:
                self._wake.clear()
                waiting = [item for item in self.fake.state.deliveries if item["status"] == "waiting"]
                due = [item for item in waiting if item["due_at"] <= _real_now()]
                if due:
                    await self._attempt(client, due[0])
                    continue
                pause = min((item["due_at"] - _real_now() for item in waiting), default=None)
                try:
                    await asyncio.wait_for(self._wake.wait(), None if pause is None else max(pause, 1))
                except TimeoutError:
                    continue

    async def _attempt(self, client: httpx.AsyncClient, delivery: JsonObject) -> None:
        config = self.fake.config
        connect = delivery["endpoint"] == "connect"
        url, secret = (
            (config.connect_webhook_url, config.connect_webhook_secret)
            if connect
            else (config.webhook_url, config.webhook_secret)
        )
        event = self.fake.state.objects[delivery["event"]]
        payload = json.dumps(event, indent=2).encode()
        # Signed by the real clock: the receiver's tolerance knows nothing of ours.
        headers = {"Stripe-Signature": signature(payload, secret, _real_now()), "Content-Type": "application/json"}
        try:
            answer = str((await client.post(url, content=payload, headers=headers)).status_code)
        except httpx.HTTPError as error:
            answer = type(error).__name__
        delivery["attempts"] += 1
        delivery["answer"] = answer
        if answer.startswith("2"):
            delivery["status"] = "delivered"
            event["pending_webhooks"] = 0
        elif delivery["attempts"] > len(config.retry_seconds):
            delivery["status"] = "failed"
        else:
            delivery["due_at"] = _real_now() + config.retry_seconds[delivery["attempts"] - 1]
        self.fake.save()


def _real_now() -> int:
    return time.time_ns() // 1_000_000_000
