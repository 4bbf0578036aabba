"""Whole markets for end-to-end tests: real processes, watched from the outside, and the demo's story told once."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from marketplace import accounts
from marketplace.demo import local_market, story
from marketplace.demo.local_market import LocalMarket
from marketplace.demo.screen import Screen

LOOK_SECONDS = 0.5
LOG_BYTES_MAX = 50 << 20
PROGRAM_KEYS = ("ray", "head", "warden")


class Watch(threading.Thread):
    """Notes every process of a market and its command line, as any user of the machine sees them in ``ps``."""

    def __init__(self, market: LocalMarket) -> None:
        super().__init__(name="watch", daemon=True)
        self._market = market
        self._over = threading.Event()
        self.processes: set[psutil.Process] = set()
        self.command_lines: set[str] = set()

    def run(self) -> None:
        """Look twice a second until ``end``."""
        while not self._over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Note whatever runs below the server, the devices, and what outlives the server."""
        seen: set[psutil.Process] = set()
        for pid in self._roots():
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                seen |= {root, *root.children(recursive=True)}
        for process in seen:
            with suppress(psutil.Error):
                self.command_lines.add(" ".join(process.cmdline()))
        self.processes |= seen

    def _roots(self) -> Iterator[int]:
        if self._market.server is not None:
            yield self._market.server.pid
        yield from (device.process.pid for device in self._market.devices)
        home = self._market.home / "market"
        for path in [home / "stripe-fake.pid", home / "postgres" / "postmaster.pid", *home.glob("clusters/*/*.pid")]:
            with suppress(OSError, ValueError, IndexError):
                yield int(path.read_text().splitlines()[0])

    def below(self, pid: int) -> set[psutil.Process]:
        """A process and whatever runs below it now."""
        root = psutil.Process(pid)
        return {root, *root.children(recursive=True)}

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self.join()

    def left(self) -> list[str]:
        """What still runs of all that was ever seen."""
        return living(self.processes)


def living(processes: Iterable[psutil.Process]) -> list[str]:
    """Those of the processes that run, zombies left out, each with its command."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return found


@dataclass(frozen=True)
class Watched:
    """A running market and the eye on it."""

    market: LocalMarket
    watch: Watch

    def tokens(self) -> dict[str, str]:
        """Every secret that the market made for itself and for the clusters it has had, by what it is."""
        home = self.market.home / "market"
        secret = (home / "secret.key").read_text().strip()
        made = {
            f"{kind} key of {folder.name}": accounts.derived_secret(secret.encode(), f"{kind}:{folder.name}")
            for folder in (home / "clusters").glob("*")
            for kind in PROGRAM_KEYS
        }
        ends = {"start of the market's secret": secret[:24], "end of the market's secret": secret[-24:]}
        return {**made, **ends, "operator's key": (home / "operator.key").read_text().strip()}

    def ray_token(self, cluster_id: str) -> str:
        """The token of a cluster's head, as only the market and its nodes know it."""
        return self.tokens()[f"ray key of {cluster_id}"]

    def leaks(self, secrets: dict[str, str]) -> list[str]:
        """Where a secret can be read that must not be: in any log below the market's home, or in the process list."""
        found = [
            f"{name} in the process list: {line.replace(secret, '…')[:200]}"
            for name, secret in secrets.items()
            for line in list(self.watch.command_lines)
            if secret in line
        ]
        for path in self.logs():
            with suppress(OSError):
                text = path.read_bytes()[:LOG_BYTES_MAX]
                found += [f"{name} in {path}" for name, secret in secrets.items() if secret.encode() in text]
        return found

    def logs(self) -> list[Path]:
        """Every log below the market's home, Ray's own included."""
        files = (path for path in self.market.home.rglob("*") if path.is_file() and not path.is_symlink())
        return [path for path in files if path.suffix in (".log", ".out", ".err") or "logs" in path.parts]


@contextmanager
def watched(settings: dict[str, str]) -> Iterator[Watched]:
    """A market under a short path of its own; it is an error when a process of it outlives the block."""
    with local_market.running(settings=settings) as market:
        watch = Watch(market)
        watch.start()
        yield Watched(market, watch)
        watch.look()
    watch.end()
    assert watch.left() == [], "processes of the market outlived it"


@pytest.fixture(scope="session")
def open_market() -> Callable[[dict[str, str]], Any]:
    """Opens a watched market."""
    return watched


@pytest.fixture(scope="session")
def alive() -> Callable[[Iterable[psutil.Process]], list[str]]:
    """Tells which of some processes still run."""
    return living


@dataclass(frozen=True)
class Told:
    """The story as it ended, and what the outside world knew at that moment."""

    shared: Watched
    story: story.Story
    receipt: dict[str, Any]
    """Fetched once more after the payouts."""
    stripe: dict[str, Any]
    """The Stripe fake's snapshot."""
    leaks: list[str]
    log_count: int
    output: str
    """What the demo printed."""


@pytest.fixture(scope="session")
def shared() -> Iterator[Watched]:
    """The one market that the story, the clusters and the notebook share."""
    with watched(dict(story.SETTINGS)) as running:
        yield running


@pytest.fixture(scope="session")
def told(shared: Watched, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The demo, played once."""
    console = Console(file=StringIO(), width=200)
    with Screen(console) as screen:
        played = story.play(shared.market, screen, tmp_path_factory.mktemp("story"))
    assert played.receipt is not None
    keys = {
        f"{name}'s {role} key": key
        for name, account in played.accounts.items()
        for role, key in account["keys"].items()
    }
    buyer = story.Market(shared.market.url, keys["Bob's buyer key"])
    return Told(
        shared=shared,
        story=played,
        receipt=buyer.open_cluster(played.receipt.data["cluster_id"]).receipt().data,
        stripe=shared.market.stripe_fake("snapshot"),
        leaks=shared.leaks({**keys, **shared.tokens()}),
        log_count=len(shared.logs()),
        output=console.file.getvalue(),
    )
