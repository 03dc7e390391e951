"""`privfl sweep` and `privfl table`: many runs of one configuration, and a paper's table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from privfl.cli.options import Json, parse_overrides, parse_values, plot_file, print_json
from privfl.cli.show import live, output
from privfl.errors import ConfigError
from privfl.experiment.config import load_config
from privfl.experiment.folder import find_runs
from privfl.experiment.sweep import Sweep, SweepStep, run_sweep
from privfl.experiment.tidy import Pivot, pivot, tidy
from privfl.files import atomic_write, existing_parent, user_path

EXAMPLE: Final = "Example: [bold]privfl sweep breast_cancer.toml --over privacy.epsilon=1,8 --seeds 3[/]"
TABLE_EXAMPLE: Final = "Example: [bold]privfl table sweep --rows privacy.epsilon --value accuracy --latex[/]"
TIDY: Final = "runs.csv"

Figure = Annotated[Path | None, typer.Option("--plot", parser=plot_file, help="Draw the table to this file.")]


def sweep(
    *,
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", parser=user_path, help="What all runs share.")],
    over: Annotated[
        list[str] | None, typer.Option("--over", metavar="KEY=V1,V2", help="A setting and its values; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each combination.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all runs; repeatable.")
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", parser=user_path, help="Where the runs go.")] = Path(
        "sweep"
    ),
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Runs at a time; as many as there are cores by default.")
    ] = None,
    value: Annotated[
        str | None, typer.Option("--value", help="The figure on the plot; the first metric by default.")
    ] = None,
    plot: Figure = None,
    as_json: Json = False,
) -> None:
    """Train a configuration under every combination of some settings; finished runs are not trained again."""
    runs = Sweep(load_config(config).with_overrides(parse_overrides(settings or [])), parse_values(over or []), seeds)
    place = existing_parent(to)
    steps = _follow(runs, place, workers=workers, quiet=as_json)
    failed = [step for step in steps if step.error]
    names = {config.name for config in runs.runs()}
    records = tidy([run for run in find_runs(place) if run.name in names])
    files = _files(runs, records, place, value, plot)
    if as_json:
        print_json({"files": [str(path) for path in files], "runs": _json(records),
                    "failed": {step.name: step.error for step in failed}})  # fmt: skip
    else:
        for path in files:
            output().print(str(path.resolve()), markup=False, soft_wrap=True)
        for step in failed:
            output().print(f"{step.name}: {step.error}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(2)


def table(
    *,
    runs: Annotated[list[Path], typer.Argument(metavar="FOLDER...", parser=user_path, help="Folders of runs.")],
    rows: Annotated[str | None, typer.Option("--rows", help="The setting of the rows.")] = None,
    columns: Annotated[str | None, typer.Option("--columns", help="The setting of the columns.")] = None,
    value: Annotated[str, typer.Option("--value", help="The figure: a metric, or epsilon.OBSERVER.")] = "accuracy",
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX with booktabs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown; the default.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: without --rows one line for each run.")] = False,
    digits: Annotated[int, typer.Option("--digits", min=0, max=12, help="Digits after the point.")] = 3,
    plot: Figure = None,
    as_json: Json = False,
) -> None:
    """Print a table for a paper: the mean and standard deviation of a metric over seeds, by one or two settings."""
    from privfl.report.tables import plot_pivot, render_pivot, tidy_text

    if latex + markdown + as_csv + as_json > 1:
        raise ConfigError("--latex, --markdown, --csv and --json are four forms of one table: give one of them")
    if absent := [str(folder) for folder in runs if not folder.is_dir()]:
        raise ConfigError(f"the folder {absent[0]} does not exist: name a folder of runs")
    records = tidy([run for folder in runs for run in find_runs(folder)])
    if rows is None:
        if plot is not None or latex or markdown or columns is not None:
            raise ConfigError("--rows names the setting of the rows, such as --rows privacy.epsilon")
        if as_json:
            print_json({"runs": _json(records)})
        else:
            typer.echo(tidy_text(records), nl=False)
        return
    found = pivot(records, rows, columns, value)
    if plot is not None:
        plot_pivot(found, plot, caption=_caption(found))
    if as_json:
        print_json(_pivot_json(found))
        return
    typer.echo(render_pivot(found, "latex" if latex else "csv" if as_csv else "markdown", digits=digits), nl=False)


def _follow(runs: Sweep, place: Path, *, workers: int | None, quiet: bool) -> list[SweepStep]:
    steps: list[SweepStep] = []
    total = len(runs.runs())
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with live(*columns, quiet=quiet) as (progress, say):
        task = progress.add_task("training", total=total)
        for step in run_sweep(runs, place, workers=workers):
            steps.append(step)
            figure = "failed" if step.error else "done" if step.metric is None else "{} {:.4g}".format(*step.metric)
            progress.update(task, advance=1, description=f"{step.name}: {figure}")
            say(f"{len(steps)}/{total}  {step.name}: {figure}")
    return steps


def _files(
    runs: Sweep, records: Sequence[dict[str, Any]], place: Path, value: str | None, plot: Path | None
) -> list[Path]:
    """Write the tidy table, and the figure over the first setting with lines for the second."""
    from privfl.report.tables import plot_pivot, tidy_text

    path = place / TIDY
    atomic_write(path, tidy_text(records).encode(), shared=True)
    files = [path]
    varied = [key for key, values in runs.over.items() if len(values) > 1]
    if plot is not None:
        if not 1 <= len(varied) <= 2 or not records:
            raise ConfigError("a figure has one or two varied settings: draw others with privfl table ... --plot")
        figure = value or next((name for name in ("accuracy", "r2", "mse", "loss") if name in records[0]), "")
        found = pivot(records, varied[0], varied[1] if len(varied) > 1 else None, figure)
        files.append(plot_pivot(found, plot, caption=_caption(found)))
    return files


def _caption(pivot_table: Pivot) -> str:
    runs = max(entry.count for row in pivot_table.entries for entry in row)
    return f"Bars: one standard deviation over {runs} seeds." if runs > 1 else "One seed."


def _json(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: "infinity" if item == float("inf") else item for key, item in each.items()} for each in records]


def _pivot_json(pivot_table: Pivot) -> dict[str, Any]:
    cells = [
        {
            pivot_table.corner[0]: row,
            **({pivot_table.corner[1]: column} if pivot_table.corner[1] else {}),
            "mean": "infinity" if entry.mean == float("inf") else entry.mean,
            "stddev": entry.stddev,
            "runs": entry.count,
        }
        for row, entries in zip(pivot_table.rows, pivot_table.entries, strict=True)
        for column, entry in zip(pivot_table.columns, entries, strict=True)
        if entry.count
    ]
    return {"value": pivot_table.value, "cells": cells}
