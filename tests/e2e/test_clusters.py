"""Clusters of two buyers side by side: apart from each other, open to Ray's own tools, within their limits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing import money
from marketplace import Market
from marketplace.client import Api, Cluster
from marketplace.demo import story
from marketplace.demo.local_market import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WATCHED = Any
RAY = str(Path(sys.executable).with_name("ray"))
BELOW_EVERY_ASK = "0.50/h"
LOWEST_ASK_MICROS = min(money.parse_usd(price) for name, price in story.DEVICES if name != story.VICTIM)
TINY_MICROS = money.parse_usd("0.12")
IDLE_SECONDS = 5
WANT_NODES = """
import sys, time, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1)
def beat(number):
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()

print("nodes", len(set(ray.get([beat.remote(number) for number in range(int(sys.argv[1]))]))), flush=True)
"""


@dataclass(frozen=True)
class Chair:
    """A buyer, its key and its cluster."""

    key: str
    account_id: str
    market: Market
    cluster: Cluster


def ray(*words: str, token: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Ray's own command line, unchanged, with nothing but a token in its environment."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return subprocess.run([RAY, *words], env=environment, capture_output=True, text=True, check=False, timeout=seconds)


def leases(cluster: Cluster) -> list[dict[str, Any]]:
    """A cluster's leases as its receipt has them now."""
    found: list[dict[str, Any]] = cluster.receipt().data["leases"]
    return found


@pytest.fixture(scope="module")
def shared_market(told: Any) -> WATCHED:
    """The story's market: its two devices that were not killed are free again."""
    return told.shared


@pytest.fixture(scope="module")
def chairs(told: Any, shared_market: WATCHED) -> Iterator[tuple[Chair, Chair]]:
    """Bob offers plenty for one node; Cleo offers less than anybody asks. Their clusters run side by side."""
    market = shared_market.market
    found = []
    for name, limit in (("Bob", story.MAX_PRICE), ("Cleo", BELOW_EVERY_ASK)):
        account = told.story.accounts["Bob"] if name == "Bob" else market.account(name, "buyer")
        buyer = Market(market.url, account["keys"]["buyer"])
        if name != "Bob":
            market.top_up(buyer, "$1")
        cluster = buyer.cluster(max_price=limit, budget="$1", nodes=1, idle_timeout_seconds=IDLE_SECONDS, name=name)
        found.append(Chair(account["keys"]["buyer"], account["account_id"], buyer, cluster))
    for chair in found:
        chair.cluster.wait_ready()
    yield found[0], found[1]
    for chair in found:
        chair.cluster.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's working directory."""
    (tmp_path / "job.py").write_text(WANT_NODES)
    return tmp_path


def test_a_buyers_key_opens_no_other_buyers_cluster(chairs: tuple[Chair, Chair]) -> None:
    """To everybody else a cluster is not there: its page, its stop and its Ray answer 404, without saying more."""
    for mine, other in (chairs, chairs[::-1]):
        for path in ("", "/why", "/receipt", "/ray/api/jobs/", "/ray/api/version"):
            url = f"{other.cluster._api.url}/v1/clusters/{other.cluster.id}{path}"
            assert httpx.get(url, headers={"Authorization": f"Bearer {mine.key}"}).status_code == 404, path
            assert httpx.get(url).status_code == 401, path
        assert (
            httpx.delete(
                f"{other.cluster._api.url}/v1/clusters/{other.cluster.id}",
                headers={"Authorization": f"Bearer {mine.key}"},
            ).status_code
            == 404
        )
    assert [chair.cluster.status()["state"] for chair in chairs] == ["running", "running"]


def test_a_heads_token_opens_no_other_head(shared_market: WATCHED, chairs: tuple[Chair, Chair]) -> None:
    """Who got hold of one cluster's Ray token has that cluster and no other, at the dashboard and at Ray's own port."""
    for mine, other in (chairs, chairs[::-1]):
        head = _head(shared_market, other.cluster)
        url = f"http://{head['ip']}:{head['dashboard_port']}/api/version"
        for token, expected in ((shared_market.ray_token(mine.cluster.id), (401, 403)), (mine.key, (401, 403))):
            assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code in expected
        right = shared_market.ray_token(other.cluster.id)
        assert httpx.get(url, headers={"Authorization": f"Bearer {right}"}).status_code == 200
    head = _head(shared_market, chairs[1].cluster)
    wrong = ray(
        "status", "--address", f"{head['ip']}:{head['port']}", token=shared_market.ray_token(chairs[0].cluster.id)
    )
    assert wrong.returncode != 0
    assert "Autoscaler status" not in wrong.stdout


def test_rays_command_line_works_unchanged(chairs: tuple[Chair, Chair], folder: Path) -> None:
    """Submit, status, logs, list and stop: stock ``ray job`` with the market's key as its token, and nothing else."""
    chair = chairs[1]
    address = ("--address", chair.cluster.address)
    (folder / "hello.py").write_text("import time\nprint('hello from the head', flush=True)\ntime.sleep(300)\n")
    submitted = ray(
        *("job", "submit", *address, "--no-wait", "--submission-id", "stock", "--working-dir", str(folder)),
        *("--", "python", "hello.py"),
        token=chair.key,
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: "hello from the head" in chair.cluster.jobs().get_job_logs("stock"), 60, "the job's first line")
    status = ray("job", "status", *address, "stock", token=chair.key)
    assert "RUNNING" in status.stdout + status.stderr
    assert "hello from the head" in ray("job", "logs", *address, "stock", token=chair.key).stdout
    assert "stock" in ray("job", "list", *address, token=chair.key).stdout
    stopped = ray("job", "stop", *address, "stock", token=chair.key)
    assert stopped.returncode == 0, stopped.stderr
    assert str(chair.cluster.jobs().get_job_status("stock").value) == "STOPPED"
    refused = ray("job", "list", *address, token=chairs[0].key)
    assert refused.returncode != 0


def test_a_price_that_wins_nothing_is_explained(
    shared_market: WATCHED, chairs: tuple[Chair, Chair], folder: Path
) -> None:
    """Ray shows a node that is still to come; the market says which price would win it, and it is the true one."""
    chair = chairs[1]
    job = chair.cluster.submit("python job.py 1", working_dir=str(folder))
    waiting = wait_for(
        lambda: [w for w in chair.cluster.why()["waiting"] if w["lost_clearings"]], 60, "a lost clearing"
    )
    access = chair.cluster.access()

    def pending() -> bool:
        shown = ray("status", "--address", access["head_address"], token=access["ray_token"]).stdout
        assert "Autoscaler status" in shown
        print(shown)
        return "cpu-1c-2g.eu.vetted" in shown.partition("Pending:")[2].partition("Recent failures:")[0]

    wait_for(pending, 40, "ray status to show the pending node")
    fee_bps = chair.market.rules()["fee_bps"]
    would_win = waiting[0]["would_win_at_micros_per_hour"]
    assert money.value_micros(would_win, fee_bps) == LOWEST_ASK_MICROS
    assert money.value_micros(would_win - 1, fee_bps) < LOWEST_ASK_MICROS
    assert money.format_usd(would_win) in waiting[0]["hint"]
    assert chair.cluster.status()["nodes_waiting"] == 1
    assert leases(chair.cluster) == []
    chair.cluster.jobs().stop_job(job.id)


def test_no_more_nodes_than_allowed_and_none_kept_idle(chairs: tuple[Chair, Chair], folder: Path) -> None:
    """``max_nodes`` caps what Ray may ask for; once nothing runs on it a node is given back and costs no more."""
    cluster = chairs[0].cluster
    job = cluster.submit("python job.py 6", working_dir=str(folder))
    most = 0

    def finished() -> bool:
        nonlocal most
        most = max(most, len(cluster._api.call("GET", f"/v1/clusters/{cluster.id}/nodes")["nodes"]))
        return job.status() in ("SUCCEEDED", "FAILED", "STOPPED")

    wait_for(finished, 120, "the job")
    assert "nodes 1" in job.result()
    assert most == 1
    wait_for(lambda: cluster.status()["nodes_leased"] == 0, IDLE_SECONDS + 20, "the idle node to be given back")
    assert cluster.status()["state"] == "running"
    (lease,) = leases(cluster)
    assert "idle" in lease["close_reason"] or "gave the node back" in lease["close_reason"]
    wait_for(lambda: leases(cluster)[0]["state"] == "settled", 60, "its settlement")
    wait_for(lambda: chairs[0].market.wallet()["held_micros"] == 0, 10, "its hold's release")


def test_a_spent_budget_ends_the_cluster_and_is_never_exceeded(chairs: tuple[Chair, Chair], folder: Path) -> None:
    """A budget is a promise: leases are only as long as it lasts, then the cluster stops, settled, and says why."""
    buyer = chairs[0].market
    before = buyer.wallet()["available_micros"]
    cluster = buyer.cluster(max_price=story.MAX_PRICE, budget=money.format_usd(TINY_MICROS), nodes=1, name="tiny")
    cluster.submit("python job.py 1000", working_dir=str(folder))
    most = 0

    def stopped() -> bool:
        nonlocal most
        now = cluster.status()
        most = max(most, now["committed_micros"])
        return bool(now["state"] == "stopped")

    wait_for(stopped, 180, "the budget's end")
    receipt = cluster.receipt()
    assert receipt.final
    assert receipt.data["reason"].startswith("the budget is spent")
    assert 0 < receipt.charge_micros <= TINY_MICROS
    assert most <= TINY_MICROS
    wallet = buyer.wallet()
    assert wallet == {"available_micros": before - receipt.charge_micros, "held_micros": 0}


def test_the_books_balance_after_all_that(told: Any, shared_market: WATCHED, chairs: tuple[Chair, Chair]) -> None:
    """Whatever was opened, lost, stopped or spent: the ledger proves itself and no lease is forgotten."""
    finance = Api(shared_market.market.url, told.story.finance)
    proof = finance.call("GET", "/v1/ledger/check")
    assert proof["ok"], proof["problems"]
    fees = sum(
        buyer.open_cluster(found["cluster_id"]).receipt().data["totals"]["fee_micros"]
        for buyer in (chairs[0].market, chairs[1].market)
        for found in buyer._api.call("GET", "/v1/clusters")
    )
    assert {row["account"]: row["balance_micros"] for row in proof["accounts"]}["platform:fee"] == fees


def _head(watched: WATCHED, cluster: Cluster) -> dict[str, Any]:
    """Where a cluster's head answers."""
    from dataclasses import asdict

    from ray_cluster import heads

    head = heads.find(watched.market.home / "market" / "clusters" / cluster.id)
    assert head is not None
    return asdict(head)
