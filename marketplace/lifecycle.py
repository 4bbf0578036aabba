"""What time does to clusters and leases: heads start and die, leases end or renew, silent devices lose theirs.

Every step looks at the state and does what is missing, so each can be killed at any instruction and run again.
"""

import shutil
from datetime import datetime, timedelta

import httpx
from sqlmodel import Session, col, func, select

from billing import money
from marketplace import accounts, bids, clusters, device_classes, jobs, leases, readings
from marketplace.clusters import Cluster
from marketplace.context import Context
from marketplace.database import transaction
from marketplace.devices import Device
from marketplace.leases import Lease
from ray_cluster import heads
from ray_cluster.errors import Refusal

VOUCH_MS_MAX = 8_000
"""How long a stopping cluster waits for one more check of each node, so that its last seconds can be verified."""
WARN_SHARE_PERCENT = 80
UNCHECKED_MS_MAX = 60_000
"""A joined node that has passed no check for this long earns nothing: its lease ends, and the buyer gets another."""
KEEP_DAYS = 30
"""How long readings and a stopped cluster's files are kept."""
_heads = httpx.Client(timeout=3, trust_env=False)  # making one costs as much as twenty calls


def step_clusters(context: Context, *, at: datetime) -> None:
    """Bring every live cluster one step further: start its head, notice its death, stop it."""
    with context.sessions() as session:
        live = session.exec(select(Cluster.id, Cluster.state).where(col(Cluster.state).in_(clusters.LIVE))).all()
    for cluster_id, state in live:
        {"starting": _start, "running": _watch, "stopping": _stop}[state](context, cluster_id, at)


def step_leases(context: Context, *, at: datetime, heard_since: datetime) -> None:
    """End what has run out, whose device is gone or idle, or that was never joined.

    ``heard_since``: devices silent since then are gone; it never lies before this process could hear them.
    """
    with context.sessions() as session:
        found = session.exec(
            select(Lease, Device, Cluster)
            .join(Device, col(Device.id) == col(Lease.device_id))
            .join(Cluster, col(Cluster.id) == col(Lease.cluster_id))
            .where(Lease.state == "open")
        ).all()
        # A node that never joins must not win another wait with every renewal.
        first = select(Lease.bid_id, func.min(Lease.started_at)).group_by(Lease.bid_id)
        began = dict(session.exec(first.where(col(Lease.bid_id).in_([lease.bid_id for lease, _, _ in found]))).all())
        ends = [
            (lease.id, _why_ends(session, context, lease, device, cluster, began[lease.bid_id], at, heard_since))
            for lease, device, cluster in found
        ]
        due = [lease.id for lease, _, _ in found if lease.ends_at <= at]
    for lease_id, reason in ends:
        if reason:
            with transaction(context.sessions) as session:
                leases.close(session, lease_id, reason, at=at)
    for lease_id in due:
        with transaction(context.sessions) as session:
            leases.end_or_renew(session, lease_id, at=at)


def _why_ends(
    session: Session,
    context: Context,
    lease: Lease,
    device: Device,
    cluster: Cluster,
    began_at: datetime,
    at: datetime,
    heard_since: datetime,
) -> str:
    if device.left_at is not None:
        return "the device left"
    if device.last_seen_at is None or device.last_seen_at < heard_since:
        seen = f"{(at - device.last_seen_at).total_seconds():.0f} s" if device.last_seen_at else "ever"
        return f"the device was lost: nothing heard from it for {seen}"
    if lease.joined_at is None:
        limit = timedelta(milliseconds=context.settings.join_ms_max)
        return f"the device did not join within {limit.seconds} s" if began_at + limit < at else ""
    unchecked_ms = readings.reported_until(session, cluster.id) - readings.last_passed(session, lease)
    if unchecked_ms > UNCHECKED_MS_MAX:
        return f"no check passed for {unchecked_ms // 1000} s: nothing it does can be verified"
    idle_seconds = (at - max(lease.joined_at, lease.last_busy_at or lease.joined_at)).total_seconds()
    if idle_seconds > cluster.idle_timeout_seconds:
        return f"idle for {cluster.idle_timeout_seconds} s"
    return ""


def head_spec(context: Context, cluster: Cluster) -> heads.HeadSpec:
    """Return what the cluster's head is started with."""
    trust: device_classes.TrustTier = "vetted" if cluster.trust == "vetted" else "open"
    return heads.HeadSpec(
        cluster_id=cluster.id,
        folder=context.head_folder(cluster),
        ip=context.settings.head_ip,
        ray_token=context.ray_token(cluster.id),
        market_url=context.settings.url,
        market_key=_program_key(context, "head", cluster.id),
        warden_key=_program_key(context, "warden", cluster.id),
        node_types=device_classes.node_types(cluster.region, trust, _kinds_on_offer(context, cluster)),
        max_nodes=cluster.max_nodes,
        idle_timeout_seconds=cluster.idle_timeout_seconds,
    )


def _program_key(context: Context, role: str, cluster_id: str) -> str:
    return f"spare_{role}_{accounts.derived_secret(context.secret, f'{role}:{cluster_id}')}"


def _kinds_on_offer(context: Context, cluster: Cluster) -> list[str]:
    """Return the kinds that Ray may ask for: what the buyer allows, and of that what somebody has enrolled.

    Ray asks for the smallest type that fits and then waits for it, so a type that nobody offers would be waited for in
    vain while a larger one stands idle. With nothing enrolled at all, every kind the buyer allows is waited for.
    """
    with context.sessions() as session:
        enrolled = session.exec(
            select(Device.device_class)
            .where(col(Device.device_class).like(f"%.{cluster.region}.{cluster.trust}"), col(Device.left_at).is_(None))
            .distinct()
        ).all()
    offered = {device_class.split(".")[0] for device_class in enrolled}
    allowed = cluster.kinds or list(device_classes.kinds())
    return [kind for kind in allowed if kind in offered] or allowed


def _start(context: Context, cluster_id: str, at: datetime) -> None:
    with transaction(context.sessions) as session:
        cluster = clusters.cluster(session, cluster_id)
        for role in ("head", "warden"):
            accounts.remember_key(
                session,
                _program_key(context, role, cluster_id),
                account_id=cluster.account_id,
                role=role,
                at=at,
                cluster_id=cluster_id,
            )
    folder = context.head_folder(cluster)
    head = heads.find(folder)
    if head is None or not heads.running(folder) or not heads.warden_running(folder):
        try:
            head = heads.start(head_spec(context, cluster), device_classes.template())
        except Refusal as problem:
            _ask_to_stop(context, cluster_id, f"{problem.message} {problem.hint}".strip(), at)
            return
    if _answers(head.dashboard_url, context.ray_token(cluster_id)):
        with transaction(context.sessions) as session:
            found = clusters.lock(session, cluster_id)
            if found.state == "starting":
                found.state, found.ready_at = "running", at
                found.head_address, found.dashboard_url = head.address, head.dashboard_url
                session.add(found)
                took = (at - found.created_at).total_seconds()
                clusters.note(session, cluster_id, "ready", f"the Ray head is ready after {took:.1f} s", at=at)
    elif at - cluster.created_at > timedelta(milliseconds=context.settings.head_start_ms_max):
        _ask_to_stop(context, cluster_id, "the Ray head did not start in time", at)
    elif not heads.running(folder):
        _ask_to_stop(context, cluster_id, "the Ray head ended while starting", at)


def _answers(dashboard_url: str, token: str) -> bool:
    try:
        return _heads.get(f"{dashboard_url}/api/version", headers={"Authorization": f"Bearer {token}"}).is_success
    except httpx.HTTPError:
        return False


def note_jobs(context: Context, cluster_id: str, *, at: datetime) -> None:
    """Ask a cluster's head how its jobs are, and note it; a head that does not answer changes nothing."""
    with context.sessions() as session:
        url = clusters.cluster(session, cluster_id).dashboard_url
    headers = {"Authorization": f"Bearer {context.ray_token(cluster_id)}"}
    try:
        found = _heads.get(f"{url}/api/jobs/", headers=headers).raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return
    with transaction(context.sessions) as session:
        for job in found:
            if job.get("submission_id"):
                status, entrypoint = str(job.get("status", "")), str(job.get("entrypoint", ""))
                jobs.update(session, cluster_id, job["submission_id"], status, entrypoint=entrypoint, at=at)


def _watch(context: Context, cluster_id: str, at: datetime) -> None:
    with context.sessions() as session:
        cluster = clusters.cluster(session, cluster_id)
    folder = context.head_folder(cluster)
    if not heads.running(folder):
        _ask_to_stop(context, cluster_id, "the Ray head died", at)
        return
    if not heads.warden_running(folder):
        heads.start(head_spec(context, cluster), device_classes.template())
    with transaction(context.sessions) as session:
        _watch_budget(session, clusters.lock(session, cluster_id), at)


def _watch_budget(session: Session, cluster: Cluster, at: datetime) -> None:
    """Warn when most of the budget is committed; stop when what is left buys nothing and nothing runs."""
    committed = leases.committed_micros(session, cluster.id)
    if not cluster.warned and committed * 100 >= cluster.budget_micros * WARN_SHARE_PERCENT:
        cluster.warned = True
        session.add(cluster)
        text = f"{money.format_usd(committed)} of {money.format_usd(cluster.budget_micros)} are spent or held"
        clusters.note(session, cluster.id, "budget", text, at=at)
    unsettled = session.exec(
        select(Lease.id).where(Lease.cluster_id == cluster.id, col(Lease.state).in_(leases.UNSETTLED))
    ).first()
    losses = [bid.last_loss or {} for bid in bids.standing(session, cluster.id)]
    # The clearing knows what a lease costs on the devices that are here, and so whether the budget buys one.
    spent = any(loss.get("short_of") == "budget" for loss in losses) or committed >= cluster.budget_micros
    if unsettled is None and spent:
        left = money.format_usd(cluster.budget_micros - committed)
        clusters.stop(session, cluster.id, f"the budget is spent: {left} left buy no lease at your price", at=at)


def _ask_to_stop(context: Context, cluster_id: str, reason: str, at: datetime) -> None:
    with transaction(context.sessions) as session:
        clusters.stop(session, cluster_id, reason, at=at)


def _stop(context: Context, cluster_id: str, at: datetime) -> None:
    """End bids and leases, wait for their settlement, then end head and warden. Nothing is lost on the way."""
    with transaction(context.sessions) as session:
        cluster = clusters.lock(session, cluster_id)
        for bid in bids.standing(session, cluster_id):
            if bid.state == "standing":
                bids.close(session, bid, f"the cluster stopped: {cluster.reason}", at=at)
        stopping_at = cluster.stopping_at or at
        for lease in leases.open_of(session, cluster_id):
            if _vouched(session, lease, stopping_at) or at - stopping_at > timedelta(milliseconds=VOUCH_MS_MAX):
                leases.close(
                    session,
                    lease.id,
                    f"the cluster stopped: {cluster.reason}",
                    at=_vouched(session, lease, stopping_at) or at,
                )
        unsettled = session.exec(
            select(Lease.id).where(Lease.cluster_id == cluster_id, col(Lease.state).in_(leases.UNSETTLED))
        ).first()
    if unsettled is not None:
        return
    note_jobs(context, cluster_id, at=at)  # the last word of its jobs, before nobody can be asked any more
    if not heads.stop(context.head_folder(cluster)):
        return
    with transaction(context.sessions) as session:
        cluster = clusters.lock(session, cluster_id)
        cluster.state, cluster.stopped_at = "stopped", at
        session.add(cluster)
        accounts.revoke_cluster_keys(session, cluster_id, at=at)
        clusters.note(session, cluster_id, "stopped", f"stopped: {cluster.reason}", at=at)


def prune(context: Context, *, at: datetime) -> None:
    """Delete readings and the files of stopped clusters that nobody needs any more."""
    since = at - timedelta(days=KEEP_DAYS)
    with transaction(context.sessions) as session:
        readings.forget(session, before_ms=int(since.timestamp() * 1000))
        old = session.exec(select(Cluster).where(Cluster.state == "stopped", col(Cluster.stopped_at) < since)).all()
    for cluster in old:
        shutil.rmtree(context.head_folder(cluster), ignore_errors=True)


def _vouched(session: Session, lease: Lease, since: datetime) -> datetime | None:
    """Return the time of a check that the lease's node passed since then."""
    _, checks = readings.evidence(session, lease)
    since_ms = int(since.timestamp() * 1000)
    passed = [check.at_ms for check in checks if check.outcome == "passed" and check.at_ms >= since_ms]
    return datetime.fromtimestamp(min(passed) / 1000, since.tzinfo) if passed else None
