"""A whole market on this one machine, every part a process of its own: server, devices, heads."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from marketplace.client import Api, Market

START_SECONDS, LEAVE_SECONDS = 60, 45
SPARE = str(Path(sys.executable).parent / "spare")


@dataclass
class LocalDevice:
    """A ``spare join`` process of its own."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """End it as a power cut would: at once, with everything that runs on it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask_to_leave(self) -> None:
        """Ask it to leave, as Ctrl-C would; asked a second time it stops at once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def leave(self, timeout_seconds: float = LEAVE_SECONDS) -> int:
        """Ask it to leave and return its exit code."""
        self.ask_to_leave()
        return self.process.wait(timeout=timeout_seconds)


@dataclass
class LocalMarket:
    """A server under ``home`` and what joined it. Start it with ``running``."""

    home: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    devices: list[LocalDevice] = field(default_factory=list)
    server: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where the market answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server, or start it again, and wait until it answers."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "SPARE_HOME": str(self.home / "market"),
            "SPARE_PORT": str(self.port),
            "RAY_USAGE_STATS_ENABLED": "0",
            **self.settings,
        }
        with (self.home / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [SPARE, "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, START_SECONDS, f"the server (see {self.home / 'server.log'})")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def kill_server(self) -> None:
        """End the server as a power cut would; heads, devices and the database go on."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            self.server = None

    def operator(self) -> Api:
        """Return the operator's API."""
        return Api(self.url, (self.home / "market" / "operator.key").read_text().strip())

    def account(self, name: str, *roles: str, vetted: bool = False) -> dict[str, Any]:
        """Add an account and return its ``account_id`` and ``keys`` by role."""
        operator = self.operator()
        body = {"name": name, "email": f"{name.lower()}@example.com", "country": "DE", "roles": list(roles)}
        account: dict[str, Any] = operator.call("POST", "/v1/accounts", body)
        if vetted:
            operator.call("POST", f"/v1/accounts/{account['account_id']}/vet")
        return account

    def join(
        self, provider_key: str, *, name: str, price: str, cpus: int = 1, memory: str = "2g", wait: bool = True
    ) -> LocalDevice:
        """Start a device of a provider as its own process, and wait until it is linked."""
        token = Api(self.url, provider_key).call("POST", "/v1/invites", {"uses": 1})["token"]
        log = self.home / f"{name}.log"
        command = [SPARE, "join", self.url, "--price", price, "--name", name, "--cpus", str(cpus), "--memory", memory]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "SPARE_JOIN_TOKEN": token}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--state-dir", str(self.home / name), "--json"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        device = LocalDevice(name, process, log)
        self.devices.append(device)
        if wait:
            self.wait_linked(device)
        return device

    def wait_linked(self, device: LocalDevice) -> None:
        """Wait until a device has passed its self-test and is linked."""

        def linked() -> bool:
            if device.process.poll() is not None:
                raise RuntimeError(f"{device.name} ended:\n{device.log.read_text()[-2000:]}")
            return '"linked"' in device.log.read_text()

        wait_for(linked, START_SECONDS, f"{device.name} (see {device.log})")

    def top_up(self, buyer: Market, amount: str) -> None:
        """Top a buyer's credit up by paying the Checkout Session in the Stripe fake, and wait for the credit."""
        topup = buyer.top_up(amount)
        self.stripe_fake("pay", {"session": topup["url"].rsplit("/", 1)[1]})
        wait_for(lambda: buyer.top_up_status(topup["topup_id"]) == "paid", 30, "the payment")

    def onboard(self, provider_key: str) -> None:
        """Open a provider's payout account and complete it in the Stripe fake."""
        link = Api(self.url, provider_key).call("POST", "/v1/earnings/onboarding")["url"]
        httpx.post(link, follow_redirects=False, timeout=10)
        wait_for(
            lambda: not Api(self.url, provider_key).call("GET", "/v1/earnings")["not_payable"], 30, "the payout account"
        )

    def stripe_fake(self, order: str, body: dict[str, Any] | None = None) -> Any:
        """Give the Stripe fake an order, or read its ``snapshot``."""
        port = (self.home / "market" / "stripe-fake.port").read_text()
        url = f"http://127.0.0.1:{port}/_control/{order}"
        answer = httpx.get(url, timeout=10) if body is None else httpx.post(url, json=body, timeout=10)
        return answer.raise_for_status().json()

    def stop(self) -> None:
        """Stop everything that was started here, by its process group."""
        for device in self.devices:
            device.ask_to_leave()
        for device in self.devices:  # they drain side by side
            try:
                device.process.wait(timeout=LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                device.kill()
        self._stop_clusters()
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            try:
                self.server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill_server()
        self._stop_leftovers()

    def _stop_clusters(self) -> None:
        from ray_cluster import heads

        for folder in (self.home / "market" / "clusters").glob("*"):
            heads.stop(folder)

    def _stop_leftovers(self) -> None:
        """End what a killed server could not: the embedded database and the Stripe fake."""
        from marketplace.serve import stop_fake

        stop_fake(self.home / "market")
        postmaster = self.home / "market" / "postgres" / "postmaster.pid"
        if postmaster.exists():
            pid = int(postmaster.read_text().splitlines()[0])
            try:
                os.kill(pid, signal.SIGINT)
                wait_for(lambda: not postmaster.exists(), 20, "the database's end")
            except (ProcessLookupError, TimeoutError):
                pass


def wait_for(condition: Callable[[], Any], timeout_seconds: float, what: str, *, poll_seconds: float = 0.2) -> Any:
    """Return the condition's first true value. Raises TimeoutError naming what was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_seconds:.0f} s for {what}")
        time.sleep(poll_seconds)


@contextmanager
def running(*, settings: Mapping[str, str] | None = None, home: Path | None = None) -> Iterator[LocalMarket]:
    """Run a market until the block ends; then nothing of it is left, its files included unless ``home`` is given."""
    # Unix sockets allow some hundred characters of path, so the home is short.
    folder = home or Path(tempfile.mkdtemp(prefix="spare-", dir="/tmp"))
    market = LocalMarket(folder, free_port(), {"SPARE_TICK_SECONDS": "1", **(settings or {})})
    try:
        market.start()
        yield market
    finally:
        market.stop()
        if home is None:
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port that nothing listens on, outside the ranges that Ray and heads use."""
    while True:
        port = 20_000 + secrets.randbelow(9_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
