"""Where status codes are decided: every error becomes an RFC 9457 problem with a hint."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from billing.errors import Refusal, SpareError

log = structlog.get_logger()
MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str, hint: str = "", **more: Any) -> JSONResponse:
    """Return a problem+json response."""
    body = {"type": f"urn:spare:{title}", "title": title, "status": status, "detail": detail, "hint": hint, **more}
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error as a problem."""

    @app.exception_handler(SpareError)
    async def ours(request: Request, error: SpareError) -> JSONResponse:
        if not isinstance(error, Refusal):
            log.error("refused by us", path=request.url.path, problem=str(error))
        return problem(error.status, type(error).__name__, error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input: it may hold a secret, and it is the caller's own anyway.
        errors = [{"where": list(e["loc"]), "what": e["msg"]} for e in error.errors()[:20]]
        first = errors[0]
        where = ".".join(str(part) for part in first["where"])
        return problem(422, "InvalidInput", f"{where}: {first['what']}", errors=jsonable_encoder(errors))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, "HTTP", str(error.detail))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("unforeseen error", path=request.url.path, exc_info=error)
        return problem(500, "InternalError", "the market failed; nothing was half-done", "try again")
