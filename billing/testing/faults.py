"""Failures on demand: what a network or Stripe itself may do to one request, before or after the work is done."""

import asyncio
import fnmatch
import socket
import struct

from starlette.requests import Request

from billing.testing.state import Fake
from billing.testing.values import JsonObject

BEFORE = ("timeout_before", "reset_before", "rate_limit")
DURING = ("error_before", "error_after")
AFTER = ("timeout_after", "reset_after")
TIMEOUT_SECONDS = 120  # longer than any client waits


def take(fake: Fake, method: str, path: str, kinds: tuple[str, ...]) -> JsonObject | None:
    """The first planned fault of these kinds that meets this request, used up by one; None when all is well."""
    for fault in fake.state.faults:
        if fault["kind"] in kinds and fault["method"] in (method, "*") and fnmatch.fnmatchcase(path, fault["path"]):
            fault["times"] -= 1
            if fault["times"] <= 0:
                fake.state.faults.remove(fault)
            return fault
    return None


async def misbehave(request: Request, fault: JsonObject) -> None:
    """Leave the client waiting until it gives up, or cut the connection under it."""
    if fault["kind"].startswith("timeout"):
        try:
            await asyncio.wait_for(_gone(request), TIMEOUT_SECONDS)
        except TimeoutError:
            cut(request)
    else:
        cut(request)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def cut(request: Request) -> None:
    """Reset the TCP connection of a request; under uvicorn, whose receive is bound to what holds the transport."""
    transport: asyncio.Transport = request.receive.__self__.transport  # type: ignore[attr-defined]
    linger = struct.pack("ii", 1, 0)  # no lingering: closing sends RST instead of FIN
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
