"""Wake-ups: who waits for a change is woken when it is committed, and not before."""

import threading

from sqlalchemy import Engine, text

from marketplace.database import Sessions, transaction
from marketplace.wakeups import Listener, wake


def test_woken_at_commit(engine: Engine, sessions: Sessions) -> None:
    """A wake-up comes with the commit: never for work that is rolled back, once for a transaction that woke twice."""
    woken, count = threading.Semaphore(0), []
    listener = Listener(engine, lambda: (count.append(1), woken.release())[0])
    listener.start()
    assert woken.acquire(timeout=10), "it looks once when it begins to listen"
    with sessions() as session:
        wake(session)
        session.rollback()
    assert not woken.acquire(timeout=0.3)
    with transaction(sessions) as session:
        wake(session)
        wake(session)
        assert not woken.acquire(timeout=0.3)
    assert woken.acquire(timeout=10)
    assert not woken.acquire(timeout=0.3)
    listener.stop()
    assert len(count) == 2


def test_a_lost_connection_is_made_again(engine: Engine, sessions: Sessions) -> None:
    """When its connection is cut, the listener connects again and wakes, since it may have missed something."""
    woken = threading.Semaphore(0)
    listener = Listener(engine, woken.release)
    listener.start()
    assert woken.acquire(timeout=10)
    with engine.connect() as connection:
        listening = "query LIKE 'LISTEN%' AND datname = current_database()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}"))
    assert woken.acquire(timeout=10)
    with transaction(sessions) as session:
        wake(session)
    assert woken.acquire(timeout=10)
    listener.stop()
