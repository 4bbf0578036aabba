"""Whoever waits for the database to change is woken when it has: PostgreSQL's NOTIFY, sent as the change is committed.

A wake-up is a hint and nothing more. Everybody still looks at the state now and then, so one that is lost costs time.
"""

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Engine, text
from sqlmodel import Session

log = structlog.get_logger()
CHANNEL = "spare"
RETRY_SECONDS = 1.0


def wake(session: Session) -> None:
    """Wake everybody once this session's work is committed; several calls in one transaction wake once."""
    session.connection().execute(text(f"NOTIFY {CHANNEL}"))


class Listener:
    """Calls ``woken`` from a thread of its own at each wake-up, and after each connection: one may have been missed."""

    def __init__(self, engine: Engine, woken: Callable[[], object]) -> None:
        self._engine = engine
        self._woken = woken
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wakeups", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End within a second."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._listen()
            except Exception as problem:
                log.warning("wake-ups are lost", problem=f"{type(problem).__name__}: {problem}"[:200])
                time.sleep(RETRY_SECONDS)

    def _listen(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"LISTEN {CHANNEL}"))
            driver = connection.connection.driver_connection
            assert driver is not None
            self._woken()
            try:
                while not self._over.is_set():
                    if any(True for _ in driver.notifies(timeout=1.0, stop_after=1)):
                        self._woken()
            finally:
                connection.invalidate()  # it listens: nothing for the pool
