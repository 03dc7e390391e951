"""`privfl audit`: a lower bound on epsilon from the real pipeline, next to the stated one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from privfl.cli.options import Json, Runs, parse_overrides, plot_file, print_json
from privfl.cli.planned import ObserverName
from privfl.cli.show import facts_table, live, output
from privfl.dp import History, Ledger
from privfl.errors import ConfigError
from privfl.experiment import AuditPlan, AuditResult, Experiment, audit, load_config
from privfl.experiment.audit.result import format_lower
from privfl.experiment.folder import find_run
from privfl.files import user_path

REFUTED: Final = 3
"""The exit code of an audit that refutes the stated epsilon."""

EXAMPLE: Final = (
    "Examples: [bold]privfl audit examples/breast_cancer.toml --trials 2000[/]\n\n[bold]privfl audit breast_cancer "
    "--observer participant --plot audit.png[/]\n\nThe exit code is 3 if the trials refute the stated epsilon."
)


class CanaryName(StrEnum):
    """The kind of canary."""

    WORST = "worst"
    GRADIENT = "gradient"
    DATA = "data"


class DropoutsName(StrEnum):
    """The clients that drop out."""

    FEWEST = "fewest"
    NONE = "none"


def audit_verb(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN", help="A configuration file, or a run by name or path.")
    ],
    *,
    observer: Annotated[
        ObserverName, typer.Option("--observer", help="Against whom the stated epsilon holds.")
    ] = ObserverName.OUTSIDER,
    trials: Annotated[
        int, typer.Option("--trials", min=20, help="Pairs of trainings, with and without the canary.")
    ] = 10_000,
    canary: Annotated[
        CanaryName,
        typer.Option(
            "--canary",
            help="worst: the clip norm and all other bounds; gradient: a random direction next to "
            "clients that train; data: a client with its own examples.",
        ),
    ] = CanaryName.WORST,
    dropouts: Annotated[
        DropoutsName, typer.Option("--dropouts", help="fewest: as many drop out as the sum survives; none.")
    ] = DropoutsName.FEWEST,
    parties: Annotated[
        bool, typer.Option("--parties", help="Run every trial through the parties, with the run's own noise source.")
    ] = False,
    check: Annotated[
        int, typer.Option("--check", min=0, help="Trials that are run in both ways and compared to the last bit.")
    ] = 4,
    confidence: Annotated[
        float, typer.Option("--confidence", min=0.5, max=0.999999, help="The confidence that all bounds hold.")
    ] = 0.95,
    delta: Annotated[
        float | None, typer.Option("--delta", help="The delta of the statement; the run's own by default.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of the trials.")] = 0,
    runs: Runs = Path("runs"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of CONFIG.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", parser=plot_file, help="Draw the trade-off of the errors.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a lower bound on epsilon by running the pipeline with and without a canary client."""
    experiment, history, name = _subject(target, runs, set_)
    plan = AuditPlan(
        trials=trials, canary=canary.value, dropouts=dropouts.value, parties=parties, check=check,
        alpha=1 - confidence, seed=seed,
    )  # fmt: skip
    with live(
        TextColumn("[bold]audit[/]"), BarColumn(bar_width=24), TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(), quiet=as_json,
    ) as (bar, say):  # fmt: skip
        task, shown = bar.add_task("audit", total=1.0), [0]

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done / total)
            tenth = 10 * done // total
            if tenth > shown[0]:
                shown[0] = tenth
                say(f"audit {10 * tenth} %")

        result = audit(experiment, observer=observer.value, plan=plan, history=history, delta=delta, progress=progress)
    file = None
    if plot is not None:
        from privfl.report.audit import plot_audit

        file = plot_audit(result, plot)
    if as_json:
        print_json(result.as_dict() | {"audited": name} | ({"plot": str(file)} if file else {}))
    else:
        _show(result, name, file)
    if result.refuted:
        raise typer.Exit(REFUTED)


def _subject(target: str, runs: Path, overrides: list[str] | None) -> tuple[Experiment, History | None, str]:
    """The experiment that is audited, what was released if it is a run, and its name."""
    path = user_path(target)
    if path.suffix == ".toml" or path.is_file():
        return Experiment(load_config(path), overrides=parse_overrides(overrides or [])), None, str(target)
    if overrides:
        raise ConfigError(f"{target} is a run, whose settings are its own: give --set with a configuration file only")
    run = find_run(runs, target)
    if run.identity.parts:
        objects = ", ".join(sorted(run.identity.parts))
        raise ConfigError(
            f"run {run.name!r} was given objects by a program ({objects}), which a configuration does not hold: audit "
            "it there with privfl.experiment.audit"
        )
    if not run.ledger_path.exists():
        raise ConfigError(f"run {run.name!r} keeps no ledger: without noise it states no epsilon to audit")
    experiment = Experiment(run.config, runs=run.path.parent, overrides={"name": run.path.name})
    return experiment, History.of(Ledger.read(run.ledger_path)), run.name


def _show(result: AuditResult, name: str, file: Path | None) -> None:
    rows = [
        ("stated", str(result.stated)),
        ("against", result.stated.observer),
        ("unit", f"{result.stated.unit.level}, {result.stated.unit.adjacency}"),
    ]
    rows += [("at least", f"{format_lower(bound.epsilon)} ({bound.assumption})") for bound in result.bounds]
    rows += [
        ("confidence", f"{100 * result.confidence:.4g} % that all of these hold"),
        ("trials", f"{result.trials} pairs of {result.rounds} rounds; canary: {result.canary}"),
        ("dropouts", result.dropouts),
        ("compared with the parties", f"{result.checked} trials, equal to the last bit" if result.checked else "none"),
        ("seconds", f"{result.seconds:.1f}"),
    ]
    output().print(facts_table(f"audit of {name}", rows))
    style = "bold red" if result.refuted else "bold"
    output().print(result.sentence + ".", style=style, markup=False, soft_wrap=True)
    if file is not None:
        output().print(f"plot: {file.resolve()}", markup=False, soft_wrap=True)
