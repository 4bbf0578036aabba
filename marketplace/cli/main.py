"""Every command of ``spare``, by who uses it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from marketplace.cli import buyer, finance, keys, operator, provider
from marketplace.settings import Settings
from ray_cluster.agent.main import join

app = typer.Typer(
    help="Spare: idle computers earn, buyers pay only for compute that was verified.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals hold keys
)
app.command("join")(join)
app.add_typer(buyer.clusters, name="cluster")
app.add_typer(buyer.wallet, name="wallet")
app.command("why")(buyer.why)
app.command("receipt")(buyer.receipt)
app.command("market")(buyer.market)
app.command("invite")(provider.invite)
app.command("devices")(provider.devices)
app.command("earnings")(provider.earnings)
app.add_typer(finance.ledger, name="ledger")
app.add_typer(finance.payouts, name="payout")
app.command("report")(finance.report)
app.add_typer(operator.accounts, name="account")
app.add_typer(keys.keys, name="key")


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8440 when left out")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 when left out")] = None,
    home: Annotated[Path | None, typer.Option(help="Where the embedded database and the heads' files live")] = None,
    background: Annotated[bool, typer.Option(help="Do the background work in this process")] = True,
) -> None:
    """Serve the market. Settings come from SPARE_* in the environment; these options override them."""
    from marketplace import serve as serving

    serving.serve(_settings(port, host, home), background=background)


@app.command()
def background(
    port: Annotated[int | None, typer.Option(help="Port of the server that devices and heads dial")] = None,
    host: Annotated[str | None, typer.Option(help="Address of that server")] = None,
    home: Annotated[Path | None, typer.Option(help="Where the heads' files live")] = None,
) -> None:
    """Do the market's background work; several may run, one works at a time."""
    from marketplace import serve as serving

    serving.background_only(_settings(port, host, home))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the market running afterwards")] = False,
    output: Annotated[Path, typer.Option(help="Where to write the picture, receipt and reports")] = Path("demo-output"),
) -> None:
    """Run the whole market on this machine: devices, an AI job, a failure, payment, reports."""
    from marketplace.demo import run

    raise typer.Exit(run(output, keep=keep))


def _settings(port: int | None, host: str | None, home: Path | None) -> Settings:
    """Return the settings: what the command line says, else the environment, else the defaults."""
    given: dict[str, Any] = {"port": port, "host": host, "home": home}
    return Settings(**{name: value for name, value in given.items() if value is not None})
