"""What the demo shows while it runs: steps, devices, tiles; plain lines where there is no terminal."""

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Screen:
    """A live view in a terminal, one line a step elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._began = time.monotonic()
        self._done: list[tuple[str, float]] = []
        self._now = ""
        self._devices: dict[str, str] = {}
        self._tiles = Progress(
            TextColumn("   tiles"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[where]}")
        )
        self._task = self._tiles.add_task("tiles", total=None, visible=False, where="")
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()
            for text, seconds in self._done:
                self.console.print(f"[green]✓[/green] {seconds:5.1f} s  {text}", highlight=False)

    @property
    def seconds(self) -> float:
        """How long the demo has run."""
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Say what happens now."""
        self._now = text

    def done(self, text: str) -> None:
        """Say what is done."""
        self._done.append((text, self.seconds))
        self._now = ""
        if not self._live.is_started:
            self.console.print(f"✓ {self.seconds:5.1f} s  {text}", highlight=False)

    def device(self, name: str, state: str) -> None:
        """Say how a device is."""
        self._devices[name] = state

    def tiles(self, done: int, total: int, where: str) -> None:
        """Say how many tiles are done, and by how many devices."""
        self._tiles.update(self._task, completed=done, total=total, visible=True, where=where)

    def _render(self) -> RenderableType:
        steps = Table.grid(padding=(0, 1))
        for text, seconds in self._done:
            steps.add_row("[green]✓[/green]", f"{seconds:5.1f} s", text)
        if self._now:
            steps.add_row(Spinner("dots"), f"{self.seconds:5.1f} s", self._now)
        devices = Table.grid(padding=(0, 2))
        for name, state in self._devices.items():
            devices.add_row("  ", Text(name, style="bold"), state)
        return Group(steps, devices, self._tiles)
