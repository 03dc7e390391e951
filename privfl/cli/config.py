"""`privfl config`: the JSON Schema of a configuration file, and its reference."""

from __future__ import annotations

import json

import typer

from privfl.cli.once import Once
from privfl.experiment.config.schema import config_schema, reference_page

app = typer.Typer(help="Describe configuration files.", no_args_is_help=True, rich_markup_mode="rich")


@app.command("schema", cls=Once, epilog="Example: [bold]privfl config schema > privfl.schema.json[/]")
def schema() -> None:
    """Print the JSON Schema of a configuration file, for editors that complete and check TOML."""
    typer.echo(json.dumps(config_schema(), indent=2))


@app.command("reference", cls=Once, epilog="Example: [bold]privfl config reference[/]")
def reference() -> None:
    """Print every section and key with its type, limits, default and meaning, as Markdown."""
    typer.echo(reference_page(), nl=False)
