"""The market's background work: one process does it at a time, however many servers there are."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy import Connection, Engine, text
from sqlmodel import col, select

from billing import payouts, webhooks
from billing.errors import Breach
from billing.ids import now_utc
from marketplace import clusters, exchange, jobs, lifecycle, settlement
from marketplace.context import Context
from marketplace.database import transaction
from marketplace.leases import Lease
from marketplace.wakeups import Listener

log = structlog.get_logger()
STEP_SECONDS = 0.5
"""The longest between two looks; a wake-up makes it at once."""
INSIDE, OUTSIDE = ("clusters", "leases", "tick", "settle"), ("webhooks", "payouts", "jobs")
STALL = timedelta(seconds=4)
"""A pause between two beats of more than this was one of the whole process or machine."""
SETTLE_OPEN_SECONDS = 5
_LEADER_LOCK = 0x5350415246

failures = Counter("spare_background_failures", "Background steps that raised", ["step"])
breaches = Counter("spare_breaches", "Broken invariants: somebody must look", ["step"])
leading = Gauge("spare_background_leading", "1 where this process does the background work")


class Background:
    """The duties, each run at its own pace by one thread."""

    def __init__(self, context: Context, engine: Engine) -> None:
        self._context = context
        self._engine = engine
        self._stop = threading.Event()
        self._woken = {INSIDE: threading.Event(), OUTSIDE: threading.Event()}
        self._listener = Listener(engine, self._wake)
        self._thread = threading.Thread(target=self._run, name="background")
        self._due: dict[str, float] = {}
        self._listening_since = self._beat_at = now_utc()

    def start(self) -> None:
        """Begin in a thread of its own."""
        self._listener.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs now."""
        self._stop.set()
        self._wake()
        self._thread.join()
        self._listener.stop()

    def _wake(self) -> None:
        for woken in self._woken.values():
            woken.set()

    def _pause(self, duties: tuple[str, ...]) -> None:
        """Wait for the next look. When woken something has changed, and every one of these duties is due."""
        if self._woken[duties].wait(STEP_SECONDS):
            self._woken[duties].clear()
            for name in duties:
                self._due.pop(name, None)

    def _run(self) -> None:
        """Stand by until the leader's lock is free, then work for as long as the connection that holds it lives."""
        while not self._stop.is_set():
            try:
                with self._engine.connect() as connection:
                    self._stand_by(connection)
            except Exception:
                log.exception("the background work stands still")
            leading.set(0)
            self._stop.wait(1.0)

    def _stand_by(self, connection: Connection) -> None:
        held = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LEADER_LOCK}).scalar()
        connection.commit()
        if held:
            try:
                self._lead(connection)
            finally:
                connection.invalidate()  # the lock goes with the connection, never back to the pool

    def _lead(self, connection: Connection) -> None:
        leading.set(1)
        self._listening_since = self._beat_at = now_utc()
        over = threading.Event()
        # They end with the process: what is called may not answer for long, and can be killed at any instruction.
        for work in self._keep_outside, self._keep_beating:
            threading.Thread(target=work, args=(over,), name="background", daemon=True).start()
        try:
            while not self._stop.is_set():
                self._pause(INSIDE)
                connection.execute(text("SELECT 1"))  # raises when the lock's connection is gone: another leads now
                connection.commit()
                at = now_utc()
                self._beat(at)
                self.step_inside(at)
        finally:
            over.set()

    def _keep_outside(self, over: threading.Event) -> None:
        while not over.is_set():
            self._pause(OUTSIDE)
            self.step_outside(now_utc())

    def _keep_beating(self, over: threading.Event) -> None:
        while not over.wait(STEP_SECONDS):
            self._beat(now_utc())

    def _beat(self, at: datetime) -> None:
        """Notice that this process, or the machine, stood still: it heard nobody meanwhile, which is nobody's fault."""
        if at - self._beat_at > STALL:
            self._listening_since = at
        self._beat_at = at

    def step(self, at: datetime) -> None:
        """Do every duty that is due."""
        self.step_inside(at)
        self.step_outside(at)

    def step_inside(self, at: datetime) -> None:
        """Do what is due of the market's own duties: they never wait for anything but the database and the heads."""
        context, settings = self._context, self._context.settings
        silence = timedelta(milliseconds=settings.device_silence_ms_max)
        heard_since = at - silence
        # A market that was down itself gives devices the same time to come back.
        gone_since = heard_since if at - self._listening_since > silence else datetime.min.replace(tzinfo=at.tzinfo)
        self._do("clusters", 1.0, lambda: lifecycle.step_clusters(context, at=at))
        self._do("leases", 1.0, lambda: lifecycle.step_leases(context, at=at, heard_since=gone_since))
        if at - self._listening_since > timedelta(milliseconds=settings.reconnect_ms):
            self._do(
                "tick",
                0.5,
                lambda: exchange.tick(
                    context.sessions, settings, at=at, secret=context.secret, devices_since=heard_since
                ),
            )
        self._do("settle", 1.0, lambda: _settle(context, at, self._listening_since))

    def step_outside(self, at: datetime) -> None:
        """Do what is due of the duties that call others, who may take a minute: no clearing waits for them."""
        context = self._context
        self._do("webhooks", 2.0, lambda: webhooks.process(context.sessions, context.gateway, at=at))
        self._do("payouts", 2.0, lambda: payouts.send_due(context.sessions, context.gateway, at=at))
        self._do("payouts-unsure", 30, lambda: payouts.reconcile_ambiguous(context.sessions, context.gateway, at=at))
        self._do("jobs", 2.0, lambda: _poll_jobs(context, at))
        self._do("prune", 3600.0, lambda: lifecycle.prune(context, at=at))

    def _do(self, name: str, every_seconds: float, duty: Callable[[], object]) -> None:
        if time.monotonic() < self._due.get(name, 0):
            return
        try:
            duty()
        except Breach as problem:
            breaches.labels(name).inc()
            log.critical("breach", step=name, problem=str(problem))
        except Exception:
            failures.labels(name).inc()
            log.exception("background step failed", step=name)
        self._due[name] = time.monotonic() + every_seconds


def _settle(context: Context, at: datetime, listening_since: datetime) -> None:
    with context.sessions() as session:
        stale = at - timedelta(seconds=SETTLE_OPEN_SECONDS)
        due = session.exec(
            select(Lease.id).where(
                (col(Lease.state) == "closed")
                | ((col(Lease.state) == "open") & (col(Lease.judged_at).is_(None) | (col(Lease.judged_at) < stale)))
            )
        ).all()
    for lease_id in due:
        try:
            with transaction(context.sessions) as session:
                settlement.settle(session, lease_id, context.settings, at=at, listening_since=listening_since)
        except Breach as problem:
            # That lease's flow stops; the others go on.
            breaches.labels("settle").inc()
            log.critical("breach", step="settle", lease=lease_id, problem=str(problem))
    with transaction(context.sessions) as session:
        settlement.mature(session, context.settings, at=at)


def _poll_jobs(context: Context, at: datetime) -> None:
    """Ask each head how its jobs are."""
    with context.sessions() as session:
        unfinished = session.exec(
            select(jobs.Job.cluster_id)
            .join(clusters.Cluster, col(clusters.Cluster.id) == col(jobs.Job.cluster_id))
            .where(col(jobs.Job.status).not_in(jobs.FINISHED), clusters.Cluster.state == "running")
            .distinct()
        ).all()
    for cluster_id in unfinished:
        lifecycle.note_jobs(context, cluster_id, at=at)
