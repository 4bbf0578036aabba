"""What the provider sees: one line that follows the device in a terminal, JSON lines in a pipe."""

import json
import sys
import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.status import Status

from ray_cluster.agent.node import Node
from ray_cluster.errors import ClusterError

MICROS = 1_000_000


class View:
    """Tells a person, or a program, what happens; ``as_json`` forces JSON lines."""

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._json = as_json or not self._console.is_terminal
        self._status: Status | None = None
        self._last: dict[str, object] = {}

    def tell(self, event: str, text: RenderableType, **facts: object) -> None:
        """Tell one thing: ``text`` to a person, ``event`` and ``facts`` to a program."""
        if self._json:
            self._write({"event": event, "at_ms": time.time_ns() // 1_000_000, **facts})
        else:
            self._console.print(text, soft_wrap=isinstance(text, str))  # a command must stay one line

    def error(self, error: ClusterError) -> None:
        """Tell why it ended, and what to do, in one line."""
        self.stop()
        if self._json:
            self._write({"event": "error", "message": error.message, "hint": error.hint})
            return
        hint = f" → {error.hint}" if error.hint else ""
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error.message}{hint}", markup=False)

    def state(self, *, linked: bool, device_class: str, reserve_micros_per_hour: int, nodes: Iterable[Node]) -> None:
        """Bring the line up to date; a program hears only of changes."""
        nodes = [node for node in nodes if node.live]
        if self._json:
            rows = [{"node_id": node.node_id, "lease_id": node.lease_id, "phase": node.phase} for node in nodes]
            now: dict[str, object] = {"event": "state", "linked": linked, "nodes": rows}
            if now != self._last:
                self._last = now
                self._write(now)
            return
        line = escape(status_line(linked, device_class, reserve_micros_per_hour, nodes))
        if self._status is None:
            self._status = self._console.status(line)
            self._status.start()
        self._status.update(line)

    def stop(self) -> None:
        """Take the line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _write(self, row: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def status_line(linked: bool, device_class: str, reserve_micros_per_hour: int, nodes: Iterable[Node]) -> str:
    """PURE: return the line for a terminal."""
    reserve = f"asks ${reserve_micros_per_hour // MICROS}.{reserve_micros_per_hour % MICROS:06d}/h"
    doing = " · ".join(_node_text(node) for node in nodes) or ("waiting for a buyer" if linked else "")
    link = "linked" if linked else "link lost, trying again"
    return " · ".join(part for part in (device_class, reserve, link, doing) if part)


def _node_text(node: Node) -> str:
    minutes, seconds = divmod(node.claimed_ms // 1000, 60)
    phase = "draining" if node.ending != "no" else node.phase
    return f"{node.lease_id} {phase} {minutes}:{seconds:02d}"
