"""Everybody's commands for their keys: create, list, revoke."""

from typing import Annotated

import typer

from marketplace.cli.output import AsJson, command, show, table
from marketplace.client import Api

keys = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True)


@keys.command()
@command
def create(
    role: Annotated[str, typer.Argument(help="buyer, provider, finance or operator: one that you have")],
    as_json: AsJson = False,
) -> None:
    """Make another key of yours and print it; it is shown this once."""
    found = Api().call("POST", "/v1/keys", {"role": role})
    show(found, as_json, lambda: str(found["key"]))


@keys.command("list")
@command
def list_keys(
    account: Annotated[str, typer.Option(help="For operators: whose keys, like acc_…")] = "", as_json: AsJson = False
) -> None:
    """List your keys, newest first."""
    found = Api().call("GET", "/v1/keys", account_id=account)
    headings = ("key id", "role", "ends in", "made", "revoked")
    rows = [(k["key_id"], k["role"], k["last_four"], k["created_at"][:19], (k["revoked_at"] or "")[:19]) for k in found]
    show(found, as_json, lambda: table("Keys", headings, rows))


@keys.command()
@command
def revoke(key_id: Annotated[str, typer.Argument(help="From spare key list")], as_json: AsJson = False) -> None:
    """End a key of yours, or as an operator anybody's; not the one that you are using."""
    found = Api().call("DELETE", f"/v1/keys/{key_id}")
    show(found, as_json, lambda: f"The {found['role']} key that ends in {found['last_four']} is revoked")
