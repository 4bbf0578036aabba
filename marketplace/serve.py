"""Wire one market together from its settings, and serve it or do its background work."""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn
from prometheus_client import start_http_server
from sqlalchemy import Engine

from billing.stripe_gateway import StripeGateway
from marketplace import accounts, database, migrate
from marketplace.api.app import create_app
from marketplace.background import Background
from marketplace.context import Context, secret_under
from marketplace.settings import Settings
from ray_cluster import detached

FAKE = "stripe-fake"


@contextmanager
def market(settings: Settings) -> Iterator[tuple[Context, Engine]]:
    """Start what a market stands on: the database with its newest schema, Stripe or its fake, the secret."""
    _log_plainly()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = settings.database_url or database.start_embedded(settings.home)
    engine = database.engine_for(url)
    migrate.upgrade(engine)
    secret = settings.secret_key.get_secret_value() or secret_under(settings.home, "secret.key")
    settings = with_stripe(settings, secret)
    gateway = StripeGateway(
        settings.stripe_api_key.get_secret_value(),
        api_base=settings.stripe_api_base,
        webhook_secret=settings.stripe_webhook_secret.get_secret_value(),
        connect_webhook_secret=settings.stripe_connect_webhook_secret.get_secret_value(),
    )
    # uvicorn raises its signal again once it has ended; as an exit, what was started here is still stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield Context(settings, database.sessions_for(engine), gateway, secret.encode()), engine
    finally:
        engine.dispose()


def serve(settings: Settings, *, background: bool) -> None:
    """Serve until stopped; with ``background``, that work runs in this process too. The Stripe fake ends with it."""
    with market(settings) as (context, engine):
        work = Background(context, engine) if background else None
        if context.settings.stripe_api_base:
            structlog.get_logger().warning("payments go to the Stripe fake", at=context.settings.stripe_api_base)
        # Devices keep their channel for days; a big job's package can be large: no limit on either by time.
        try:
            uvicorn.run(
                create_app(context, background=work),
                host=settings.host,
                port=settings.port,
                log_level="warning",
                ws_max_size=1 << 20,
                timeout_graceful_shutdown=5,
            )
        finally:
            stop_fake(settings.home)


def background_only(settings: Settings) -> None:
    """Do the background work of a market that others serve."""
    with market(settings) as (context, engine):
        if settings.metrics_port:
            start_http_server(settings.metrics_port, addr="127.0.0.1")
        work = Background(context, engine)
        work.start()
        try:
            signal.pause()
        finally:
            work.stop()


def with_stripe(settings: Settings, secret: str) -> Settings:
    """Return settings that name a Stripe: the real one when there is a key, else a fake started on loopback."""
    if settings.stripe_api_key.get_secret_value():
        return settings
    port = _fake_port(settings.home)
    # The fake's arguments are in the process list: keys of its own, from which nothing of the market's follows.
    platform_key, connect_key = (
        f"whsec_{accounts.derived_secret(secret.encode(), f'stripe-fake:{endpoint}')[:24]}"
        for endpoint in ("platform", "connect")
    )
    detached.start(
        settings.home,
        FAKE,
        [
            *(sys.executable, "-m", "billing.testing.stripe_fake", "--port", str(port)),
            *("--webhook-url", f"{settings.url}/v1/stripe/webhooks/platform"),
            *("--connect-webhook-url", f"{settings.url}/v1/stripe/webhooks/connect"),
            *("--webhook-secret", platform_key),
            *("--connect-webhook-secret", connect_key),
            *("--state", str(settings.home / "stripe-fake.json")),
        ],
        {"PATH": "/usr/bin:/bin"},
    )
    return settings.model_copy(
        update={
            "stripe_api_key": type(settings.stripe_api_key)("sk_test_fake"),
            "stripe_api_base": f"http://127.0.0.1:{port}",
            "stripe_webhook_secret": type(settings.stripe_api_key)(platform_key),
            "stripe_connect_webhook_secret": type(settings.stripe_api_key)(connect_key),
        }
    )


def stop_fake(home: Path) -> None:
    """End the Stripe fake of this home, if one runs."""
    detached.stop(home, FAKE)


def _log_plainly() -> None:
    """Log to stderr, for people in a terminal and as JSON lines elsewhere.

    Tracebacks come without the values of variables, as structlog would write by default: those hold keys.
    """
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _fake_port(home: Path) -> int:
    """Return the fake's port: the one it had before, or a free one."""
    path = home / "stripe-fake.port"
    if not path.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            path.write_text(str(probe.getsockname()[1]))
    return int(path.read_text())
