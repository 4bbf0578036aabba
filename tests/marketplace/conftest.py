"""A whole market on a fresh database and a fake clock: people with keys, enrolled devices, clusters that run."""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlmodel import col, select

from billing import ledger, wallets
from billing.gateway import Gateway
from billing.ids import new_id
from billing.testing.running import RunningFake, running_fake
from marketplace import accounts, bids, clusters, devices, exchange, leases, lifecycle, readings, settlement
from marketplace.api.app import create_app
from marketplace.context import Context, ensure_operator
from marketplace.database import Sessions, transaction
from marketplace.leases import Lease
from marketplace.settings import Settings

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLASS = "cpu-2c-4g.eu.vetted"
OPERATOR_KEY = "spare_operator_of_the_tests"
RATE = 36_000_000  # micro-dollars an hour: 10 a millisecond


def ms(at: datetime) -> int:
    """Epoch milliseconds."""
    return round(at.timestamp() * 1000)


def later(seconds: float) -> datetime:
    """So many seconds after the fake clock's beginning."""
    return T0 + timedelta(seconds=seconds)


@dataclass
class Person:
    """An account and its keys by role."""

    id: str
    keys: dict[str, str]

    def headers(self, role: str) -> dict[str, str]:
        """What a request of this person carries."""
        return bearer(self.keys[role])


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


@dataclass
class Machine:
    """A device with a real key; ``id`` is empty before it has enrolled."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    id: str = ""

    @property
    def public_key(self) -> str:
        """The raw public key as base64."""
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def sign(self, message: bytes) -> str:
        """A signature as base64."""
        return base64.b64encode(self.key.sign(message)).decode()

    def signed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body with its signature."""
        return {**body, "signature": self.sign(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())}


@dataclass
class Floor:
    """The trading floor: a market without heads and background, driven step by step on a fake clock."""

    context: Context
    client: TestClient

    @property
    def sessions(self) -> Sessions:
        return self.context.sessions

    @property
    def operator(self) -> dict[str, str]:
        """The operator's header."""
        return bearer(OPERATOR_KEY)

    # People and money

    def person(self, *roles: str, vetted: bool = True, name: str = "Ada") -> Person:
        """Add an account through the operator's door."""
        body = {"name": name, "email": "ada@example.com", "country": "de", "roles": list(roles)}
        made = self.client.post("/v1/accounts", json=body, headers=self.operator)
        assert made.status_code == 201, made.text
        found = Person(made.json()["account_id"], made.json()["keys"])
        if vetted:
            assert self.client.post(f"/v1/accounts/{found.id}/vet", headers=self.operator).is_success
        return found

    def credit(self, buyer: Person, micros: int) -> None:
        """Put money into a buyer's wallet."""
        with transaction(self.sessions) as session:
            movements = [ledger.Movement("stripe:pending", f"buyer:{buyer.id}:available", micros)]
            key = new_id("topup")
            ledger.post(session, key=key, kind="topup", reference=key, movements=movements, at=T0)

    def buyer(self, micros: int = 100_000_000) -> Person:
        """A buyer with credit."""
        found = self.person("buyer", name="Bob")
        self.credit(found, micros)
        return found

    def available(self, buyer: Person) -> int:
        """What the buyer can spend, in micros."""
        with self.sessions() as session:
            return wallets.available_micros(session, buyer.id)

    # Devices

    def enrolment(self, machine: Machine, token: str, **changes: Any) -> dict[str, Any]:
        """A signed enrolment; ``changes`` replace fields, also those of ``facts``."""
        python, ray = self.context.versions
        facts = {
            "cpus": 2,
            "memory_bytes": 4 * 1024**3,
            "gpus": 0,
            "gpu_memory_bytes": 0,
            "system": "linux",
            "python": python,
            "ray": ray,
        }
        body = {
            "token": token,
            "public_key": machine.public_key,
            "name": machine.name,
            "facts": facts | {key: value for key, value in changes.items() if key in facts},
            "region": "eu",
            "score_millis": 1000,
            "reserve_micros_per_hour": RATE,
        }
        return machine.signed(body | {key: value for key, value in changes.items() if key not in facts})

    def invite(self, provider: Person, uses: int = 1) -> str:
        """A token for a device of the provider's."""
        made = self.client.post("/v1/invites", json={"uses": uses}, headers=provider.headers("provider"))
        assert made.status_code == 201, made.text
        return str(made.json()["token"])

    def device(self, provider: Person, *, at: datetime = T0, name: str = "mill", **changes: Any) -> Machine:
        """Enrol a device, heard of at ``at``."""
        machine = Machine(name)
        answer = self.client.post("/v1/devices/enrol", json=self.enrolment(machine, self.invite(provider), **changes))
        assert answer.status_code == 200, answer.text
        machine.id = answer.json()["device_id"]
        self.seen(machine, at=at)
        return machine

    def seen(self, *machines: Machine, at: datetime) -> None:
        """Let devices speak."""
        with transaction(self.sessions) as session:
            for machine in machines:
                devices.seen(session, machine.id, at=at)

    # Clusters and bids

    def cluster(self, buyer: Person, *, at: datetime = T0, running: bool = True, **changes: Any) -> str:
        """Open a cluster; it runs at once, no head is started."""
        body = {"max_price_micros_per_hour": 55_000_000, "budget_micros": 50_000_000, "max_nodes": 10} | changes
        settings = self.context.settings
        with transaction(self.sessions) as session:
            opened = clusters.open_cluster(
                session,
                clusters.ClusterRequest.model_validate(body),
                account_id=buyer.id,
                price_max=settings.price_micros_per_hour_max,
                lease_ms=(settings.lease_ms_min, settings.lease_ms_max),
                at=at,
            )
            if running:
                opened.state, opened.head_address = "running", "127.0.0.2:6379"
            return opened.id

    def program_key(self, cluster_id: str, role: str) -> str:
        """A key of the cluster's head or warden."""
        with transaction(self.sessions) as session:
            owner = clusters.cluster(session, cluster_id).account_id
            return accounts.create_key(session, account_id=owner, role=role, at=T0, cluster_id=cluster_id)

    def bid(self, cluster_id: str, *, count: int = 1, at: datetime = T0, device_class: str = CLASS) -> list[str]:
        """Bid for nodes, as the cluster's autoscaler does; return their ids."""
        nodes = [f"nd_{secrets.token_hex(8)}" for _ in range(count)]
        with transaction(self.sessions) as session:
            bids.place(session, cluster_id=cluster_id, device_class=device_class, node_ids=nodes, request_id="r", at=at)
        return nodes

    # Steps

    def tick(self, at: datetime) -> int | None:
        """Clear; devices heard of within the last ten seconds take part."""
        return exchange.tick(
            self.sessions,
            self.context.settings,
            at=at,
            secret=self.context.secret,
            devices_since=at - timedelta(seconds=10),
        )

    def step(self, at: datetime, *, heard_since: datetime | None = None) -> None:
        """Let time do to leases what it does."""
        lifecycle.step_leases(self.context, at=at, heard_since=heard_since or at - timedelta(seconds=10))

    def settle(self, at: datetime) -> None:
        """Settle every lease that is open or over, and prove the ledger."""
        for lease in self.leases(states=("open", "closed")):
            with transaction(self.sessions) as session:
                settlement.settle(session, lease.id, self.context.settings, at=at)
            self.prove()

    def report(
        self,
        cluster_id: str,
        node_id: str,
        seconds: range | list[int],
        *,
        at: datetime,
        alive: bool = True,
        busy: bool = True,
        probes: range | list[int] = (),  # type: ignore[assignment]
        outcome: str = "passed",
    ) -> readings.Report:
        """Let the warden report a node at the given seconds of the fake clock."""
        seen = [{"node_id": node_id, "at_ms": ms(later(s)), "alive": alive, "busy": busy} for s in seconds]
        checks = [{"node_id": node_id, "at_ms": ms(later(s)), "outcome": outcome} for s in probes]
        made = readings.Report.model_validate({"cluster_id": cluster_id, "readings": seen, "probes": checks})
        with transaction(self.sessions) as session:
            readings.store(session, made, at=at)
        return made

    # What there is

    def leases(self, cluster_id: str = "", *, states: tuple[str, ...] = ()) -> list[Lease]:
        """Leases by their start."""
        query = select(Lease).order_by(col(Lease.started_at), Lease.id)
        with self.sessions() as session:
            found = session.exec(query).all()
        return [x for x in found if cluster_id in ("", x.cluster_id) and (not states or x.state in states)]

    def one_lease(self, cluster_id: str = "") -> Lease:
        """The only lease."""
        (found,) = self.leases(cluster_id)
        return found

    def node(self, node_id: str) -> bids.Bid:
        """A bid."""
        with self.sessions() as session:
            return session.get_one(bids.Bid, node_id)

    def events(self, cluster_id: str, kind: str) -> list[str]:
        """The texts of a cluster's events of one kind."""
        with self.sessions() as session:
            return [event.text for event in clusters.events(session, cluster_id) if event.kind == kind]

    def balance(self, account: str) -> int:
        """A ledger account's balance, in micros."""
        with self.sessions() as session:
            return ledger.balance_micros(session, account)

    def prove(self) -> None:
        """Hold what must always hold: trial balance, budgets, each hold equal to what its lease can still cost."""
        with self.sessions() as session:
            found = ledger.check(session)
            assert found.ok, found.problems
            for lease in session.exec(select(Lease)):
                left = 0 if lease.state == "settled" else lease.hold_micros - lease.charge_micros
                assert ledger.balance_micros(session, f"hold:{lease.id}") == left, lease
            for cluster in session.exec(select(clusters.Cluster)):
                assert leases.committed_micros(session, cluster.id) <= cluster.budget_micros


class NoGateway:
    """A payment service for tests that never call it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nothing here calls the payment service, but {name} was")


@pytest.fixture(scope="session")
def emptied_url(postgres_url: str) -> str:
    """The URL of one database for all tests here."""
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE marketplace TEMPLATE template_spare"))
    admin.dispose()
    return postgres_url.replace("/postgres?", "/marketplace?")


@pytest.fixture
def database_url(emptied_url: str) -> str:
    """The URL of an empty database: emptying one takes a tenth of the time of making one."""
    engine = create_engine(emptied_url)
    with engine.begin() as connection:
        connection.execute(text("SET session_replication_role = replica"))  # the ledger's own triggers refuse it
        found = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars()
        tables = ", ".join(f'"{name}"' for name in found if name != "alembic_version")
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))
    engine.dispose()
    return emptied_url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Ticks of a second, leases of a minute at most."""
    return Settings(
        home=tmp_path,
        secret_key=SecretStr("s"),
        operator_key=SecretStr(OPERATOR_KEY),
        tick_seconds=1,
        lease_ms_max=60_000,
        lease_ms_min=5_000,
        notice_ms=20_000,
        join_ms_max=90_000,
        verification_hold_ms=3_600_000,
    )


@pytest.fixture
def gateway() -> Gateway:
    """No payment service."""
    return NoGateway()  # type: ignore[return-value]


@pytest.fixture
def context(settings: Settings, sessions: Sessions, gateway: Gateway) -> Context:
    """A market's context on a fresh database."""
    return Context(settings, sessions, gateway, b"secret of the tests")


@pytest.fixture
def client(context: Context) -> TestClient:
    """The server's doors, without background and channel; what fails inside answers 500 as it would for real."""
    ensure_operator(context, at=T0)
    return TestClient(create_app(context), raise_server_exceptions=False)


@pytest.fixture
def live_client(context: Context) -> Iterator[TestClient]:
    """The whole server, its channel to devices and its way to heads included."""
    with TestClient(create_app(context), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def floor(context: Context, client: TestClient) -> Floor:
    """The trading floor."""
    return Floor(context, client)


@pytest.fixture
def stripe_fake() -> Iterator[RunningFake]:
    """Stripe's fake, running."""
    with running_fake() as fake:
        yield fake
