"""What the agent decides, from wishes and nodes."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.agent.node import Lease, Node
from ray_cluster.agent.reconcile import (
    LOST_LINK_GRACE_MS,
    Action,
    Decline,
    Drain,
    Forget,
    Renew,
    Start,
    Stop,
    reconcile,
)

GIB = 1 << 30
NODE_IDS = st.sampled_from(["a", "b", "c"])


def lease(node_id: str, lease_id: str = "ls_1", state: str = "run", cpus: int = 1, ends_at_ms: int = 1000) -> Lease:
    return Lease(
        lease_id,
        node_id,
        "cl",
        "cpu",
        state,
        ends_at_ms,
        "127.0.0.1:1",
        "127.0.0.1",
        "t",
        cpus,
        GIB,  # type: ignore[arg-type]
    )


leases = st.builds(
    lease,
    NODE_IDS,
    st.sampled_from(["ls_1", "ls_2"]),
    st.sampled_from(["run", "drain"]),
    st.integers(1, 3),
    st.integers(0, 5),
)
wishes = st.lists(leases, max_size=3, unique_by=lambda one: one.node_id).map(tuple)
nodes = st.lists(
    st.builds(
        Node,
        NODE_IDS,
        st.sampled_from(["ls_1", "ls_2"]),
        st.integers(0, 5),
        st.sampled_from(["starting", "running", "stopped", "failed"]),
        st.integers(1, 2),
        st.sampled_from(["no", "drain", "stop"]),
    ),
    max_size=3,
    unique_by=lambda one: one.node_id,
).map(lambda found: {one.node_id: one for one in found})


def decide(desired: tuple[Lease, ...] | None, running: Mapping[str, Node], now_ms: int = 0) -> tuple[Action, ...]:
    return reconcile(desired, running, now_ms=now_ms, cpus=2, memory_bytes=4 * GIB)


def applied(actions: tuple[Action, ...], running: Mapping[str, Node]) -> dict[str, Node]:
    """The nodes just after the actions were begun."""
    after = dict(running)
    for action in actions:
        match action:
            case Start(one):
                after[one.node_id] = Node(one.node_id, one.lease_id, one.ends_at_ms, "starting", one.cpus)
            case Renew(one):
                after[one.node_id] = replace(after[one.node_id], lease_id=one.lease_id, ends_at_ms=one.ends_at_ms)
            case Drain(node_id):
                after[node_id] = replace(after[node_id], ending="drain")
            case Stop(node_id):
                after[node_id] = replace(after[node_id], ending="stop")
            case Forget(node_id):
                del after[node_id]
            case Decline(one):
                after[one.node_id] = Node(one.node_id, one.lease_id, one.ends_at_ms, "failed", one.cpus)
    return after


@given(wishes, nodes)
def test_deciding_twice_changes_nothing(desired: tuple[Lease, ...], running: dict[str, Node]) -> None:
    """Once begun, an action is not asked for again: a frame may arrive any number of times."""
    after = applied(decide(desired, running), running)
    assert decide(desired, after) == ()


@given(wishes, nodes)
def test_a_known_node_is_never_started_again(desired: tuple[Lease, ...], running: dict[str, Node]) -> None:
    """There are never two processes for one node, and an ended node stays ended until the market drops it."""
    started = [action.lease.node_id for action in decide(desired, running) if isinstance(action, Start)]
    assert len(started) == len(set(started))
    assert not set(started) & set(running)


@given(wishes, nodes)
def test_the_device_is_never_overcommitted_by_a_start(desired: tuple[Lease, ...], running: dict[str, Node]) -> None:
    """A start waits until the node that is leaving has freed its cores: clusters never share a core."""
    actions = decide(desired, running)
    if any(isinstance(action, Start) for action in actions):
        assert sum(node.cpus for node in applied(actions, running).values() if node.live) <= 2


def test_a_renewal_keeps_the_node() -> None:
    """The same node under a new lease runs on; nothing is stopped or started."""
    running = {"a": Node("a", "ls_1", 1000, "running", 1)}
    renewed = lease("a", "ls_2", ends_at_ms=2000)
    assert decide((renewed,), running) == (Renew(renewed),)


def test_what_the_market_dropped_is_stopped_then_forgotten() -> None:
    """Absent means stop, also for a node that is draining; an ended one is reported until it is absent."""
    running = {"a": Node("a", "ls_1", 1000, "running", 1, "drain"), "b": Node("b", "ls_1", 1000, "failed", 1)}
    assert decide((), running) == (Stop("a"), Forget("b"))
    assert decide((lease("b"),), {"b": running["b"]}) == ()


def test_a_lost_link_keeps_nodes_until_their_lease_and_its_grace_are_over() -> None:
    """A broken network alone ends nothing; an unheard-of lease does not run on for ever."""
    running = {"a": Node("a", "ls_1", 1000, "running", 1)}
    assert decide(None, running, now_ms=1000 + LOST_LINK_GRACE_MS) == ()
    assert decide(None, running, now_ms=1001 + LOST_LINK_GRACE_MS) == (Stop("a"),)


def test_more_than_was_offered_is_declined() -> None:
    """The device, not only the market, guards what the provider offered."""
    (action,) = decide((lease("a", cpus=3),), {})
    assert isinstance(action, Decline)
