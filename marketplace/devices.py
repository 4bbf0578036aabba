"""A provider's machines: invitations, enrolment, and who is here now."""

import base64
import hashlib
import json
import secrets
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Limit
from sqlalchemy import BigInteger
from sqlmodel import Field, Session, SQLModel, select

from billing.ids import new_id
from marketplace import accounts, offers
from marketplace.database import UTC_TIME
from marketplace.device_classes import Hardware, name_class
from marketplace.errors import Forbidden, InvalidInput, NotFound, Unauthenticated, VersionMismatch

INVITE_DAYS = 7
LINK_CONTEXT = "spare-link:"


class Invite(SQLModel, table=True):
    """A one-time token by which a device enrols under its provider; only its hash is kept."""

    __tablename__ = "invite"

    hash: str = Field(primary_key=True)
    account_id: str = Field(foreign_key="account.id")
    expires_at: datetime = Field(sa_type=UTC_TIME)
    uses_left: int


class Device(SQLModel, table=True):
    """A provider's machine, known by its public key."""

    __tablename__ = "device"

    id: str = Field(primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    public_key: str = Field(unique=True)
    name: str
    cpus: int
    memory_bytes: int = Field(sa_type=BigInteger)
    gpus: int
    gpu_memory_bytes: int = Field(sa_type=BigInteger)
    region: str
    device_class: str = Field(index=True)
    score_millis: int
    """Thousandths of the reference device's speed: 1000 is one compute-second a second."""
    python_version: str
    ray_version: str
    last_seen_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    left_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    """Set while the device is leaving: it takes no new lease."""
    created_at: datetime = Field(sa_type=UTC_TIME)


class Facts(BaseModel):
    """What a device says of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cpus: int = Limit(ge=1, le=1024)
    memory_bytes: int = Limit(ge=1, le=2**50)
    gpus: int = Limit(ge=0, le=64)
    gpu_memory_bytes: int = Limit(ge=0, le=2**45)
    system: str = Limit(max_length=40)
    python: str = Limit(max_length=40)
    ray: str = Limit(max_length=40)


class Enrolment(BaseModel):
    """A device's request to join the market, signed with its own key."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str = Limit(default="", max_length=200)
    public_key: str = Limit(max_length=64)
    name: str = Limit(min_length=1, max_length=80)
    facts: Facts
    region: str = Limit(max_length=8)
    score_millis: int = Limit(ge=1, le=1_000_000)
    reserve_micros_per_hour: int = Limit(ge=0, le=1_000_000_000)
    signature: str = Limit(max_length=120)

    def signed_bytes(self) -> bytes:
        """Return what the signature covers: the body without it, as canonical JSON."""
        body: dict[str, Any] = self.model_dump(exclude={"signature"})
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def create_invite(session: Session, *, account_id: str, at: datetime, uses: int = 1) -> str:
    """Add an invitation and return its token; this is the only time that it can be seen."""
    if not 1 <= uses <= 1000:
        raise InvalidInput("an invitation serves 1 to 1000 devices")
    token = f"join_{secrets.token_urlsafe(24)}"
    expires_at = at + timedelta(days=INVITE_DAYS)
    session.add(Invite(hash=_hash(token), account_id=account_id, expires_at=expires_at, uses_left=uses))
    session.flush()
    return token


def enrol(session: Session, request: Enrolment, *, versions: tuple[str, str], price_max: int, at: datetime) -> Device:
    """Enrol a device, or update one that is known by its key; placing its ask in the same step.

    ``versions`` are the market's (Python, Ray): they must match for a node to join a cluster, Python to the minor.
    Raises Unauthenticated for a bad signature or token, VersionMismatch, InvalidInput.
    """
    if not verify(request.public_key, request.signed_bytes(), request.signature):
        raise Unauthenticated("the enrolment is not signed with its own key")
    if base64.b64encode(base64.b64decode(request.public_key)).decode() != request.public_key:
        # Other spellings of one key would be other devices.
        raise InvalidInput("the public key is not canonical base64", hint="encode its 32 bytes as RFC 4648 says")
    _check_versions(request.facts, versions)
    device = session.exec(select(Device).where(Device.public_key == request.public_key).with_for_update()).first()
    if device is None:
        account_id = _use_invite(session, request.token, at)
        device = Device(id=new_id("dev"), account_id=account_id, public_key=request.public_key, created_at=at)  # type: ignore[call-arg]
    hardware = Hardware(
        request.facts.cpus, request.facts.memory_bytes, request.facts.gpus, request.facts.gpu_memory_bytes
    )
    vetted = accounts.account(session, device.account_id).vetted
    device.name = request.name
    device.cpus, device.memory_bytes = hardware.cpus, hardware.memory_bytes
    device.gpus, device.gpu_memory_bytes = hardware.gpus, hardware.gpu_memory_bytes
    device.region = request.region
    device.device_class = name_class(hardware, region=request.region, trust="vetted" if vetted else "open")
    device.score_millis = request.score_millis
    device.python_version, device.ray_version = request.facts.python, request.facts.ray
    device.left_at = None
    session.add(device)
    session.flush()
    offers.place(
        session,
        device_id=device.id,
        account_id=device.account_id,
        reserve_micros_per_hour=request.reserve_micros_per_hour,
        price_max=price_max,
        at=at,
    )
    return device


def verify(public_key: str, message: bytes, signature: str) -> bool:
    """Return whether ``signature`` (base64) over ``message`` is by ``public_key`` (base64, raw Ed25519)."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(signature, validate=True), message)
    except (ValueError, InvalidSignature):
        return False
    return True


def device(session: Session, device_id: str, *, account_id: str | None = None) -> Device:
    """Return a device (of that account). Raises NotFound, also for somebody else's."""
    found = session.get(Device, device_id)
    if found is None or (account_id is not None and found.account_id != account_id):
        raise NotFound(f"no device {device_id[:40]!r}")
    return found


def seen(session: Session, device_id: str, *, at: datetime) -> None:
    """Note that a device has spoken."""
    found = device(session, device_id)
    found.last_seen_at = at
    session.add(found)


def leaving(session: Session, device_id: str, *, at: datetime) -> None:
    """Note that a device takes no more leases."""
    found = device(session, device_id)
    found.left_at = at
    session.add(found)


def _check_versions(facts: Facts, versions: tuple[str, str]) -> None:
    python, ray = versions
    if facts.ray != ray:
        raise VersionMismatch(
            f"this market runs Ray {ray}, the device has {facts.ray}", hint=f"pip install 'ray[default]=={ray}'"
        )
    minor = ".".join(python.split(".")[:2])
    if ".".join(facts.python.split(".")[:2]) != minor:
        raise VersionMismatch(
            f"this market runs Python {minor}, the device has {facts.python}", hint=f"use Python {minor}"
        )


def _use_invite(session: Session, token: str, at: datetime) -> str:
    invite = session.exec(select(Invite).where(Invite.hash == _hash(token)).with_for_update()).first()
    if invite is None:
        raise Unauthenticated("this invitation is not known", hint="ask for a new one: spare invite")
    if invite.expires_at < at or invite.uses_left < 1:
        raise Forbidden("this invitation was used or has expired", hint="ask for a new one: spare invite")
    invite.uses_left -= 1
    session.add(invite)
    return invite.account_id


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def promote(session: Session, account_id: str) -> None:
    """Move the devices of an account that was just vetted to the vetted tier; running leases keep their class."""
    for found in session.exec(select(Device).where(Device.account_id == account_id)):
        kind, region, _ = found.device_class.split(".")
        found.device_class = f"{kind}.{region}.vetted"
        session.add(found)
