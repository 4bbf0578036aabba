"""What anybody may know: the fee, the classes on offer, the last prices; health and metrics."""

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import col, func, select

from billing.ids import now_utc
from marketplace.api.doors import InContext, InSession
from marketplace.device_classes import kinds
from marketplace.devices import Device
from marketplace.exchange import Tick

router = APIRouter(tags=["market"])


class MarketView(BaseModel):
    """The market's public rules and what it sees now."""

    fee_bps: int
    tick_seconds: float
    lease_ms_max: int
    price_micros_per_hour_max: int
    python: str
    ray: str
    kinds: list[str]
    devices_present: dict[str, int]
    """Devices heard from lately and not leaving, by class."""
    last_tick: int | None
    last_classes: list[dict[str, Any]]


@router.get("/v1/market")
def market(session: InSession, context: InContext) -> MarketView:
    """Say the rules, who is here, and the last clearing."""
    tick = session.exec(select(Tick).order_by(col(Tick.number).desc()).limit(1)).first()
    python, ray = context.versions
    heard_since = now_utc() - timedelta(milliseconds=context.settings.device_silence_ms_max)
    present = session.exec(
        select(Device.device_class, func.count())
        .where(col(Device.left_at).is_(None), col(Device.last_seen_at) >= heard_since)
        .group_by(Device.device_class)
    )
    return MarketView(
        fee_bps=context.settings.fee_bps,
        tick_seconds=context.settings.tick_seconds,
        lease_ms_max=context.settings.lease_ms_max,
        price_micros_per_hour_max=context.settings.price_micros_per_hour_max,
        python=python,
        ray=ray,
        kinds=list(kinds()),
        devices_present=dict(present.all()),
        last_tick=tick.number if tick else None,
        last_classes=tick.record["classes"] if tick else [],
    )


@router.get("/v1/health")
def health(session: InSession) -> dict[str, str]:
    """Say that the server and its database answer."""
    session.connection().execute(text("SELECT 1"))
    return {"status": "ok"}


@router.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """Return Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
