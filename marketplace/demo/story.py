"""The demo's story, step by step, on real parts: what ``spare demo`` shows and the end-to-end test asserts."""

import importlib.util
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from billing.money import MICROS_PER_CENT, format_usd
from marketplace.client import Api, Cluster, Job, Market, Receipt
from marketplace.demo.local_market import LocalDevice, LocalMarket, wait_for
from marketplace.demo.screen import Screen

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "enlarge"
CROP = "896x640"
ENTRYPOINT = f"python enlarge.py --model model.onnx --picture photo.png --output out.png --crop {CROP} --print-png"
SETTINGS = {"SPARE_PAYOUT_MINIMUM_CENTS": "1", "SPARE_WINDOW_MS": "10000"}
# A workstation's prices rather than a laptop's, so that a minute is worth cents and can be paid out.
DEVICES = (("ada-laptop", "3.00"), ("ada-desktop", "4.00"), ("ben-rig", "5.00"))
MAX_PRICE, BUDGET, TOP_UP = "8.00/h", "$2", "$5"
VICTIM = "ada-desktop"
KILL_AFTER_MS = 9_000
"""By then the victim has passed a second check: what lies between the two is paid, what comes after is not."""
JOB_SECONDS_MAX = 240


@dataclass
class Story:
    """Everything that the demo made, for its last table and for assertions."""

    output: Path
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    receipt: Receipt | None = None
    picture: Path | None = None
    seams: str = ""
    nodes_seen: int = 0
    payouts: list[dict[str, Any]] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    wallet: dict[str, int] = field(default_factory=dict)
    earnings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def finance(self) -> str:
        """The key that finance uses."""
        return str(self.accounts["Fay"]["keys"]["finance"])


def play(market: LocalMarket, screen: Screen, output: Path) -> Story:
    """Play the whole story on a running market."""
    output.mkdir(parents=True, exist_ok=True)
    story = Story(output)
    folder = output / "job"
    _prepare(folder)
    devices = enrol(market, screen, story)
    buyer = Market(market.url, story.accounts["Bob"]["keys"]["buyer"])
    market.top_up(buyer, TOP_UP)
    screen.done(f"Bob paid {TOP_UP} through a Checkout Session of the Stripe fake")
    screen.step("Bob's cluster opens: its own Ray head, sandboxed")
    cluster = buyer.cluster(
        max_price=MAX_PRICE, budget=BUDGET, nodes=len(DEVICES), idle_timeout_seconds=60, name="demo"
    )
    cluster.wait_ready()
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).disabled = True  # their lines would tear the live view
    screen.done(f"Cluster {cluster.id}: at most {MAX_PRICE} a node, budget {BUDGET}")
    job = cluster.submit(ENTRYPOINT, working_dir=str(folder))
    _watch(screen, story, cluster, job, devices)
    (output / "picture.png").write_bytes(_example("printed").read(job.logs()))
    story.picture = output / "picture.png"
    screen.step("The cluster stops: leases end, usage is judged, the money settles")
    story.receipt = cluster.stop()
    (output / "receipt.json").write_text(story.receipt.to_json())
    screen.done(f"Settled: {format_usd(story.receipt.charge_micros)} charged for verified seconds alone")
    story.seams = _check_seams(folder, story.picture)
    screen.done(f"Seam check against the untiled run: {story.seams}")
    pay(market, screen, story)
    report(market, screen, story)
    story.wallet = buyer.wallet()
    return story


def enrol(market: LocalMarket, screen: Screen, story: Story) -> dict[str, LocalDevice]:
    """Add the people and join the devices, each a process of its own."""
    for name, role in (("Ada", "provider"), ("Ben", "provider"), ("Bob", "buyer"), ("Fay", "finance")):
        story.accounts[name] = market.account(name, role, vetted=role == "provider")
    devices = {}
    for name, price in DEVICES:
        screen.step(f"{name} joins: self-test, benchmark, sandbox check")
        screen.device(name, "joining")
        owner = story.accounts[name.split("-")[0].capitalize()]
        devices[name] = market.join(owner["keys"]["provider"], name=name, price=price)
        screen.device(name, f"free, asks ${price}/h")
    screen.done(f"{len(DEVICES)} devices of 2 providers enrolled")
    for name in ("Ada", "Ben"):
        market.onboard(story.accounts[name]["keys"]["provider"])
    screen.done("Ada and Ben opened payout accounts with the Stripe fake")
    return devices


def _watch(screen: Screen, story: Story, cluster: Cluster, job: Job, devices: dict[str, LocalDevice]) -> None:
    """Follow the job; cut one device's power in the middle."""
    screen.step("Ray's autoscaler bids, the auction awards, devices join in their sandboxes")
    killed = False
    seen: set[str] = set()
    log = ""

    def finished() -> bool:
        nonlocal killed, log
        log = job.logs()
        tiles = [json.loads(line) for line in log.splitlines() if line.startswith('{"done"')]
        seen.update(tile["node"] for tile in tiles)
        _show_devices(screen, cluster, lost=VICTIM if killed else "")
        if tiles:
            screen.step("The job runs: a photograph, enlarged tile by tile")
            screen.tiles(tiles[-1]["done"], tiles[-1]["total"], f"by {len(seen)} devices")
        late = bool(tiles) and tiles[-1]["done"] * 2 > tiles[-1]["total"]
        if not killed and tiles and (late or _claimed_ms(cluster, VICTIM) >= KILL_AFTER_MS):
            devices[VICTIM].kill()
            killed = True
            screen.device(VICTIM, "[red]power cut[/red]")
            screen.done(f"{VICTIM} lost its power after {len(tiles)} of {tiles[-1]['total']} tiles")
        return job.status() in ("SUCCEEDED", "FAILED", "STOPPED")

    wait_for(finished, JOB_SECONDS_MAX, "the job", poll_seconds=0.3)
    job.result()
    story.nodes_seen = len(seen)
    screen.done(f"The job completed on {len(seen)} devices")


def _claimed_ms(cluster: Cluster, name: str) -> int:
    """Return for how long a device's node has run."""
    leases = cluster.receipt().data["leases"]
    return max((lease["claimed_ms"] for lease in leases if lease["device_name"] == name), default=0)


def _show_devices(screen: Screen, cluster: Cluster, *, lost: str) -> None:
    for lease in cluster.receipt().data["leases"]:
        if lease["state"] == "open" and lease["device_name"] != lost:
            price = format_usd(lease["price_micros_per_hour"], 2)
            state = "runs" if lease["claimed_ms"] else "joins"
            screen.device(
                lease["device_name"], f"{state} at {price} a compute-hour × {lease['score_millis'] / 1000:.2f}"
            )


def pay(market: LocalMarket, screen: Screen, story: Story) -> None:
    """Pay the providers through Connect transfers."""
    screen.step("Finance runs the payouts")
    market.stripe_fake("settle", {})
    finance = Api(market.url, story.finance)
    finance.call("POST", "/v1/payouts")

    def sent() -> bool:
        story.payouts = finance.call("GET", "/v1/payouts")
        return bool(story.payouts) and all(payout["status"] == "sent" for payout in story.payouts)

    wait_for(sent, 30, "the payouts")
    total = sum(payout["amount_cents"] for payout in story.payouts)
    screen.done(f"{len(story.payouts)} payouts sent: {format_usd(total * MICROS_PER_CENT, 2)}")


def report(market: LocalMarket, screen: Screen, story: Story) -> None:
    """Write finance's reports and prove the ledger."""
    finance = Api(market.url, story.finance)
    now = datetime.now(UTC)
    period = {"from": (now - timedelta(days=1)).isoformat(), "to": (now + timedelta(minutes=1)).isoformat()}
    for name in ("payouts", "earnings", "summary"):
        for form in ("csv", "xlsx"):
            path = story.output / f"{name}.{form}"
            path.write_bytes(finance.send("GET", f"/v1/reports/{name}", format=form, **period).content)
            story.reports.append(path)
    story.ledger = finance.call("GET", "/v1/ledger/check")
    for name in ("Ada", "Ben"):
        key = story.accounts[name]["keys"]["provider"]
        story.earnings[name] = Api(market.url, key).call("GET", "/v1/earnings")
    off = story.ledger["total_debits_micros"] - story.ledger["total_credits_micros"]
    screen.done(f"Reports written; trial balance: {format_usd(off)}")


def _prepare(folder: Path) -> None:
    _script("fetch.py", str(folder))


def _check_seams(folder: Path, picture: Path) -> str:
    files = ("--model", str(folder / "model.onnx"), "--picture", str(folder / "photo.png"), "--output", str(picture))
    return _script("seams.py", *files, "--crop", CROP).strip()


def _script(name: str, *arguments: str) -> str:
    """Run one of the example's scripts and return what it printed. Raises RuntimeError with its last line."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE / name), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    if ended.returncode != 0:
        raise RuntimeError(f"{name}: {(ended.stderr or ended.stdout).strip()[-500:]}")
    return ended.stdout


def _example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"enlarge_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
