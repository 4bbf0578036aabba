"""Devices: invitations, enrolment, and a provider's own."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from billing.ids import now_utc
from marketplace import devices, offers
from marketplace.api.doors import InContext, InSession, Provider
from marketplace.leases import Lease

router = APIRouter(prefix="/v1", tags=["devices"])


class InviteRequest(BaseModel):
    """How many devices an invitation serves."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uses: int = Field(default=1, ge=1, le=1000)


class Invited(BaseModel):
    """A token for ``spare join``; shown this once."""

    token: str


class Enrolled(BaseModel):
    """What the market calls the device, and what it is traded as."""

    device_id: str
    device_class: str
    name: str


class DeviceView(BaseModel):
    """A device as its provider sees it."""

    device_id: str
    name: str
    device_class: str
    score_millis: int
    reserve_micros_per_hour: int
    last_seen_at: datetime | None
    leased: bool
    lost_clearings: int
    last_loss: dict[str, Any] | None


@router.post("/invites", status_code=201)
def invite(body: InviteRequest, session: InSession, caller: Provider) -> Invited:
    """Invite a device of one's own."""
    return Invited(token=devices.create_invite(session, account_id=caller.account_id, at=now_utc(), uses=body.uses))


@router.post("/devices/enrol")
def enrol(body: devices.Enrolment, session: InSession, context: InContext) -> Enrolled:
    """Enrol a device; the request is signed with the device's own key."""
    device = devices.enrol(
        session,
        body,
        versions=context.versions,
        price_max=context.settings.price_micros_per_hour_max,
        at=now_utc(),
    )
    return Enrolled(device_id=device.id, device_class=device.device_class, name=device.name)


@router.get("/devices")
def mine(session: InSession, caller: Provider) -> list[DeviceView]:
    """List one's devices, and why each lost its last clearing."""
    leased = set(session.exec(select(Lease.device_id).where(Lease.state == "open")))
    rows = session.exec(
        select(devices.Device, offers.Ask)
        .join(offers.Ask, col(offers.Ask.device_id) == col(devices.Device.id))
        .where(devices.Device.account_id == caller.account_id)
        .order_by(devices.Device.name)
    )
    return [
        DeviceView(
            device_id=device.id,
            name=device.name,
            device_class=device.device_class,
            score_millis=device.score_millis,
            reserve_micros_per_hour=ask.reserve_micros_per_hour,
            last_seen_at=device.last_seen_at,
            leased=device.id in leased,
            lost_clearings=ask.lost_clearings,
            last_loss=ask.last_loss,
        )
        for device, ask in rows
    ]
