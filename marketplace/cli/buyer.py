"""A buyer's commands: wallet, clusters, why, receipt."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from billing.money import format_usd
from marketplace.cli.output import AsJson, command, console, show, table
from marketplace.client import Api, Market
from marketplace.client.receipt import HEADINGS, UNPAID_HEADINGS, Receipt

clusters = typer.Typer(help="Open, list, show and stop clusters.", no_args_is_help=True)
wallet = typer.Typer(help="Show and top up credit.", no_args_is_help=True)
ClusterId = Annotated[str, typer.Argument(help="The cluster's id, like cl_…")]


@clusters.command("open")
@command
def open_cluster(
    max_price: Annotated[str, typer.Option(help="Most for a compute-hour of a node, fee included, like 0.05")],
    budget: Annotated[str, typer.Option(help="Most in all, like 2; never exceeded")],
    nodes: Annotated[int, typer.Option(help="Most nodes at a time")] = 1,
    idle_timeout: Annotated[int, typer.Option(help="Seconds until an idle node is given back")] = 300,
    region: Annotated[str, typer.Option(help="Where devices stand")] = "eu",
    trust: Annotated[str, typer.Option(help="vetted, or open for devices of anyone")] = "vetted",
    name: Annotated[str, typer.Option(help="What to call it")] = "",
    as_json: AsJson = False,
) -> None:
    """Open a cluster and wait until its Ray head is ready."""
    cluster = Market().cluster(
        max_price=max_price,
        budget=budget,
        nodes=nodes,
        idle_timeout_seconds=idle_timeout,
        region=region,
        trust=trust,
        name=name,
    )
    with console.status("the Ray head is starting, about 10 s"):
        cluster.wait_ready()
    lines = (
        f"{cluster.id} is ready. Submit to it with Ray's own tools:\n"
        f"  RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$SPARE_API_KEY ray job submit --address {cluster.address} -- python …\n"
        f"Stop it with: spare cluster stop {cluster.id}"
    )
    show(cluster.status(), as_json, lambda: lines)


@clusters.command("list")
@command
def list_clusters(as_json: AsJson = False) -> None:
    """List your clusters, newest first."""
    found = Api().call("GET", "/v1/clusters")
    headings = ("cluster", "name", "state", "nodes", "waiting", "spent or held", "budget", "why")
    show(found, as_json, lambda: table("Clusters", headings, [_row(c) for c in found], right=headings[3:7]))


@clusters.command("show")
@command
def show_cluster(cluster_id: ClusterId, as_json: AsJson = False) -> None:
    """Show a cluster and what happened in it."""
    cluster = Market().open_cluster(cluster_id)
    events = cluster.events()
    rows = [(event["at"][11:19], event["kind"], event["text"]) for event in events]
    data = {"cluster": cluster.status(), "events": events}
    show(data, as_json, lambda: table(repr(cluster), ("time", "what", ""), rows))


@clusters.command("access")
@command
def access(cluster_id: ClusterId, as_json: AsJson = False) -> None:
    """Print what `ray status` needs to reach the head itself; for eval."""
    found = Market().open_cluster(cluster_id).access()
    lines = (
        f"export RAY_ADDRESS={found['head_address']} RAY_AUTH_MODE=token RAY_AUTH_TOKEN={found['ray_token']}"
        " RAY_USAGE_STATS_ENABLED=0"
    )
    if as_json:
        show(found, as_json, lambda: "")
    else:
        typer.echo(lines)


@clusters.command("stop")
@command
def stop_cluster(cluster_id: ClusterId, as_json: AsJson = False) -> None:
    """Stop a cluster and print its receipt."""
    cluster = Market().open_cluster(cluster_id)
    with console.status("leases end and are settled"):
        final = cluster.stop()
    show(final.data, as_json, lambda: receipt_table(final.data))


@command
def why(cluster_id: ClusterId, as_json: AsJson = False) -> None:
    """Say what a cluster waits for, with numbers, and what would help."""
    found = Market().open_cluster(cluster_id).why()
    headings = ("node", "class", "waits", "lost clearings", "your limit", "why", "what helps")
    rows = [
        (
            w["node_id"],
            w["device_class"],
            f"{w['waits_seconds']} s",
            str(w["lost_clearings"]),
            format_usd(w["limit_micros_per_hour"]),
            w["reason"],
            w["hint"],
        )
        for w in found["waiting"]
    ]
    show(found, as_json, lambda: table(found["summary"], headings, rows) if rows else found["summary"])


@command
def receipt(
    cluster_id: ClusterId,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON to this file")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a cluster cost and why, to the micro-dollar."""
    found = Market().open_cluster(cluster_id).receipt()
    if output:
        output.write_text(found.to_json())
    show(found.data, as_json, lambda: receipt_table(found.data))


@command
def market(as_json: AsJson = False) -> None:
    """Show the fee, the classes on offer and the last clearing prices."""
    found = Market().rules()
    prices = {c["device_class"]: c for c in found["last_classes"]}
    rows = [
        (
            name,
            str(count),
            _price(prices.get(name, {}).get("price_micros")),
            str(prices.get(name, {}).get("volume", 0)),
        )
        for name, count in sorted(found["devices_present"].items())
    ]
    title = f"Fee {found['fee_bps'] / 100:.1f} %, Ray {found['ray']}, Python {found['python']}"
    headings = ("device class", "devices", "last price /CU-h", "sold")
    show(found, as_json, lambda: table(title, headings, rows, right=headings[1:]))


@wallet.command("show")
@command
def show_wallet(as_json: AsJson = False) -> None:
    """Show your credit."""
    found = Market().wallet()
    text = f"{format_usd(found['available_micros'])} to spend, {format_usd(found['held_micros'])} held for leases"
    show(found, as_json, lambda: text)


@wallet.command("top-up")
@command
def top_up(amount: Annotated[str, typer.Argument(help="Like 5 or 12.50")], as_json: AsJson = False) -> None:
    """Start a top-up and print where to pay."""
    found = Market().top_up(amount)
    show(found, as_json, lambda: f"Pay here: {found['url']}\nThe credit is there once the payment is final.")


def receipt_table(data: dict[str, Any]) -> RenderableType:
    """Return a receipt as tables."""
    made = Receipt(data)
    money = table(str(made), HEADINGS, made.rows(), right=HEADINGS[1:])
    return Group(money, table("Not paid, and why", UNPAID_HEADINGS, made.unpaid_rows(), right=("seconds",)))


def _row(c: dict[str, Any]) -> tuple[str, ...]:
    money = (format_usd(c["committed_micros"]), format_usd(c["budget_micros"], 2))
    return (
        c["cluster_id"],
        c["name"],
        c["state"],
        str(c["nodes_joined"]),
        str(c["nodes_waiting"]),
        *money,
        c["reason"],
    )


def _price(micros: int | None) -> str:
    return "—" if micros is None else format_usd(micros)
