"""A buyer's cluster: its limits, its Ray head, its events, and how it ends."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic import Field as Limit
from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field, Session, SQLModel, col, func, select

from billing import wallets
from billing.ids import new_id
from billing.money import format_usd
from marketplace import device_classes
from marketplace.database import UTC_TIME
from marketplace.errors import Conflict, InsufficientCredit, InvalidInput, NotFound
from marketplace.wakeups import wake

State = Literal["starting", "running", "stopping", "stopped"]
LIVE = ("starting", "running", "stopping")
CLUSTERS_PER_BUYER_MAX = 20


class Cluster(SQLModel, table=True):
    """One Ray head of one buyer, and what it may spend: micro-dollars, prices per compute-hour, fee included."""

    __tablename__ = "cluster"

    id: str = Field(primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    name: str
    max_price_micros_per_hour: int = Field(sa_type=BigInteger)
    budget_micros: int = Field(sa_type=BigInteger)
    max_nodes: int
    idle_timeout_seconds: int
    lease_ms: int
    region: str
    trust: str
    kinds: list[str] = Field(default_factory=list, sa_column=Column(JSON))
    """Hardware kinds that the buyer allows; all when empty."""
    state: str = Field(default="starting", index=True)
    reason: str = ""
    """Why it stops or stopped."""
    head_address: str = ""
    dashboard_url: str = ""
    created_at: datetime = Field(sa_type=UTC_TIME)
    ready_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    stopping_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    stopped_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    warned: bool = False
    """Whether the buyer was told that most of the budget is spent."""


class ClusterEvent(SQLModel, table=True):
    """Something that happened to a cluster, in words and numbers."""

    __tablename__ = "cluster_event"

    id: int | None = Field(default=None, primary_key=True)
    cluster_id: str = Field(foreign_key="cluster.id", index=True)
    at: datetime = Field(sa_type=UTC_TIME)
    kind: str
    text: str
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON))


class ClusterRequest(BaseModel):
    """What a buyer asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Limit(default="", max_length=80)
    max_price_micros_per_hour: int = Limit(ge=1)
    budget_micros: int = Limit(ge=1, le=10**15)
    max_nodes: int = Limit(default=1, ge=1, le=1000)
    idle_timeout_seconds: int = Limit(default=300, ge=5, le=86_400)
    lease_ms: int | None = Limit(default=None, ge=1)
    region: str = "eu"
    trust: device_classes.TrustTier = "vetted"
    kinds: list[str] = Limit(default_factory=list, max_length=64)

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in device_classes.kinds():
                raise ValueError(f"{name[:40]!r} is not a hardware kind: one of {', '.join(device_classes.kinds())}")
        return value


def open_cluster(
    session: Session,
    request: ClusterRequest,
    *,
    account_id: str,
    price_max: int,
    lease_ms: tuple[int, int],
    at: datetime,
) -> Cluster:
    """Add a cluster; the background starts its head.

    ``lease_ms`` is the market's (least, most). Raises InsufficientCredit without any credit, InvalidInput, Conflict.
    """
    if request.max_price_micros_per_hour > price_max:
        raise InvalidInput(
            f"max_price {request.max_price_micros_per_hour} is above the market's highest price",
            hint=f"offer at most {price_max / 1e6:.2f} dollars an hour",
        )
    device_classes.check_region(request.region)
    length_ms = request.lease_ms or lease_ms[1]
    if not lease_ms[0] <= length_ms <= lease_ms[1]:
        raise InvalidInput(f"a lease lasts {lease_ms[0]} to {lease_ms[1]} ms, not {length_ms}")
    live = session.exec(
        select(func.count()).select_from(Cluster).where(Cluster.account_id == account_id, col(Cluster.state).in_(LIVE))
    ).one()
    if live >= CLUSTERS_PER_BUYER_MAX:
        raise Conflict(f"{live} clusters are open", hint="stop one first: spare cluster stop CLUSTER")
    available = wallets.available_micros(session, account_id)
    if available <= 0:
        raise InsufficientCredit("there is no credit to spend", hint="top up first: spare wallet top-up 5")
    cluster = Cluster(
        id=new_id("cl"),
        account_id=account_id,
        name=request.name,
        max_price_micros_per_hour=request.max_price_micros_per_hour,
        budget_micros=request.budget_micros,
        max_nodes=request.max_nodes,
        idle_timeout_seconds=request.idle_timeout_seconds,
        lease_ms=length_ms,
        region=request.region,
        trust=request.trust,
        kinds=request.kinds,
        created_at=at,
    )
    session.add(cluster)
    session.flush()
    limit = format_usd(request.max_price_micros_per_hour)
    wake(session)
    note(
        session,
        cluster.id,
        "opened",
        f"opened: at most {limit}/h a node, budget {format_usd(request.budget_micros)}",
        at=at,
    )
    return cluster


def cluster(session: Session, cluster_id: str, *, account_id: str | None = None) -> Cluster:
    """Return a cluster (of that account). Raises NotFound, also for somebody else's."""
    found = session.get(Cluster, cluster_id)
    if found is None or (account_id is not None and found.account_id != account_id):
        raise NotFound(f"no cluster {cluster_id[:40]!r}")
    return found


def lock(session: Session, cluster_id: str) -> Cluster:
    """Return a cluster whose row nobody else changes until this session ends."""
    # key_share: rows that only refer to the cluster, such as events, can still be added meanwhile.
    query = select(Cluster).where(Cluster.id == cluster_id).with_for_update(key_share=True)
    found = session.exec(query.execution_options(populate_existing=True)).first()
    if found is None:
        raise NotFound(f"no cluster {cluster_id[:40]!r}")
    return found


def stop(session: Session, cluster_id: str, reason: str, *, at: datetime) -> Cluster:
    """Ask a cluster to stop; the background does it. Stopping what stops or has stopped changes nothing."""
    found = lock(session, cluster_id)
    if found.state in ("starting", "running"):
        found.state, found.reason, found.stopping_at = "stopping", reason, at
        session.add(found)
        wake(session)
        note(session, cluster_id, "stopping", f"stopping: {reason}", at=at)
    return found


def note(session: Session, cluster_id: str, kind: str, text: str, *, at: datetime, **data: Any) -> None:
    """Add an event to a cluster's log."""
    session.add(ClusterEvent(cluster_id=cluster_id, at=at, kind=kind, text=text, data=data))


def events(session: Session, cluster_id: str, *, after: int = 0, limit: int = 500) -> list[ClusterEvent]:
    """Return a cluster's events after one's id, oldest first."""
    query = select(ClusterEvent).where(ClusterEvent.cluster_id == cluster_id, col(ClusterEvent.id) > after)
    return list(session.exec(query.order_by(col(ClusterEvent.id)).limit(limit)))
