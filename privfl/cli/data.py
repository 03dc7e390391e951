"""`privfl data`: a look at a table before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from privfl.cli.once import Once
from privfl.cli.options import Json, print_json
from privfl.cli.show import output
from privfl.data import load_schema, propose, read_table
from privfl.data.inspect import with_ranges
from privfl.errors import ConfigError
from privfl.experiment.inspection import schema_text
from privfl.files import atomic_write, existing_parent, user_path

app = typer.Typer(help="Look at tables of your own.", no_args_is_help=True, rich_markup_mode="rich")

MAX_SHOWN: Final = 20
"""The number of clients that the table shows."""

Source = Annotated[
    Path, typer.Argument(metavar="FILE", parser=user_path, help="A CSV or Parquet file, or a folder of them.")
]


@app.command(
    "inspect", cls=Once, epilog="Example: [bold]privfl data inspect patients.csv --target died --output schema.toml[/]"
)
def inspect(
    table: Source,
    *,
    target: Annotated[str | None, typer.Option("--target", help="The column that is predicted.")] = None,
    client: Annotated[str | None, typer.Option("--client", help="The column that names each example's client.")] = None,
    person: Annotated[
        str | None, typer.Option("--person", help="The column that names each example's person; it is no feature.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="COLUMN=LOW,HIGH", help="A number's public range; repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", parser=user_path, help="Write the proposed schema to this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a table's clients, labels and missing values, and propose its schema as TOML."""
    found = with_ranges(propose(table, target, client, person), dict(map(_range, ranges or ())))
    if to is not None:
        atomic_write(existing_parent(to), schema_text(found, table.name).encode())
    if as_json:
        parts = {"clients": found.clients, "labels": found.labels, "notes": found.notes}
        counts_of = {"examples": found.examples, "persons": found.persons[0]}
        print_json({**counts_of, **{key: dict(value) for key, value in parts.items()},
                    "schema": found.schema.to_mapping()})  # fmt: skip
        return
    counts = Table(title=f"{table.name}: {found.examples} examples", title_justify="left")
    counts.add_column("")
    counts.add_column("examples", justify="right")
    for label, count in found.labels.items():
        counts.add_row(escape(f"{found.schema.target} = {label}"), str(count))
    for name, count in list(found.clients.items())[:MAX_SHOWN]:
        counts.add_row(escape(f"client {name}"), str(count))
    if len(found.clients) > MAX_SHOWN:
        counts.add_row(f"{len(found.clients) - MAX_SHOWN} more clients", "")
    if person is not None:
        persons, top = found.persons
        counts.add_row(escape(f"{persons} persons by {person}, the most of one"), str(top))
    output().print(counts)
    if to is None:
        typer.echo(schema_text(found, table.name))
    else:
        output().print(escape(f'Schema written to {to}. Correct it, then set [data] path = "{table}", schema = "{to}"'))


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, ends = text.rpartition("=")
    try:
        low, high = map(float, ends.split(","))
    except ValueError as error:
        raise ConfigError(f"--range takes COLUMN=LOW,HIGH such as age=0,120, not {text!r}") from error
    return name, (low, high)


@app.command("check", cls=Once, epilog="Example: [bold]privfl data check patients.csv schema.toml[/]")
def check(
    table: Source,
    schema: Annotated[Path, typer.Argument(metavar="SCHEMA", parser=user_path, help="The schema, a TOML file.")],
    as_json: Json = False,
) -> None:
    """Read a table as its schema says, and report the examples and features that training would see."""
    dataset = read_table(table, load_schema(schema))
    if as_json:
        print_json({"examples": dataset.example_count, "features": list(dataset.feature_names)})
        return
    message = f"{table.name} keeps to {schema.name}: {dataset.example_count} examples of {dataset.width} features"
    output().print(escape(message))
