"""`privfl attack`: what an honest-but-curious server gets from updates, from sums, and under noise."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from privfl.cli.audit import REFUTED
from privfl.cli.options import Json, parse_overrides, plot_file, print_json
from privfl.cli.show import live, output
from privfl.dp import EpsilonReport, format_epsilon
from privfl.experiment import AttackPlan, Experiment, InversionResult, MembershipResult, attack, load_config
from privfl.experiment.attack.rates import Estimate
from privfl.experiment.attack.result import NO_PROOF
from privfl.files import user_path

EXAMPLE: Final = (
    "Examples: [bold]privfl attack examples/digits.toml --kind inversion --plot inversion.png[/]\n\n[bold]privfl "
    "attack examples/digits.toml --kind membership --examples 1 --trials 100[/]\n\nThe exit code is 3 if guesses "
    "refute a stated epsilon."
)


class KindName(StrEnum):
    """The kind of attack."""

    MEMBERSHIP = "membership"
    INVERSION = "inversion"


def attack_verb(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A configuration file.")],
    *,
    kind: Annotated[
        KindName,
        typer.Option("--kind", help="inversion reconstructs examples; membership guesses whether a client holds one."),
    ],
    epsilon: Annotated[
        list[float] | None,
        typer.Option("--epsilon", help="An epsilon against the server; several times for several. By default 8, 3, 1."),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="The rounds that the server sees; an inversion reads the first one.")
    ] = 1,
    trials: Annotated[
        int, typer.Option("--trials", min=20, help="Pairs of trainings of a membership attack.")
    ] = AttackPlan().trials,
    images: Annotated[
        int, typer.Option("--images", min=1, help="Examples that an inversion reconstructs.")
    ] = AttackPlan().images,
    examples: Annotated[
        int | None,
        typer.Option(
            "--examples", min=1, help="Examples of each client: by default 1 for an inversion, else the run's mean."
        ),
    ] = None,
    check: Annotated[
        int, typer.Option("--check", min=0, help="Membership trials that are run in both ways and compared.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The seed of the trials.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of CONFIG.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", parser=plot_file, help="Draw what the server got.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Attack a run as an honest-but-curious server, and show what it gets in each kind of sum and at each epsilon."""
    plan = AttackPlan(
        epsilons=AttackPlan().epsilons if epsilon is None else tuple(epsilon), rounds=rounds, trials=trials,
        images=images, examples=examples, check=check, seed=seed,
    )  # fmt: skip
    experiment = Experiment(load_config(user_path(config)), overrides=parse_overrides(set_ or []))
    with live(
        TextColumn("[bold]attack[/]"), BarColumn(bar_width=24), TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(), quiet=as_json,
    ) as (bar, say):  # fmt: skip
        task, shown = bar.add_task("attack", total=1.0), [0]

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done / total)
            fifth = 5 * done // total
            if fifth > shown[0]:
                shown[0] = fifth
                say(f"attack {20 * fifth} %")

        result = attack(experiment, kind.value, plan=plan, progress=progress)
    file = None
    if plot is not None:
        from privfl.report.attack import plot_attack

        file = plot_attack(result, plot)
    if as_json:
        print_json(result.as_dict() | {"attacked": config} | ({"plot": str(file)} if file else {}))
    else:
        _show(result, file)
    if isinstance(result, MembershipResult) and result.refuted:
        raise typer.Exit(REFUTED)


def _show(result: InversionResult | MembershipResult, file: Path | None) -> None:
    table = membership_table(result) if isinstance(result, MembershipResult) else inversion_table(result)
    output().print(table)
    if isinstance(result, MembershipResult) and result.checked:
        line = f"Compared with the parties: {result.checked} rounds, equal to the last bit."
        output().print(line, markup=False, soft_wrap=True)
    for line in (*result.assumptions, result.sentence + ".", NO_PROOF):
        output().print(line, markup=False, soft_wrap=True)
    if file is not None:
        output().print(f"plot: {file.resolve()}", markup=False, soft_wrap=True)


def inversion_table(result: InversionResult) -> Table:
    """The table of an inversion: similarities in the median and at best."""
    table = _table(
        f"inversion: {len(result.truths)} examples, {result.clients} clients with {result.examples} each",
        ("case", "server sees", "epsilon", "median r", "best r", "PSNR", "recovered"),
    )
    for case in result.cases:
        table.add_row(
            case.name, case.sees, _epsilon(case.report), f"{np.median(case.correlations):.3f}",
            f"{case.correlations.max():.3f}", f"{np.median(case.psnrs):.1f} dB",
            f"{case.recovered} of {len(result.truths)}",
        )  # fmt: skip
    return table


def membership_table(result: MembershipResult) -> Table:
    """The table of a membership attack: three figures, each with its interval and the most that epsilon allows."""
    table = _table(
        f"membership: {result.trials} pairs, {result.clients} clients with {result.examples} each",
        ("case", "AUC / most", "TPR at 1 % / most", "advantage / most"),
    )
    for case in result.cases:
        rates = case.rates
        table.add_row(case.name, *map(_measured, (rates.auc, rates.tpr, rates.advantage)))
    return table


def _measured(figure: Estimate) -> str:
    return f"{figure.value:.3f} / {figure.limit:.3f}\n{figure.low:.2f} to {figure.high:.2f}"


def _epsilon(report: EpsilonReport | None) -> str:
    return "-" if report is None else format_epsilon(report.epsilon, 3)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table
