"""``spare join``: test, measure and enrol this device, then serve leases until Ctrl-C, leaving nothing running."""

import asyncio
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ray_cluster.agent import benchmark, enrol, facts, identity, selftest
from ray_cluster.agent.serve import Agent
from ray_cluster.agent.view import View
from ray_cluster.errors import ClusterError, InvalidInput, Refusal

NO_SANDBOX_MEANING = (
    "WARNING: --no-sandbox. A buyer's code runs as you: it can read and change every file you can, see your other "
    "programs and use your credentials. Use it only on a machine that holds nothing else."
)
SHARED_MEANING = (
    "A buyer's code runs here in a sandbox: it sees none of your files and programs, but it shares your network, and, "
    "without a hard cap in this version, your cores and memory."
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the provider asked for; ``price`` and ``memory`` as written on the command line."""

    url: str
    token: str = ""
    price: str = "0.05"
    name: str = ""
    region: str = "eu"
    cpus: int | None = None
    memory: str = ""
    state_dir: Path = identity.DEFAULT_STATE_DIR
    manual: bool = False
    no_sandbox: bool = False
    json: bool = False


def run(options: Options) -> int:
    """Serve until told to stop; return 0, or 1 after one line saying what is wrong (2 when it is the command's)."""
    view = View(as_json=options.json)
    try:
        return _join(options, view)
    except ClusterError as error:
        view.error(error)
        return 2 if isinstance(error, InvalidInput) else 1
    except KeyboardInterrupt:
        return 130
    finally:
        view.stop()


def _join(options: Options, view: View) -> int:
    url = enrol.parse_url(options.url)
    reserve_micros_per_hour = enrol.parse_price_micros_per_hour(options.price)
    memory_bytes = facts.parse_memory_bytes(options.memory) if options.memory else None
    offer = facts.measure(options.cpus, memory_bytes)
    state_dir = options.state_dir.expanduser()
    with identity.only_one(state_dir):
        key = identity.load_or_create(state_dir)
        if options.no_sandbox:
            view.tell("no_sandbox", f"[yellow]{NO_SANDBOX_MEANING}[/]", meaning=NO_SANDBOX_MEANING)
        checks = selftest.run(offer, state_dir, sandboxed=not options.no_sandbox, skew_ms=enrol.clock_skew_ms(url))
        view.tell("selftest", selftest.as_table(checks), **selftest.as_json(checks))
        failed = [check for check in checks if not check.passed]
        if failed:
            raise Refusal(f"this device cannot serve yet: {failed[0].name}: {failed[0].found}", failed[0].mend)
        if not options.no_sandbox:
            view.tell("shared", SHARED_MEANING, meaning=SHARED_MEANING)
        score = benchmark.run_apart(offer.cpus)
        spread = f"rounds ±{score.spread_millis / 20:.0f} %"
        view.tell(
            "benchmark",
            f"Benchmark: {score.score_millis / 1000:.2f}× the reference device ({spread})",
            score_millis=score.score_millis,
            spread_millis=score.spread_millis,
        )
        body = enrol.request_body(
            key,
            offer,
            token=options.token,
            name=options.name or platform.node(),
            region=options.region,
            score_millis=score.score_millis,
            reserve_micros_per_hour=reserve_micros_per_hour,
        )
        device = enrol.enrol(url, body)
        view.tell(
            "enrolled",
            escape(f"Enrolled as {device.name} ({device.device_id}), class {device.device_class}. Ctrl-C leaves."),
            device_id=device.device_id,
            device_class=device.device_class,
            name=device.name,
        )
        agent = Agent(
            url,
            key,
            device,
            offer,
            reserve_micros_per_hour=reserve_micros_per_hour,
            sandboxed=not options.no_sandbox,
            manual=options.manual,
            view=view,
        )
        asyncio.run(agent.run())
        view.stop()
        view.tell("left", "Left the market; nothing of it runs here any more.")
    return 0


def join(
    url: Annotated[str, typer.Argument(help="The market, like https://spare.example")],
    token: Annotated[str, typer.Option(envvar="SPARE_JOIN_TOKEN", help="From `spare invite`; once per device")] = "",
    price: Annotated[str, typer.Option(help="Least you want, in dollars per compute-hour")] = "0.05",
    name: Annotated[str, typer.Option(help="What your pages call this device")] = "",
    region: Annotated[str, typer.Option(help="Where it stands")] = "eu",
    cpus: Annotated[int | None, typer.Option(help="Offer only so many cores")] = None,
    memory: Annotated[str, typer.Option(help="Offer only so much memory, like 4g")] = "",
    state_dir: Annotated[Path, typer.Option(help="Where this device keeps its key")] = identity.DEFAULT_STATE_DIR,
    manual: Annotated[bool, typer.Option("--manual", help="Show each ray start instead of running it")] = False,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="Run a buyer's code WITHOUT a sandbox")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines, also in a terminal")] = False,
) -> None:
    """Offer this device: it earns whenever a buyer pays your price or more."""
    options = Options(url, token, price, name, region, cpus, memory, state_dir, manual, no_sandbox, json)
    raise typer.Exit(run(options))


if __name__ == "__main__":
    typer.run(join)
