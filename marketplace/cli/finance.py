"""Finance's commands: the ledger's proof, payouts, reports."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from billing.money import format_usd
from marketplace.cli.output import AsJson, command, show, table
from marketplace.client import Api

ledger = typer.Typer(help="Prove the ledger.", no_args_is_help=True)
payouts = typer.Typer(help="Run and list payouts.", no_args_is_help=True)


@ledger.command()
@command
def check(as_json: AsJson = False) -> None:
    """Prove the trial balance and the holds; exit code 1 when anything is wrong."""
    found = Api().call("GET", "/v1/ledger/check")
    rows = [
        (a["account"], *(format_usd(a[key]) for key in ("debits_micros", "credits_micros", "balance_micros")))
        for a in found["accounts"]
    ]
    difference = format_usd(found["total_debits_micros"] - found["total_credits_micros"])
    title = f"Trial balance: debits − credits = {difference}" + ("" if found["ok"] else f" — {found['problems']}")
    headings = ("account", "debits", "credits", "balance")
    show(found, as_json, lambda: table(title, headings, rows, right=headings[1:]))
    if not found["ok"]:
        raise typer.Exit(1)


@payouts.command()
@command
def run(as_json: AsJson = False) -> None:
    """Pay every provider that can be paid and has earned the minimum."""
    found = Api().call("POST", "/v1/payouts")
    show(found, as_json, lambda: f"{len(found)} payouts are on their way")


@payouts.command("list")
@command
def list_payouts(as_json: AsJson = False) -> None:
    """List the newest payouts."""
    found = Api().call("GET", "/v1/payouts")
    headings = ("payout", "provider", "amount", "state", "transfer", "sent", "why not")
    rows = [
        (
            p["payout_id"],
            p["provider_id"],
            format_usd(p["amount_cents"] * 10_000, 2),
            p["status"],
            p["transfer_id"] or "",
            (p["sent_at"] or "")[:19],
            p["failure"],
        )
        for p in found
    ]
    show(found, as_json, lambda: table("Payouts", headings, rows, right=("amount",)))


@command
def report(
    name: Annotated[str, typer.Argument(help="payouts, earnings or summary")],
    output: Annotated[Path, typer.Option(help="File to write, .csv or .xlsx")],
    start: Annotated[
        str, typer.Option("--from", help="Like 2026-01-01T00:00:00+00:00; 31 days ago when left out")
    ] = "",
    end: Annotated[str, typer.Option("--to", help="Up to, not including; now when left out")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a report to a file."""
    now = datetime.now(UTC)
    query = {"from": start or (now - timedelta(days=31)).isoformat(), "to": end or now.isoformat()}
    found = Api().send("GET", f"/v1/reports/{name}", format=output.suffix.lstrip("."), **query)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(found.content)
    show({"file": str(output), "bytes": len(found.content)}, as_json, lambda: f"Wrote {output}")
