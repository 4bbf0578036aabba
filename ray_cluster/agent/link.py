"""The device's one channel: a WebSocket that it opens, proves its key on, and opens again whenever it is lost."""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ray_cluster.agent.identity import Identity
from ray_cluster.agent.node import Lease, read_leases
from ray_cluster.errors import Denied, InvalidInput, Outage

FRAME_BYTES_MAX = 1 << 20
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 5.0
REFUSED = 4401
HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX = 200, 60_000


@dataclass(frozen=True, slots=True)
class Linked:
    """The market knows this device again and wants a state frame every ``heartbeat_ms``."""

    heartbeat_ms: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The market cannot be heard; the link is being opened again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the market wants here now."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """A text for a person."""

    text: str


Event = Linked | Lost | Wanted | Notice


def backoff_s(attempt: int, chance: float) -> float:
    """PURE: return how long to wait before the attempt (0, 1, …): 0.5 s doubling to 5 s, of which half is chance."""
    whole_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * float(1 << min(attempt, 10)))
    return whole_s * (0.5 + chance / 2)


def link_url(url: str) -> str:
    """PURE: return the link's address for the market's (http → ws, https → wss)."""
    parts = urlsplit(url)
    return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}/v1/devices/link"


class Link:
    """Keeps the channel open, hands what the market says to ``heard``, and sends what this device says."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        device_id: str,
        heard: Callable[[Event], None],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._url = link_url(url)
        self._identity = identity
        self._device_id = device_id
        self._heard = heard
        self._chance = chance
        self._connection: ClientConnection | None = None

    async def run(self) -> None:
        """Keep the link until cancelled; raises Denied when the market does not accept this device."""
        attempt = 0
        while True:
            reason = "the market closed the link"
            try:
                async with connect(self._url, max_size=FRAME_BYTES_MAX, open_timeout=10, close_timeout=2) as connection:
                    heartbeat_ms = await self._prove(connection)
                    attempt = 0
                    self._connection = connection
                    self._heard(Linked(heartbeat_ms))
                    async for text in connection:
                        self._take(text)
            except ConnectionClosed as error:
                _raise_if_refused(error)
                reason = str(error)
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    raise _denied(f"HTTP {error.response.status_code}") from error
                reason = str(error)
            except (OSError, InvalidHandshake, TimeoutError, Outage) as error:
                reason = str(error) or type(error).__name__
            finally:
                self._connection = None
            self._heard(Lost(reason))
            await asyncio.sleep(backoff_s(attempt, self._chance()))
            attempt += 1

    async def send(self, frame: dict[str, object]) -> bool:
        """Send a frame; False when there is no link now (state is sent whole, so nothing needs keeping)."""
        if self._connection is None:
            return False
        try:
            await self._connection.send(json.dumps(frame))
        except ConnectionClosed:
            return False
        return True

    async def close(self) -> None:
        """Say goodbye to the market."""
        if self._connection is not None:
            with contextlib.suppress(OSError, TimeoutError):
                await self._connection.close()

    async def _prove(self, connection: ClientConnection) -> int:
        challenge = await _read(connection, "challenge")
        nonce = challenge.get("nonce")
        if not isinstance(nonce, str):
            raise Outage("the market's challenge has no nonce")
        signature = self._identity.sign(f"spare-link:{nonce}".encode())
        await connection.send(json.dumps({"type": "hello", "device_id": self._device_id, "signature": signature}))
        heartbeat_ms = (await _read(connection, "welcome")).get("heartbeat_ms")
        if isinstance(heartbeat_ms, bool) or not isinstance(heartbeat_ms, int):
            raise Outage("the market's welcome has no heartbeat_ms")
        return min(max(heartbeat_ms, HEARTBEAT_MS_MIN), HEARTBEAT_MS_MAX)

    def _take(self, text: str | bytes) -> None:
        try:
            frame = json.loads(text)
            if not isinstance(frame, dict):
                raise InvalidInput("a frame must be an object")
            if frame.get("type") == "leases":
                self._heard(Wanted(read_leases(frame)))
            elif frame.get("type") in ("notice", "error"):
                said = [str(frame[part]) for part in ("text", "detail", "hint") if frame.get(part)]
                self._heard(Notice(" → ".join(said)[:500]))
        except (ValueError, InvalidInput) as error:
            self._heard(Notice(f"the market sent something unreadable: {error}"))


async def _read(connection: ClientConnection, kind: str) -> dict[str, object]:
    async with asyncio.timeout(10):
        text = await connection.recv()
    try:
        frame = json.loads(text)
    except ValueError as error:
        raise Outage("the market's first words are unreadable") from error
    if not isinstance(frame, dict) or frame.get("type") != kind:
        raise Outage(f"the market did not say {kind}")
    return frame


def _raise_if_refused(error: ConnectionClosed) -> None:
    if error.rcvd is not None and error.rcvd.code == REFUSED:
        raise _denied(error.rcvd.reason) from error


def _denied(reason: str) -> Denied:
    return Denied(f"the market does not accept this device: {reason}", "enrol it again: spare join … --token <token>")
