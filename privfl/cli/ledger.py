"""`privfl ledger`: ledgers as events of dp-accounting, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privfl.cli.once import Once
from privfl.cli.options import Json, print_json
from privfl.cli.planned import Adjacency, AdjacencyOption, Level, UnitOption
from privfl.cli.show import facts_table, output
from privfl.dp import Ledger, PrivacyUnit
from privfl.dp.accounting.interchange import export_events, import_events
from privfl.dp.unit import Everyone
from privfl.errors import ConfigError
from privfl.files import atomic_write, existing_parent, user_path

app = typer.Typer(help="Exchange ledgers with dp-accounting.", no_args_is_help=True, rich_markup_mode="rich")

MAX_BYTES = 1 << 26


def export(
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", parser=user_path, help="The ledger of a run.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", parser=user_path, help="The JSON; the output if absent.")
    ] = None,
) -> None:
    """Write the releases of a ledger as a DpEvent of dp-accounting, in JSON, against an outsider.

    What the event does not state is printed to the standard error.
    """
    exported = export_events(Ledger.read(ledger))
    if to is None:
        typer.echo(exported.text)
    else:
        atomic_write(existing_parent(to), exported.text.encode() + b"\n", shared=True)
    unit = exported.unit
    relation = "REPLACE_ONE" if unit.adjacency == "replace_one" else "ADD_OR_REMOVE_ONE"
    typer.echo(f"unit {unit.level}, {unit.adjacency}: ask dp-accounting for NeighboringRelation.{relation}", err=True)
    for warning in exported.warnings:
        typer.echo(f"warning: {warning}", err=True)


def import_(
    events: Annotated[Path, typer.Argument(metavar="EVENTS", parser=user_path, help="The JSON of a DpEvent.")],
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", parser=user_path, help="The ledger that is written.")],
    *,
    unit: UnitOption = Level.CLIENT,
    adjacency: AdjacencyOption = Adjacency.ADD_REMOVE,
    turn: Annotated[
        float | None,
        typer.Option(
            "--turn",
            help="Probability that one client decides whether a round is skipped; 0 where none is. If absent, sampling "
            "is not counted.",
        ),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="The noise came from a cryptographic stream through an exact sampler.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a ledger from a DpEvent of dp-accounting, which `privfl epsilon` can judge and compose."""
    if ledger.exists():
        raise ConfigError(f"{ledger} exists: choose another name for the new ledger")
    if unit is Level.EXAMPLE and turn is not None:
        raise ConfigError("--unit example does not take --turn: its batches are sampled inside a client")
    if events.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{events} is larger than {MAX_BYTES} bytes: an event composes equal rounds by a count")
    text = events.read_text(encoding="utf-8", errors="replace")
    path = existing_parent(ledger)
    read = import_events(text, PrivacyUnit(unit.value, adjacency.value), turn=turn, secure=secure)
    read.publish(path)
    sampled = any(not isinstance(release.sampling, Everyone) for release in read.releases)
    notes = []
    if unit is Level.CLIENT and sampled and turn is None:
        notes.append("sampling is not counted: give --turn 0 where no round was skipped because of one client")
    if not secure:
        notes.append("the noise is taken as floating-point noise: give --secure where it was exact integer noise")
    if as_json:
        print_json({"ledger": str(path), "releases": len(read.releases), "notes": notes})
        return
    rows = [("ledger", str(path)), ("releases", str(len(read.releases))), *(("note", note) for note in notes)]
    output().print(facts_table("Imported", rows))


app.command("export", cls=Once)(export)
app.command("import", cls=Once)(import_)
