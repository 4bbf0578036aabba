"""PURE: what the market wants here × what runs here → what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_cluster.agent.node import Lease, Node

LOST_LINK_GRACE_MS = 15_000


@dataclass(frozen=True, slots=True)
class Start:
    """Start a Ray node for this lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Renew:
    """The node runs on; from now on it serves this lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask the node to finish: Ray drains it for up to 30 s."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the node within seconds."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The node has ended and the market has dropped it: it need not be reported again."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Decline:
    """The lease cannot be served; report it as failed, with the reason."""

    lease: Lease
    detail: str


Action = Start | Renew | Drain | Stop | Forget | Decline


def reconcile(
    desired: Sequence[Lease] | None, nodes: Mapping[str, Node], *, now_ms: int, cpus: int, memory_bytes: int
) -> tuple[Action, ...]:
    """Return what to do; ``desired`` is None while the market cannot be heard.

    Applying the actions and asking again gives no further action until the wishes, a process or the time changes.
    ``cpus`` and ``memory_bytes`` are what this device offers; ``now_ms`` is epoch milliseconds.
    """
    if desired is None:
        return tuple(
            Stop(node.node_id)
            for node in nodes.values()
            if node.live and node.ending != "stop" and now_ms > node.ends_at_ms + LOST_LINK_GRACE_MS
        )
    wanted = {lease.node_id: lease for lease in desired}
    actions = [_unwanted(node) for node in nodes.values() if node.node_id not in wanted]
    free_cpus = cpus - sum(node.cpus for node in nodes.values() if node.live)
    for lease in wanted.values():
        node = nodes.get(lease.node_id)
        if node is not None:
            actions.extend(_known(lease, node))
        elif lease.state == "drain":
            actions.append(Decline(lease, "it does not run here"))
        elif lease.cpus > cpus or lease.memory_bytes > memory_bytes or lease.gpus:
            actions.append(Decline(lease, "it asks for more than this device offers"))
        elif lease.cpus <= free_cpus:  # otherwise it waits for the node that is still leaving
            free_cpus -= lease.cpus
            actions.append(Start(lease))
    return tuple(action for action in actions if action is not None)


def _unwanted(node: Node) -> Action | None:
    if not node.live:
        return Forget(node.node_id)
    return None if node.ending == "stop" else Stop(node.node_id)


def _known(lease: Lease, node: Node) -> list[Action]:
    actions: list[Action] = []
    if (lease.lease_id, lease.ends_at_ms) != (node.lease_id, node.ends_at_ms) and node.live:
        actions.append(Renew(lease))
    if lease.state == "drain" and node.live and node.ending == "no":
        actions.append(Drain(node.node_id))
    return actions
