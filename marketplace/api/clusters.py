"""A buyer's clusters, and the door through which a cluster's own autoscaler bids."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from billing.ids import now_utc
from marketplace import bids, clusters, leases, receipts, why
from marketplace.accounts import Caller
from marketplace.api.doors import Anyone, Buyer, BuyerOrOperator, Head, InContext, InSession
from marketplace.errors import Conflict, Forbidden

router = APIRouter(prefix="/v1/clusters", tags=["clusters"])


class ClusterView(BaseModel):
    """A cluster as its buyer sees it; money in micro-dollars."""

    cluster_id: str
    name: str
    state: str
    reason: str
    ray_url: str
    """What ``ray job submit --address`` and JobSubmissionClient take, with the market's key as Ray's token."""
    max_price_micros_per_hour: int
    budget_micros: int
    committed_micros: int
    max_nodes: int
    idle_timeout_seconds: int
    lease_ms: int
    region: str
    trust: str
    nodes_leased: int
    nodes_joined: int
    nodes_waiting: int
    created_at: datetime
    ready_at: datetime | None
    stopped_at: datetime | None


class Access(BaseModel):
    """What Ray's tools need where they speak to the head itself, such as ``ray status``: for this one cluster alone."""

    head_address: str
    ray_token: str


class EventView(BaseModel):
    """Something that happened."""

    id: int
    at: datetime
    kind: str
    text: str
    data: dict[str, Any]


class NodeRequest(BaseModel):
    """Nodes to bid for; the ids are the caller's, so that asking twice bids once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    device_class: str = Field(max_length=80)
    request_id: str = Field(default="", max_length=100)
    node_ids: list[str] = Field(min_length=1, max_length=1000)


class Node(BaseModel):
    """A bid, or the node it has become."""

    node_id: str
    device_class: str
    request_id: str
    leased: bool
    why: str


class Nodes(BaseModel):
    """A cluster's nodes."""

    nodes: list[Node]


@router.post("", status_code=201)
def open_cluster(body: clusters.ClusterRequest, session: InSession, context: InContext, caller: Buyer) -> ClusterView:
    """Open a cluster. Nothing is charged before a node has joined and passed a check."""
    settings = context.settings
    cluster = clusters.open_cluster(
        session,
        body,
        account_id=caller.account_id,
        price_max=settings.price_micros_per_hour_max,
        lease_ms=(settings.lease_ms_min, settings.lease_ms_max),
        at=now_utc(),
    )
    return _view(session, context, cluster)


@router.get("")
def mine(session: InSession, context: InContext, caller: Buyer) -> list[ClusterView]:
    """List one's clusters, newest first."""
    query = select(clusters.Cluster).where(clusters.Cluster.account_id == caller.account_id)
    found = session.exec(query.order_by(col(clusters.Cluster.created_at).desc()).limit(100))
    return [_view(session, context, cluster) for cluster in found]


@router.get("/{cluster_id}")
def show(cluster_id: str, session: InSession, context: InContext, caller: BuyerOrOperator) -> ClusterView:
    """Show a cluster."""
    return _view(session, context, _seen(session, cluster_id, caller))


@router.delete("/{cluster_id}")
def stop(cluster_id: str, session: InSession, context: InContext, caller: BuyerOrOperator) -> ClusterView:
    """Stop a cluster: its leases end, are settled, and its head goes. Stopping twice is harmless."""
    _seen(session, cluster_id, caller)
    reason = "an operator stopped it" if caller.role == "operator" else "the buyer stopped it"
    return _view(session, context, clusters.stop(session, cluster_id, reason, at=now_utc()))


@router.get("/{cluster_id}/events")
def events(
    cluster_id: str, session: InSession, caller: BuyerOrOperator, after: int = Query(0, ge=0, le=2**31)
) -> list[EventView]:
    """List what happened after an event, oldest first."""
    _seen(session, cluster_id, caller)
    return [
        EventView(**event.model_dump(exclude={"cluster_id"}))
        for event in clusters.events(session, cluster_id, after=after)
    ]


@router.get("/{cluster_id}/access")
def access(cluster_id: str, session: InSession, context: InContext, caller: Buyer) -> Access:
    """Return the head's address and the cluster's own Ray token."""
    cluster = clusters.cluster(session, cluster_id, account_id=caller.account_id)
    if cluster.state != "running":
        raise Conflict(f"the cluster is {cluster.state}", hint=cluster.reason or "wait until it is running")
    return Access(head_address=cluster.head_address, ray_token=context.ray_token(cluster_id))


@router.get("/{cluster_id}/why")
def explain(cluster_id: str, session: InSession, caller: BuyerOrOperator) -> why.Explanation:
    """Say what a cluster waits for, with numbers, and what would help."""
    return why.explain(session, _seen(session, cluster_id, caller), at=now_utc())


@router.get("/{cluster_id}/receipt")
def receipt(cluster_id: str, session: InSession, caller: BuyerOrOperator) -> dict[str, Any]:
    """Return the receipt: job → leases → seconds → verdicts → charge → earning."""
    _seen(session, cluster_id, caller)
    return receipts.receipt(session, cluster_id, at=now_utc())


@router.get("/{cluster_id}/nodes")
def nodes(cluster_id: str, session: InSession, caller: Anyone) -> Nodes:
    """List the standing bids and leased nodes, for the cluster's autoscaler and its buyer."""
    _own(session, cluster_id, caller)
    return Nodes(nodes=[_node(bid) for bid in bids.standing(session, cluster_id)])


@router.post("/{cluster_id}/nodes", status_code=201)
def bid(cluster_id: str, body: NodeRequest, session: InSession, caller: Head) -> Nodes:
    """Bid for nodes: the autoscaler's ``create_node``."""
    _own(session, cluster_id, caller)
    placed = bids.place(
        session,
        cluster_id=cluster_id,
        device_class=body.device_class,
        node_ids=body.node_ids,
        request_id=body.request_id,
        at=now_utc(),
    )
    return Nodes(nodes=[_node(found) for found in placed])


@router.delete("/{cluster_id}/nodes/{node_id}")
def give_back(cluster_id: str, node_id: str, session: InSession, caller: Head) -> Node:
    """Withdraw a bid or give a leased node back: the autoscaler's ``terminate_node``."""
    _own(session, cluster_id, caller)
    bids.bid(session, node_id, cluster_id=cluster_id)
    _end_leases(session, cluster_id, node_id)
    found = bids.lock(session, node_id)
    _end_leases(session, cluster_id, node_id)  # one that was awarded in between; from here on none can be
    bids.close(session, found, "withdrawn", at=now_utc())
    return _node(found)


def _end_leases(session: InSession, cluster_id: str, node_id: str) -> None:
    for lease in leases.open_of(session, cluster_id):
        if lease.bid_id == node_id:
            leases.close(session, lease.id, "Ray gave the node back", at=now_utc())


def _seen(session: InSession, cluster_id: str, caller: Caller) -> clusters.Cluster:
    """Return a cluster to its buyer, and to operators, who may look at every one and stop it."""
    return clusters.cluster(session, cluster_id, account_id=None if caller.role == "operator" else caller.account_id)


def _own(session: InSession, cluster_id: str, caller: Caller) -> None:
    """Admit the cluster's buyer and its own head."""
    if caller.role == "head":
        if caller.cluster_id != cluster_id:
            raise Forbidden("a head acts for its own cluster alone")
        return
    if caller.role != "buyer":
        raise Forbidden(f"a {caller.role} key cannot do this", hint="use a buyer's key")
    clusters.cluster(session, cluster_id, account_id=caller.account_id)


def _node(found: bids.Bid) -> Node:
    text = (found.last_loss or {}).get("text", "") if found.state == "standing" else ""
    return Node(
        node_id=found.id,
        device_class=found.device_class,
        request_id=found.request_id,
        leased=found.state == "leased",
        why=text,
    )


def _view(session: InSession, context: InContext, cluster: clusters.Cluster) -> ClusterView:
    open_leases = leases.open_of(session, cluster.id)
    waiting = [bid for bid in bids.standing(session, cluster.id) if bid.state == "standing"]
    return ClusterView(
        cluster_id=cluster.id,
        ray_url=f"{context.settings.url}/v1/clusters/{cluster.id}/ray",
        committed_micros=leases.committed_micros(session, cluster.id),
        nodes_leased=len(open_leases),
        nodes_joined=sum(lease.joined_at is not None for lease in open_leases),
        nodes_waiting=len(waiting),
        **{name: getattr(cluster, name) for name in ClusterView.model_fields if name in clusters.Cluster.model_fields},
    )
