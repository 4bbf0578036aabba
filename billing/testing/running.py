"""The fake running beside a test: on a free port of loopback, with an inbox where its webhooks arrive."""

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import stripe
import uvicorn
from fastapi import FastAPI

from billing.testing.state import FakeConfig
from billing.testing.stripe_fake import create_app
from billing.testing.values import FakeBroken, JsonObject

WAIT_SECONDS = 10


@dataclass(frozen=True)
class Letter:
    """One webhook as it arrived."""

    path: str
    signature: str
    payload: bytes


@dataclass
class Inbox:
    """An endpoint that keeps what it is sent, and answers 500 to the next ``refuse`` letters."""

    url: str
    letters: "queue.Queue[Letter]" = field(default_factory=queue.Queue)
    refuse: int = 0

    def next(self) -> Letter:
        """The next letter; queue.Empty when none comes in time."""
        return self.letters.get(timeout=WAIT_SECONDS)


@dataclass(frozen=True)
class RunningFake:
    """A fake that answers at ``url``."""

    url: str
    app: FastAPI

    def client(self, *, retries: int = 0, timeout_seconds: int = 10) -> stripe.StripeClient:
        """The SDK's client, pointed at this fake."""
        return stripe.StripeClient(
            "sk_test_fake",
            base_addresses={"api": self.url},
            max_network_retries=retries,
            http_client=stripe.RequestsClient(timeout=timeout_seconds),
        )

    def control(self, endpoint: str, **body: object) -> Any:
        """Call a control endpoint; httpx.HTTPStatusError when it refuses."""
        answer = httpx.post(f"{self.url}/_control/{endpoint}", json=body, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def snapshot(self) -> JsonObject:
        """All that the fake knows, see /_control/snapshot."""
        found: JsonObject = httpx.get(f"{self.url}/_control/snapshot", trust_env=False).json()
        return found


@contextmanager
def running_inbox() -> Iterator[Inbox]:
    """An inbox on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = self.rfile.read(int(self.headers["Content-Length"]))
            refused = inbox.refuse > 0
            inbox.refuse -= refused
            self.send_response(500 if refused else 200)
            self.end_headers()
            inbox.letters.put(Letter(self.path, self.headers["Stripe-Signature"], payload))

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    inbox = Inbox(f"http://127.0.0.1:{server.server_port}")

    def serve() -> None:
        server.serve_forever()
        server.server_close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield inbox
    finally:  # shutdown waits for up to half a second, which no test needs to see
        threading.Thread(target=server.shutdown).start()


@contextmanager
def running_fake(config: FakeConfig | None = None) -> Iterator[RunningFake]:
    """A fake in a thread of this process; FakeBroken at the end if it ever broke Stripe's description."""
    app = create_app(config)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield RunningFake(f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(timeout=WAIT_SECONDS)
    if app.state.fake.state.breaches:
        raise FakeBroken("; ".join(app.state.fake.state.breaches))
