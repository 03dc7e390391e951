"""`privfl runs`: the model repository of finished and unfinished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from privfl.cli.once import Once
from privfl.cli.options import Json, Runs, print_json
from privfl.cli.show import facts_table, headline, output
from privfl.dp import format_epsilon
from privfl.errors import ConfigError
from privfl.experiment.config import to_mapping
from privfl.experiment.folder import LEDGER, METRICS, RunFolder, find_run, find_runs
from privfl.files import atomic_write, canonical_json, existing_parent, user_path
from privfl.fl.report import COHORT_DEPENDENT, IF_SECURE
from privfl.fl.store import Version
from privfl.report.run import modes_in_words

app = typer.Typer(help="List, show and export the models of runs.", no_args_is_help=True, rich_markup_mode="rich")

Name = Annotated[str, typer.Argument(help="The run's name, or its folder.")]
Round = Annotated[int | None, typer.Option("--round", min=0, help="The round; the last one if absent.")]


@app.command("list", cls=Once, epilog="Example: [bold]privfl runs list --runs runs[/]")
def list_(
    runs: Annotated[
        Path | None,
        typer.Option("--runs", metavar="FOLDER", parser=user_path, help="The folder of runs.", show_default="runs"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, with rounds, the latest metric and epsilon."""
    if runs is None:
        runs = Path("runs")  # there is none where nothing was run
    elif not runs.is_dir():
        raise ConfigError(f"the folder {runs} does not exist: name the folder of runs with --runs FOLDER")
    found = [_summary(run) for run in find_runs(runs)]
    if as_json:
        print_json({"runs": found})
        return
    table = Table(title=f"runs in {runs}", title_justify="left")
    for heading in ("name", "rounds", "result", "epsilon", "model"):
        table.add_column(heading)
    for run in found:
        if IF_SECURE in run:
            epsilon = f"{format_epsilon(run[IF_SECURE], 2)} if the noise were secure"
        else:
            epsilon = "no noise" if run["epsilon"] is None else format_epsilon(run["epsilon"], 2)
        result = ", ".join(f"{name} {value:.4f}" for name, value in headline(run["evaluation"]).items())
        table.add_row(escape(run["name"]), str(run["round"]), result, epsilon, (run["model"] or "")[:16])
    output().print(table)


@app.command("show", cls=Once, epilog="Example: [bold]privfl runs show digits --round 3[/]")
def show(
    name: Name,
    round: Round = None,
    runs: Runs = Path("runs"),
    public: Annotated[
        bool, typer.Option("--public", help="Leave out what an outsider must not see for its epsilon to hold.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one version of a run's model: its hash, its parent, and the report of its round."""
    files = find_run(runs, name)
    version = _version(files, round)
    report = {key: value for key, value in version.report.items() if not (public and key in COHORT_DEPENDENT)}
    record = {
        "name": files.name,
        "round": version.round,
        "model": version.hash,
        "parent": version.parent or None,
        "parameters": len(version.model),
        "report": report,
    }
    if sites := {} if public else files.sites:
        record["sites"] = modes_in_words(sites)
    if as_json:
        if sites:
            record["sites"] = {str(client): list(modes) for client, modes in sites.items()}
        print_json(record)
        return
    rows = [(key, str(value)) for key, value in record.items() if key != "report"]
    if report.get("ledger") is not None:
        at = next(key for key in ("epsilon", IF_SECURE) if key in report)
        report[at] = "not computed after this round: ask privfl epsilon" if report[at] is None else report[at]
    rows += [(key, _text(value)) for key, value in report.items() if key not in ("round", "model", "parent")]
    output().print(facts_table(f"run {files.name!r}", rows))


@app.command("export", cls=Once, epilog="Example: [bold]privfl runs export digits digits.safetensors[/]")
def export(
    name: Name,
    to: Annotated[Path, typer.Argument(metavar="FILE", parser=user_path, help="Where the safetensors file goes.")],
    round: Round = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Copy one version of a run's model to a file that holds the model alone, as the tensor `model`."""
    files = find_run(runs, name)
    version = _version(files, round)
    if existing_parent(to).exists():
        raise ConfigError(f"{to} exists already: choose another name")
    atomic_write(to, files.store.export(version), shared=True)
    if as_json:
        print_json({"file": str(to), "round": version.round, "model": version.hash})
        return
    output().print(f"round {version.round}, {len(version.model)} parameters: {to}", markup=False, soft_wrap=True)


@app.command("publish", cls=Once, epilog="Example: [bold]privfl runs publish digits public/[/]")
def publish(
    name: Name,
    to: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=user_path, help="A new folder for what may be published.")
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Copy what outsiders may see: models, reports and ledger without cohorts, survivors, counts, bytes and times."""
    files = find_run(runs, name)
    if existing_parent(to).exists():
        raise ConfigError(f"{to} exists already: choose another name")
    store, reports, ledger = files.store, files.reports(), files.ledger
    to.mkdir()
    atomic_write(to / METRICS, b"".join(canonical_json(report.published()) + b"\n" for report in reports))
    rounds = store.rounds()
    for number in rounds:
        atomic_write(to / f"{number:06}.safetensors", store.export(store.load(number)))
    if ledger is not None:
        ledger.publish(to / LEDGER)
    facts = {"folder": str(to), "models": len(rounds), "ledger": ledger is not None}
    if as_json:
        print_json(facts)
        return
    output().print(f"{len(rounds)} models and their reports: {to}", markup=False, soft_wrap=True)


def _summary(files: RunFolder) -> dict[str, Any]:
    reports = files.reports()
    last = reports[-1] if reports else None
    evaluation = next((dict(r.evaluation) for r in reversed(reports) if r.evaluation), {})
    spent = last.epsilon if last else None
    if last is not None and spent is None and last.ledger is not None:  # not computed after this round
        stated = files.epsilon()
        spent = None if stated is None else stated.epsilon
    return {
        "name": files.name,
        "round": last.round if last else 0,
        "evaluation": evaluation,
        "settings": to_mapping(files.config),
        ("epsilon" if last is None or last.secure else IF_SECURE): spent,
        "model": last.model if last else None,
    }


def _version(files: RunFolder, round: int | None) -> Version:
    version = files.store.latest() if round is None else files.store.load(round)
    if version is None:
        raise ConfigError(f"the run {files.name!r} has no model yet: it has not finished a round")
    return version


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item:.4g}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
