"""The operator's commands: accounts."""

from typing import Annotated

import typer

from marketplace.cli.output import AsJson, command, show, table
from marketplace.client import Api

accounts = typer.Typer(help="Add and approve accounts.", no_args_is_help=True)


@accounts.command()
@command
def create(
    name: Annotated[str, typer.Argument(help="A person's or firm's name")],
    email: Annotated[str, typer.Option()],
    country: Annotated[str, typer.Option(help="Two letters")],
    role: Annotated[list[str], typer.Option(help="buyer, provider, finance or operator; can be repeated")],
    as_json: AsJson = False,
) -> None:
    """Add an account and print its keys; they are shown this once."""
    found = Api().call("POST", "/v1/accounts", {"name": name, "email": email, "country": country, "roles": role})
    rows = list(found["keys"].items())
    show(found, as_json, lambda: table(f"{name} is {found['account_id']}", ("role", "key"), rows))


@accounts.command()
@command
def vet(account_id: Annotated[str, typer.Argument(help="Like acc_…")], as_json: AsJson = False) -> None:
    """Approve a provider: its devices move to the vetted tier."""
    found = Api().call("POST", f"/v1/accounts/{account_id}/vet")
    show(found, as_json, lambda: f"{found['name']} is vetted")
