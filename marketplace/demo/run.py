"""``spare demo``: play the story and show where every cent went."""

import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table

from billing.money import MICROS_PER_CENT, format_usd
from marketplace.cli.buyer import receipt_table
from marketplace.cli.output import table
from marketplace.demo import local_market, story
from marketplace.demo.screen import Screen
from marketplace.demo.story import Story


def run(output: Path, *, keep: bool, console: Console | None = None) -> int:
    """Play the demo, print the tables, and return the exit code; with ``keep``, serve on until Ctrl-C."""
    screen = Screen(console)
    screen.console.print(
        "[bold]Spare[/bold]: a whole market on this machine. Payments go to a Stripe fake on loopback."
    )
    with local_market.running(settings=story.SETTINGS) as market:
        with screen:
            screen.done(f"The market serves at {market.url} on its own PostgreSQL")
            told = story.play(market, screen, output)
        screen.console.print(tables(told), highlight=False)
        screen.console.print(f"{screen.seconds:.0f} s in all.")
        if keep:
            _keep(market, told, screen.console)
    return 0 if told.ledger["ok"] else 1


def tables(told: Story) -> RenderableType:
    """Return the receipt, where every cent went, and the files."""
    assert told.receipt is not None
    files = [path for path in (told.picture, told.output / "receipt.json", *told.reports) if path is not None]
    listing = "\n".join(f"  {path}" for path in files)
    return Group(receipt_table(told.receipt.data), _every_cent(told), f"Written:\n{listing}")


def _every_cent(told: Story) -> Table:
    assert told.receipt is not None
    rows: list[tuple[str, str, str]] = [("Bob topped up", story.TOP_UP + ".000000", "Checkout Session, paid")]
    spent = told.receipt.charge_micros
    rows.append(("  still Bob's", format_usd(told.wallet["available_micros"]), "to spend or to be refunded"))
    rows.append(
        ("  charged to Bob", format_usd(spent), f"{told.receipt.data['totals']['verified_ms'] / 1000:.1f} s verified")
    )
    for name, earned in told.earnings.items():
        paid, rest = earned["paid_micros"], earned["payable_micros"] + earned["pending_micros"]
        rows.append((f"    {name} earned", format_usd(paid + rest), ""))
        transfers = [p for p in told.payouts if p["provider_id"] == told.accounts[name]["account_id"]]
        for payout in transfers:
            amount = format_usd(payout["amount_cents"] * MICROS_PER_CENT)
            rows.append(("      paid out", amount, f"transfer {payout['transfer_id']}"))
        rows.append(("      carried forward", format_usd(rest), "below a cent, never expires"))
    rows.append(("    the market's fee", format_usd(told.receipt.data["totals"]["fee_micros"]), ""))
    off = told.ledger["total_debits_micros"] - told.ledger["total_credits_micros"]
    rows.append(("Trial balance", format_usd(off), "proved" if told.ledger["ok"] else str(told.ledger["problems"])))
    return table("Where every cent went", ("", "dollars", ""), rows, right=("dollars",))


def _keep(market: local_market.LocalMarket, told: Story, console: Console) -> None:
    console.print(f"\nThe market runs on at {market.url} (API: {market.url}/docs). Ctrl-C ends it. Keys:")
    for name, account in told.accounts.items():
        for role, key in account["keys"].items():
            console.print(
                f"  {name} ({role}): SPARE_URL={market.url} SPARE_API_KEY={key}", highlight=False, soft_wrap=True
            )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("ending: devices leave, heads stop")
