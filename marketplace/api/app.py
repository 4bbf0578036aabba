"""The server: every router on one FastAPI application, with the market's context."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import httpx
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from billing.ids import now_utc
from marketplace.api import (
    accounts,
    clusters,
    devices,
    earnings,
    finance,
    keys,
    link,
    market,
    problems,
    ray,
    wallet,
    warden,
)
from marketplace.api import webhooks as stripe_webhooks
from marketplace.background import Background
from marketplace.context import Context, ensure_operator
from marketplace.wakeups import Listener

ROUTERS = (market, accounts, keys, devices, link, clusters, ray, warden, wallet, earnings, finance, stripe_webhooks)


def create_app(context: Context, *, background: Background | None = None) -> FastAPI:
    """Return the application; with ``background``, its work runs in this process for as long as it serves."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ensure_operator(context, at=now_utc())
        loop = asyncio.get_running_loop()
        listener = Listener(context.engine, lambda: loop.call_soon_threadsafe(app.state.hub.wake))
        app.state.hub.start()
        listener.start()
        if background is not None:
            background.start()
        async with httpx.AsyncClient(timeout=httpx.Timeout(60, connect=5), trust_env=False) as heads:
            app.state.heads = heads
            yield
        await asyncio.to_thread(listener.stop)
        await app.state.hub.stop()
        if background is not None:
            await asyncio.to_thread(background.stop)

    app = FastAPIOffline(
        title="Spare",
        summary="A compute marketplace on Ray",
        version=version("spare"),
        lifespan=lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.context = context
    app.state.hub = link.Hub(context)
    problems.install(app)
    for module in ROUTERS:
        app.include_router(module.router)
    return app
