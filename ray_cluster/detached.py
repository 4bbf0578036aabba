"""Programs that outlive the one who started them: heads and wardens, found again by a lock and a pid file."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Ours to collect when they end. After a restart of ours they are nobody's, and init collects them.
_children: list["subprocess.Popen[bytes]"] = []

# The shell writes its own pid and becomes the program, so there is no instant at which the program runs unrecorded.
_BECOME = 'echo $$ > "$0" && exec "$@"'


def start(
    folder: Path, name: str, argv: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int] = ()
) -> None:
    """Start ``argv`` in its own process group unless it runs already; its output goes to ``folder/name.log``.

    ``descriptors`` are open files that it inherits.

    The program holds an exclusive lock on ``folder/name.lock`` for as long as any part of it lives, so starting it
    twice, or from two servers at once, starts it once.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"{name}.lock").open("w") as lock, (folder / f"{name}.log").open("ab") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        (folder / f"{name}.pid").unlink(missing_ok=True)
        child = subprocess.Popen(
            ["/bin/sh", "-c", _BECOME, str(folder / f"{name}.pid"), *argv],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno(), *descriptors],
            start_new_session=True,
        )
        _children.append(child)


def running(folder: Path, name: str) -> bool:
    """Return whether any part of the program lives."""
    try:
        lock = (folder / f"{name}.lock").open("r")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def stop(folder: Path, name: str, *, wait_seconds: float = 10.0) -> bool:
    """Kill the program's whole process group and return whether nothing of it is left."""
    deadline = time.monotonic() + wait_seconds
    while running(folder, name):
        if time.monotonic() > deadline:
            return False
        # Not written yet, or gone: the lock tells.
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.killpg(int((folder / f"{name}.pid").read_text()), signal.SIGKILL)
        _reap()
        time.sleep(0.05)
    _reap()
    return True


def _reap() -> None:
    """Collect ended children of ours, so that none stays a zombie."""
    _children[:] = [child for child in _children if child.poll() is None]
