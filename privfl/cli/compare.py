"""`privfl compare`: the same task trained several ways, as a table and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from privfl.cli.options import Json, print_json
from privfl.cli.planned import Level
from privfl.cli.show import facts_table, live, output
from privfl.dp import format_epsilon
from privfl.errors import ConfigError
from privfl.experiment.arms import ArmSummary, Cell
from privfl.experiment.compare import as_record, run_comparison, summarize, who_sees
from privfl.experiment.comparison import Comparison
from privfl.experiment.config import load_config
from privfl.experiment.presets import PRESETS
from privfl.experiment.schemes import SCHEMES
from privfl.files import atomic_write, byte_size, canonical_json, existing_parent, user_path

EXAMPLE: Final = "Example: [bold]privfl compare --data breast_cancer --epsilon 2,8 --seeds 2[/]"


def compare(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.toml]", parser=user_path, help="Data of your own; or else --data."),
    ] = None,
    *,
    unit: Annotated[Level | None, typer.Option("--unit", help="Whose presence is hidden; client by default.")] = None,
    data: Annotated[str | None, typer.Option("--data", help=f"{', '.join(PRESETS)}; digits by default.")] = None,
    clients: Annotated[int | None, typer.Option("--clients", min=2, help="Clients; 32 by default.")] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="How examples are split; dirichlet:1 by default.")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Rounds of every arm; 10 by default, for examples by the data."),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="The metric; accuracy or r2 by default.")] = "",
    epsilon: Annotated[str, typer.Option("--epsilon", help="Targets of central noise.")] = "1,2,4,8",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of every arm.")] = 3,
    sums: Annotated[str, typer.Option("--sums", help="Which sums to compare.")] = ",".join(SCHEMES),
    folder: Annotated[str | None, typer.Option("--folder", help="The data folder, or PRIVFL_DATA.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", parser=user_path, help="Where results go.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Arms run at a time; as many as there are cores by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted comparison.")] = False,
    as_json: Json = False,
) -> None:
    """Train one task pooled, locally, federated, and with noise in several places; compare a metric, privacy, cost."""
    names = tuple(sums.replace(" ", "").split(","))
    common: dict[str, Any] = {"epsilons": _numbers(epsilon), "seeds": seeds, "sums": names, "metric": metric}
    chosen: dict[str, Any] = {
        "data": data,
        "clients": clients,
        "partition": partition,
        "rounds": rounds,
        "folder": folder,
    }
    chosen["unit"] = None if unit is None else unit.value
    given = {key: value for key, value in chosen.items() if value is not None}
    if config is None:
        given["data"] = (data or "digits").replace("-", "_")
        comparison = Comparison(**given, **common)
    elif given:
        key = "privacy.unit" if "unit" in given else "a setting"
        raise ConfigError(f"--{next(iter(given))} is {key} of {config.name}: change it there")
    else:
        comparison = Comparison.of(load_config(config), **common)
    place = Path("compare") / comparison.data if to is None else existing_parent(to)
    cells = _follow(comparison, place, resume=resume, workers=workers, quiet=as_json)
    rows = summarize(comparison, cells)
    files = _write(comparison, cells, rows, place)
    if as_json:
        print_json(as_record(comparison, rows) | {"files": [str(path) for path in files]})
        return
    output().print(_table(comparison, rows))
    equal = [(row.arm, _figure(row.independent_epsilon)) for row in rows if row.independent_epsilon is not None]
    if equal:
        output().print(facts_table("The server's epsilon if independent sites add up to the noise of", equal))
    output().print(facts_table("Who sees what", who_sees(rows)))
    output().print(comparison.warning, soft_wrap=True)
    output().print(comparison.tuning, soft_wrap=True, markup=False)
    for path in files:
        output().print(str(path.resolve()), markup=False, soft_wrap=True)


def _follow(comparison: Comparison, place: Path, *, resume: bool, workers: int | None, quiet: bool) -> list[Cell]:
    cells: list[Cell] = []
    total = len(comparison.cells())
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with live(*columns, quiet=quiet) as (progress, say):
        task = progress.add_task("training", total=total)
        for cell in run_comparison(comparison, place, resume=resume, workers=workers):
            cells.append(cell)
            fact = f"{cell.arm}, seed {cell.seed}: {cell.value:.3f}"
            progress.update(task, advance=1, description=fact)
            say(f"{len(cells)}/{total}  {fact}")
    order = {(arm.name, seed): at for at, (arm, seed) in enumerate(comparison.cells())}
    return sorted(cells, key=lambda cell: order[cell.arm, cell.seed])


def _write(comparison: Comparison, cells: Sequence[Cell], rows: Sequence[ArmSummary], place: Path) -> list[Path]:
    from privfl.report.compare import plot_comparison, write_csv

    record = place / "comparison.json"
    atomic_write(record, canonical_json(as_record(comparison, rows)) + b"\n", shared=True)
    table = write_csv(rows, place / "comparison.csv")
    return [table, record, *plot_comparison(comparison, cells, place)]


def _table(comparison: Comparison, rows: Sequence[ArmSummary]) -> Table:
    table = Table(title=f"{comparison.data}, {rows[0].clients} clients, {comparison.partition}", title_justify="left")
    table.add_column("trained")
    for heading in (comparison.metric_name, "epsilon", "server's", "up a round", "s a round"):
        table.add_column(heading, justify="right")
    for row in rows:
        spread = f" ± {row.stddev:.3f}" if row.seeds > 1 else ""
        moved = (byte_size(row.bytes_up), f"{row.seconds:.2f}") if row.bytes_up else ("-", "-")
        table.add_row(
            row.arm,
            f"{row.value:.3f}{spread}",
            _figure(row.epsilon),
            _figure(row.server_epsilon),
            *moved,
        )
    return table


def _figure(epsilon: float | None) -> str:
    return "-" if epsilon is None else format_epsilon(epsilon, 2)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--epsilon takes numbers such as 1,2,4,8, not {text!r}") from error
