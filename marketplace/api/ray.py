"""The pass-through: stock Ray tools reach a cluster's head with the market's key as Ray's token.

``ray job submit --address http://market/v1/clusters/<id>/ray`` keeps the path and sends the token as a bearer header.
Here the key is checked and replaced by the cluster's own token, which the buyer never needs.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import structlog
import websockets
from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from billing.ids import now_utc
from marketplace import accounts, clusters, jobs
from marketplace.api.doors import context_of
from marketplace.context import Context
from marketplace.database import transaction
from marketplace.errors import Conflict, InvalidInput, Outage, SpareError

log = structlog.get_logger()
router = APIRouter(prefix="/v1/clusters/{cluster_id}/ray", tags=["ray"])
UPLOAD_BYTES_MAX = 1 << 30
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "proxy-authorization",
    "host",
}
_OURS = {"authorization", "x-ray-authorization", "cookie"}
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]


@router.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
async def pass_through(cluster_id: str, path: str, request: Request) -> StreamingResponse:
    """Hand a request to the head's dashboard and stream the answer back."""
    context = context_of(request)
    key = request.headers.get("authorization") or request.headers.get("x-ray-authorization")
    cluster = await run_in_threadpool(_reachable, context, cluster_id, key)
    length = int(request.headers.get("content-length") or 0)
    if length > UPLOAD_BYTES_MAX:
        raise InvalidInput(f"an upload has at most {UPLOAD_BYTES_MAX} bytes", hint="put large data into object storage")
    submits = request.method == "POST" and path.strip("/") == "api/jobs"
    client: httpx.AsyncClient = request.app.state.heads
    try:
        upstream = client.build_request(
            request.method,
            f"{cluster.dashboard_url}/{path}",
            params=httpx.QueryParams(request.url.query),
            headers=_headers(request.headers.items(), context.ray_token(cluster_id)),
            content=request.stream() if request.method in ("POST", "PUT", "PATCH") else None,
        )
        answer = await client.send(upstream, stream=True)
    except httpx.InvalidURL as problem:
        raise InvalidInput(f"this path cannot be asked for: {problem}") from problem
    except httpx.HTTPError as problem:
        raise Outage(f"the cluster's head does not answer: {type(problem).__name__}", hint="try again") from problem
    if submits and answer.is_success:
        await _remember(context, cluster_id, await answer.aread())
    headers = {k: v for k, v in answer.headers.items() if k not in _HOP_BY_HOP | {"set-cookie"}}
    return StreamingResponse(_body(answer), status_code=answer.status_code, headers=headers)


@router.websocket("/{path:path}")
async def pass_websocket(cluster_id: str, path: str, socket: WebSocket) -> None:
    """Join a WebSocket (a job's log, followed) to the head's."""
    context: Context = socket.app.state.context
    key = socket.headers.get("authorization") or socket.headers.get("x-ray-authorization")
    try:
        cluster = await run_in_threadpool(_reachable, context, cluster_id, key)
    except SpareError as refusal:
        await socket.close(code=4000 + refusal.status % 1000, reason=refusal.message[:120])
        return
    url = f"ws{cluster.dashboard_url.removeprefix('http')}/{path}"
    if socket.url.query:
        url += f"?{socket.url.query}"
    token = {"Authorization": f"Bearer {context.ray_token(cluster_id)}"}
    try:
        # The dashboard passes frames on as they come; compressed ones break it.
        async with websockets.connect(
            url, additional_headers=token, max_size=None, proxy=None, compression=None
        ) as upstream:
            await socket.accept()
            tasks = [asyncio.create_task(_down(upstream, socket)), asyncio.create_task(_up(socket, upstream))]
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    except (OSError, websockets.WebSocketException) as problem:
        log.info("log stream ended", cluster=cluster_id, problem=str(problem)[:200])
    with suppress(RuntimeError):  # the buyer closed first
        await socket.close()


def _reachable(context: Context, cluster_id: str, key: str | None) -> clusters.Cluster:
    """Return the buyer's running cluster. Raises Unauthenticated, Forbidden, NotFound, Conflict."""
    with context.sessions() as session:
        caller = accounts.require(accounts.authenticate(session, key), "buyer")
        cluster = clusters.cluster(session, cluster_id, account_id=caller.account_id)
    if not cluster.dashboard_url or cluster.state == "stopped":
        raise Conflict(f"the cluster is {cluster.state}", hint=cluster.reason or "wait until it is running")
    return cluster


def _headers(given: Any, token: str) -> dict[str, str]:
    kept = {k: v for k, v in given if k.lower() not in _HOP_BY_HOP | _OURS}
    return {**kept, "Authorization": f"Bearer {token}"}


async def _remember(context: Context, cluster_id: str, body: bytes) -> None:
    """Note a submitted job, so that the receipt can name it."""
    submission_id = json.loads(body).get("submission_id", "")

    def note() -> None:
        with transaction(context.sessions) as session:
            jobs.submitted(session, cluster_id, submission_id, "", at=now_utc())
            clusters.note(session, cluster_id, "job", f"job {submission_id} submitted", at=now_utc())

    await run_in_threadpool(note)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        if answer.is_stream_consumed:
            yield answer.content
        else:
            async for part in answer.aiter_raw():
                yield part
    finally:
        await answer.aclose()


async def _down(upstream: websockets.ClientConnection, socket: WebSocket) -> None:
    async for message in upstream:
        await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))


async def _up(socket: WebSocket, upstream: websockets.ClientConnection) -> None:
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await upstream.send(message.get("text") or message.get("bytes") or b"")
    except WebSocketDisconnect:
        return
