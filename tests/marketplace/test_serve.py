"""The market's two programs, as they are wired: what they log, what they serve, and what ends with them."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import structlog
import uvicorn
from pydantic import SecretStr

from billing.testing.running import RunningFake
from marketplace import serve
from marketplace.settings import Settings
from ray_cluster import detached


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """A market of its own home on the test's database."""
    return Settings(home=tmp_path, database_url=database_url, secret_key=SecretStr("s"))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging and SIGTERM as they were: both programs set them for their whole process."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    structlog.reset_defaults()
    signal.signal(signal.SIGTERM, handler)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def in_background(monkeypatch: pytest.MonkeyPatch, settings: Settings, look: Callable[[], None]) -> None:
    """Do the background's work until ``look`` has looked."""
    monkeypatch.setattr(signal, "pause", look)
    serve.background_only(settings)


def fake_runs(home: Path) -> bool:
    return detached.running(home, serve.FAKE)


def test_background_serves_metrics(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, stripe_fake: RunningFake
) -> None:
    """`spare background` serves its metrics on loopback at the port it is given, and none without one."""
    port = free_port()
    stripe = {"stripe_api_key": SecretStr("sk_test_fake"), "stripe_api_base": stripe_fake.url}
    found: list[str] = []

    def look() -> None:
        found.append(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)

    with pytest.raises(httpx.ConnectError):
        in_background(monkeypatch, settings.model_copy(update=stripe), look)
    in_background(monkeypatch, settings.model_copy(update={**stripe, "metrics_port": port}), look)
    assert "spare_background_leading" in found[0]


def test_the_server_alone_ends_the_fake(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """The end of `spare background` leaves the Stripe fake to the server; the server's end ends it."""
    home = settings.home
    seen: list[bool] = []
    try:
        in_background(monkeypatch, settings, lambda: seen.append(fake_runs(home)))
        seen.append(fake_runs(home))
        monkeypatch.setattr(uvicorn, "run", lambda *_, **__: seen.append(fake_runs(home)))
        serve.serve(settings, background=False)
        seen.append(fake_runs(home))
    finally:
        serve.stop_fake(home)
    assert seen == [True, True, True, False]


def fail() -> None:
    """Log an error from where a local variable holds a secret."""
    token = "spare_buyer_" + "x" * 32
    try:
        raise ValueError(f"refused {len(token)} characters")
    except ValueError:
        structlog.get_logger().exception("it failed", step="test")


@pytest.mark.parametrize("terminal", [False, True])
def test_logs_show_no_secret(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A logged error has its traceback and no variable's value: JSON lines on stderr, text in a terminal."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    serve._log_plainly()
    fail()
    out, said = capsys.readouterr()
    assert out == ""
    assert "x" * 32 not in said
    if terminal:
        assert "it failed" in said
        assert "ValueError: refused 44 characters" in said
    else:
        line = json.loads(said)
        assert (line["event"], line["level"], line["step"]) == ("it failed", "error", "test")
        assert line["exception"].endswith("ValueError: refused 44 characters")
