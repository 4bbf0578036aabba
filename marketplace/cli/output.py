"""How every command speaks: tables for people, JSON with ``--json`` or in a pipe's reader, errors with a hint."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ParamSpec

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
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
            # Plain text, unbroken: what a hint says is there to be pasted, square brackets and all.
            errors.print(error.message, style="red", markup=False, highlight=False, soft_wrap=True)
            if error.hint:
                errors.print(f"  {error.hint}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return wrapped


def show(data: Any, as_json: bool, table: Callable[[], RenderableType]) -> None:
    """Print data as JSON, or as the table or line made from it."""
    if as_json:
        typer.echo(json.dumps(data, indent=2, default=str))
    else:
        made = table()
        plain = isinstance(made, str)
        console.print(made, markup=not plain, highlight=not plain, soft_wrap=plain)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """Return a table; the columns named in ``right`` are aligned to the right. Cells are text, whatever it holds."""
    made = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
