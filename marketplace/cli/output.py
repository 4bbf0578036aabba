"""How every command speaks: tables for people, JSON with ``--json`` or in a pipe's reader, errors with a hint."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ParamSpec

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from billing.errors import SpareError
from marketplace.client.http import MarketError

P = ParamSpec("P")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
console = Console()
errors = Console(stderr=True)


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function's errors one line on stderr with a hint, and exit code 1."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (SpareError, MarketError) as error:
            errors.print(f"[red]{error.message}[/red]", highlight=False)
            if error.hint:
                errors.print(f"  {error.hint}", highlight=False)
            raise typer.Exit(1) from error

    return wrapped


def show(data: Any, as_json: bool, table: Callable[[], RenderableType]) -> None:
    """Print data as JSON, or as the table or line made from it."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, default=str))
    else:
        console.print(table())


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """Return a table; the columns named in ``right`` are aligned to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left")
    for row in rows:
        made.add_row(*row)
    return made
