"""The devices' channel: one outbound WebSocket each, on which the market says what should run and hears what does."""

import asyncio
import json
import secrets
from contextlib import suppress
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from prometheus_client import Gauge
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from billing.ids import now_utc
from marketplace import devices, leases, offers
from marketplace.context import Context
from marketplace.database import transaction
from marketplace.errors import SpareError, Unauthenticated

log = structlog.get_logger()
router = APIRouter()
HEARTBEAT_MS = 3_000
POLL_SECONDS = 2.0
"""The longest until a device hears of a change; a wake-up makes it at once."""
FRAME_BYTES_MAX = 64_000
CLOSE_REFUSED = 4401
connected = Gauge("spare_devices_connected", "Devices connected to this server")


class _Frame(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Hello(_Frame):
    """The device's answer to the challenge."""

    type: Literal["hello"]
    device_id: str = Field(max_length=60)
    signature: str = Field(max_length=120)


class NodeState(_Frame):
    """What a device says of one node."""

    node_id: str = Field(max_length=60)
    lease_id: str = Field(max_length=60)
    phase: Literal["starting", "running", "stopped", "failed"]
    claimed_ms: int = Field(ge=0, le=2**45)
    detail: str = Field(default="", max_length=500)


class StateFrame(_Frame):
    """A heartbeat."""

    type: Literal["state"]
    nodes: list[NodeState] = Field(max_length=64)
    at_ms: int = Field(ge=0, le=2**50)


class Leaving(_Frame):
    """The device takes no more leases."""

    type: Literal["leaving"]


class Price(_Frame):
    """The device asks another price."""

    type: Literal["price"]
    reserve_micros_per_hour: int


Frame = TypeAdapter[StateFrame | Leaving | Price](Annotated[StateFrame | Leaving | Price, Field(discriminator="type")])


class Hub:
    """The devices connected to this server, each with the frame it was last sent."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sockets: dict[str, WebSocket] = {}
        self._sent: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()

    def start(self) -> None:
        """Begin to tell devices what changes."""
        self._task = asyncio.create_task(self._tell())

    def wake(self) -> None:
        """Look at once, in the thread of the server's loop."""
        self._woken.set()

    async def stop(self) -> None:
        """End; devices reconnect to whoever serves next."""
        if self._task:
            self._task.cancel()
        for socket in list(self._sockets.values()):
            await _close(socket, 1012, "the market restarts")

    async def add(self, device_id: str, socket: WebSocket) -> None:
        """Take a device in; an older connection of the same device is closed."""
        old = self._sockets.get(device_id)
        self._sockets[device_id] = socket
        self._sent.pop(device_id, None)
        self.wake()
        connected.set(len(self._sockets))
        if old is not None:
            await _close(old, CLOSE_REFUSED, "the device connected again")

    def remove(self, device_id: str, socket: WebSocket) -> None:
        """Forget a connection, unless a newer one took its place."""
        if self._sockets.get(device_id) is socket:
            del self._sockets[device_id]
            self._sent.pop(device_id, None)
        connected.set(len(self._sockets))

    async def _tell(self) -> None:
        while True:
            try:
                wanted = await run_in_threadpool(self._orders, list(self._sockets))
                for device_id, orders in wanted.items():
                    await self._send(device_id, orders)
            except Exception:
                log.exception("devices could not be told")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)
            self._woken.clear()

    def _orders(self, device_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
        if not device_ids:
            return {}
        with self._context.sessions() as session:
            found = leases.orders(session, device_ids)
        for orders in found.values():
            for order in orders:
                order["ray_token"] = self._context.ray_token(order["cluster_id"])
                order["node_ip"] = self._context.settings.node_ip
        return found

    async def _send(self, device_id: str, orders: list[dict[str, Any]]) -> None:
        frame = json.dumps({"type": "leases", "leases": orders}, sort_keys=True)
        socket = self._sockets.get(device_id)
        if socket is not None and self._sent.get(device_id) != frame:
            try:
                await asyncio.wait_for(socket.send_text(frame), timeout=5)
                self._sent[device_id] = frame
            except (RuntimeError, WebSocketDisconnect, TimeoutError):
                self.remove(device_id, socket)


@router.websocket("/v1/devices/link")
async def link(socket: WebSocket) -> None:
    """Serve one device until it goes."""
    context: Context = socket.app.state.context
    hub: Hub = socket.app.state.hub
    await socket.accept()
    device_id = await _greet(context, socket)
    if device_id is None:
        return
    await run_in_threadpool(_seen, context, device_id, True)
    await hub.add(device_id, socket)
    try:
        while True:
            await _hear(context, device_id, socket, await socket.receive_text())
    except (WebSocketDisconnect, RuntimeError, KeyError):
        pass
    finally:
        hub.remove(device_id, socket)


async def _greet(context: Context, socket: WebSocket) -> str | None:
    """Let a device prove its key; return its id, or None after closing."""
    nonce = secrets.token_urlsafe(32)
    await socket.send_json({"type": "challenge", "nonce": nonce})
    try:
        text = await asyncio.wait_for(socket.receive_text(), timeout=10)
        hello = Hello.model_validate_json(text[:FRAME_BYTES_MAX])
        await run_in_threadpool(_check, context, hello, nonce)
    except (ValidationError, SpareError, TimeoutError, KeyError) as problem:
        reason = problem.message if isinstance(problem, SpareError) else "no proper hello"
        await _close(socket, CLOSE_REFUSED, reason)
        return None
    except WebSocketDisconnect:
        return None
    await socket.send_json({"type": "welcome", "device_id": hello.device_id, "heartbeat_ms": HEARTBEAT_MS})
    return hello.device_id


def _check(context: Context, hello: Hello, nonce: str) -> None:
    with context.sessions() as session:
        device = devices.device(session, hello.device_id)
        if not devices.verify(device.public_key, (devices.LINK_CONTEXT + nonce).encode(), hello.signature):
            raise Unauthenticated("the hello is not signed with the device's key")


async def _hear(context: Context, device_id: str, socket: WebSocket, text: str) -> None:
    try:
        if len(text) > FRAME_BYTES_MAX:
            raise ValueError(f"a frame has at most {FRAME_BYTES_MAX} bytes")
        frame = Frame.validate_json(text)
        await run_in_threadpool(_apply, context, device_id, frame)
    except ValidationError as problem:
        await _refuse(socket, problem.errors(include_input=False, include_url=False)[0]["msg"])
    except SpareError as problem:
        await _refuse(socket, problem.message, problem.hint)
    except ValueError as problem:
        await _refuse(socket, str(problem))


async def _refuse(socket: WebSocket, detail: str, hint: str = "") -> None:
    await socket.send_json({"type": "error", "detail": detail[:300], "hint": hint[:300]})


def _apply(context: Context, device_id: str, frame: StateFrame | Leaving | Price) -> None:
    at = now_utc()
    with transaction(context.sessions) as session:
        if isinstance(frame, Leaving):
            devices.leaving(session, device_id, at=at)
        elif isinstance(frame, Price):
            device = devices.device(session, device_id)
            offers.place(
                session,
                device_id=device_id,
                account_id=device.account_id,
                reserve_micros_per_hour=frame.reserve_micros_per_hour,
                price_max=context.settings.price_micros_per_hour_max,
                at=at,
            )
        else:
            devices.seen(session, device_id, at=at)
            for node in frame.nodes:
                leases.heard(
                    session,
                    device_id,
                    node.lease_id,
                    phase=node.phase,
                    claimed_ms=node.claimed_ms,
                    detail=node.detail,
                    at=at,
                )


def _seen(context: Context, device_id: str, back: bool) -> None:
    with transaction(context.sessions) as session:
        devices.seen(session, device_id, at=now_utc())
        if back:
            devices.device(session, device_id).left_at = None


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with suppress(RuntimeError):  # it was closed already
        await socket.close(code=code, reason=reason[:120])
