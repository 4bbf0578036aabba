"""Calls to the market's API, with its problems turned into errors that say what to do."""

import os
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8440"


class MarketError(Exception):
    """The market refused or could not: ``status`` (0 when it did not answer), a message, and a hint."""

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint
        self.status = status


class Api:
    """The market's HTTP API with one key. Empty arguments mean ``SPARE_URL`` and ``SPARE_API_KEY``."""

    def __init__(self, url: str = "", key: str = "") -> None:
        self.url = (url or os.environ.get("SPARE_URL", DEFAULT_URL)).rstrip("/")
        self.key = key or os.environ.get("SPARE_API_KEY", "")
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def call(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """Call and return the JSON of the answer. Raises MarketError."""
        return self.send(method, path, body, **query).json()

    def send(self, method: str, path: str, body: object = None, **query: Any) -> httpx.Response:
        """Call and return the answer. Raises MarketError."""
        try:
            answer = self._http.request(method, path, json=body, params=query or None)
        except httpx.HTTPError as problem:
            raise MarketError(
                f"the market at {self.url} does not answer: {problem}", "is it running? set SPARE_URL"
            ) from problem
        if answer.is_error:
            raise _problem(answer)
        return answer


def _problem(answer: httpx.Response) -> MarketError:
    try:
        body = answer.json()
        return MarketError(str(body["detail"]), str(body.get("hint", "")), answer.status_code)
    except (ValueError, KeyError):
        return MarketError(f"the market answered {answer.status_code}", "", answer.status_code)
