"""Runs inside a head's sandbox: carries the warden's challenges to nodes and their answers back, as plain bytes.

It decides nothing. A challenge is a line of JSON ``{"node": …, "seed": …, "timeout_seconds": …}`` on a Unix socket, the
answer ``{"output": base64}`` or ``{"detail": why not}``. What the answer is worth, the warden outside judges. With
``{"node": …, "release": true}`` the warden says that a node needs no more challenges.
"""

import base64
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)


class SpareProbe:
    """Answers challenges on one node; one stays there, so that a challenge costs milliseconds and not a process."""

    def answer(self, seed: str) -> bytes:
        """Return the answer to the challenge ``seed`` as bytes."""
        from ray_cluster import challenge

        return challenge.answer(seed)


class Probes:
    """The probe actors, one a node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actors: dict[str, Any] = {}

    def ask(self, node: str, seed: str, timeout_seconds: float) -> bytes:
        """Return the node's answer.

        Raises:
            Exception: whatever Ray says when the node is gone or too slow; the actor is then made anew next time.
        """
        with self._lock:
            actor: Any = self._actors.get(node)
            if actor is None:
                here = NodeAffinitySchedulingStrategy(node, soft=False)
                actor = self._actors[node] = (
                    ray.remote(SpareProbe).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()
                )
        try:
            return bytes(ray.get(actor.answer.remote(seed), timeout=timeout_seconds))
        except ray.exceptions.GetTimeoutError:
            raise  # slow, not gone: the actor stays, or a busy device would never get past starting one
        except Exception:
            with self._lock:
                self._actors.pop(node, None)
            raise

    def release(self, node: str) -> None:
        """End the node's probe actor, or a node that drains would wait for it until its time is up."""
        with self._lock:
            actor = self._actors.pop(node, None)
        if actor is not None:
            ray.kill(actor)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def _handler(probes: Probes) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.rfile.readline(4096))
            try:
                if request.get("release"):
                    probes.release(request["node"])
                    answer = {}
                else:
                    output = probes.ask(request["node"], request["seed"], float(request["timeout_seconds"]))
                    answer = {"output": base64.b64encode(output).decode()}
            except Exception as problem:
                answer = {"detail": f"{type(problem).__name__}: {problem}"[:300]}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    return Handler


def _wait_for(address: str) -> None:
    ip, port = address.rsplit(":", 1)
    while True:
        try:
            socket.create_connection((ip, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)


def main(address: str, path: Path) -> None:
    """Serve challenges on ``path`` until the head at ``address`` is gone."""
    _wait_for(address)
    ray.init(address=address, namespace="spare-probe", log_to_driver=False, logging_level=logging.WARNING)
    path.unlink(missing_ok=True)
    with _Server(str(path), _handler(Probes())) as server:
        path.chmod(0o600)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
