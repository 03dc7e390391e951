"""`privfl demo`: a real federated training with privacy, offline and in seconds."""

from __future__ import annotations

from enum import StrEnum
from math import isinf
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from privfl.cli.options import Json, Seed, plot_file, print_json
from privfl.cli.show import facts_table, follow, output
from privfl.demos.hospitals import ABSENT, AVERAGED, SEED, Demo, DemoResult
from privfl.demos.patients import PatientResult
from privfl.demos.regression import LineDemo, LineResult
from privfl.dp import EpsilonReport, Observer, format_epsilon
from privfl.dp.accounting.report import json_figure
from privfl.errors import MissingExtra
from privfl.experiment.schemes import SCHEMES
from privfl.files import byte_size

EXAMPLE: Final = "Examples: [bold]privfl demo --sum ckks[/]   [bold]privfl demo linear-regression[/]"

_OBSERVERS: Final[dict[Observer, str]] = {
    "outsider": "an outsider, who sees the models",
    "participant": "another hospital",
    "server": "the server",
    "key_holder": "who holds the key and opens the sum",
}


class Which(StrEnum):
    """The demonstrations."""

    HOSPITALS = "hospitals"
    LINEAR_REGRESSION = "linear-regression"


def demo(
    what: Annotated[Which, typer.Argument(help="What to demonstrate.")] = Which.HOSPITALS,
    sum_: Annotated[str, typer.Option("--sum", help=f"The secure sum: {', '.join(SCHEMES)}.")] = "masked",
    seed: Seed = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", parser=plot_file, help="Where the plot goes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train across ten hospitals with differential privacy and secure aggregation, and show what everybody saw."""
    if what is Which.LINEAR_REGRESSION:
        _line(seed or 0, plot or Path("privfl-line.png"), as_json=as_json)
        return
    run = Demo(sum_, seed=SEED if seed is None else seed)
    if not as_json:
        output().print(_INTRODUCTION.format(sum=run.experiment.scheme.name))
    for _ in follow(run.each_round(), rounds=run.config.rounds, budget=run.config.privacy.epsilon, quiet=as_json):
        pass
    result = run.result()
    figure = _draw(result, run.config.privacy.epsilon or 0.0, plot or Path("privfl-demo.png"))
    if as_json:
        print_json(_record(result, figure))
        return
    output().print(facts_table("Ten hospitals, one model, and no example has left its hospital", _rows(result)))
    _print_plot(figure)


_INTRODUCTION: Final = (
    "Ten hospitals hold the breast-cancer data, each with another mix of patients. They train a logistic regression "
    "together. Each clips its update, adds its part of the noise, and sends it to [bold]{sum}[/]. Two hospitals will "
    "drop out on the way."
)


def _rows(result: DemoResult) -> list[tuple[str, str]]:
    rounds = sum(r.status == "trained" for r in result.reports)
    absent = ", ".join(f"round {r}: {' and '.join(result.names[c] for c in who)}" for r, who in ABSENT.items())
    return [
        (
            "accuracy",
            f"{result.accuracy:.3f} (mean of the last {AVERAGED} models; the last alone {result.last_accuracy:.3f})",
        ),
        ("pooled model", f"{result.pooled_accuracy:.3f} - all examples in one place, no privacy"),
        ("local models", f"{result.local_accuracy:.3f} - the mean of ten hospitals, each alone"),
        *((f"against {_OBSERVERS[name]}", _promise(report)) for name, report in result.epsilons.items()),
        ("which means", _meaning(result.epsilons["server"])),
        ("one patient", _patient(result.patients)),
        ("delta", f"{result.epsilon.delta:g}: the probability with which the promise may fail"),
        ("assuming", f"{result.epsilon.sampling}; {result.epsilon.caveats[0]}"),
        ("rounds", f"{rounds} of {len(result.reports)}"),
        ("dropouts", f"{result.dropouts}, each sum recovered without them ({absent})"),
        (
            "bytes",
            f"{byte_size(result.bytes_up)} up, {byte_size(result.bytes_down)} down, all hospitals and rounds together",
        ),
        ("seconds", f"{result.seconds:.1f}"),
        ("the server saw", result.sighting.words),
    ]


def _promise(report: EpsilonReport) -> str:
    """Epsilon, or the reason why there is none."""
    return f"epsilon {format_epsilon(report.epsilon)}" + (f": {report.caveats[0]}" if isinf(report.epsilon) else "")


def _meaning(report: EpsilonReport) -> str:
    """The promise against the server, for a reader who has not met an epsilon before."""
    if isinf(report.epsilon):
        return "nothing is promised against the server; the other sums add the noise before it sees anything"
    return f"a server that guesses from everything it saw whether one hospital sent its data or zeros {report.guess}"


def _patient(result: PatientResult) -> str:
    """The promise to one patient, next to that to one hospital, from the second run."""
    if isinf(result.epsilon.epsilon):
        return "nothing against the server either; --sum masked gives a patient an epsilon of her own"
    return (
        f"epsilon {format_epsilon(result.epsilon.epsilon)} against the server and accuracy {result.accuracy:.3f}, in a "
        f"second run over the same sum: {result.steps} steps that clip every patient's gradient. The figures above are "
        "for a hospital with all its patients"
    )


def _record(result: DemoResult, figure: Path | MissingExtra) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy,
        "pooled_accuracy": result.pooled_accuracy,
        "local_accuracy": result.local_accuracy,
        "epsilon": result.epsilon.epsilon,
        "server_epsilon": json_figure(result.epsilons["server"].epsilon),
        "patient_accuracy": result.patients.accuracy,
        "patient_epsilon": json_figure(result.patients.epsilon.epsilon),
        "delta": result.epsilon.delta,
        "rounds": len(result.reports),
        "sum": result.scheme,
        "dropouts": result.dropouts,
        "bytes_up": result.bytes_up,
        "seconds": result.seconds,
        "plot": str(figure) if isinstance(figure, Path) else None,
    }


def _draw(result: DemoResult, budget: float, path: Path) -> Path | MissingExtra:
    """The plot's path, or what is missing for it: a demonstration without a picture is still one."""
    from privfl.report.demo import plot_demo

    try:
        return plot_demo(result, budget, path)
    except MissingExtra as error:
        return error


def _print_plot(figure: Path | MissingExtra) -> None:
    text = f"plot: {figure.resolve()}" if isinstance(figure, Path) else f"no plot: {figure}"
    output().print(text, markup=False, soft_wrap=True)


def _line(seed: int, path: Path, *, as_json: bool) -> None:
    from privfl.report.demo import plot_line

    run = LineDemo(seed=seed)
    for _ in follow(run.each_round(), rounds=run.experiment.config.rounds, quiet=as_json):
        pass
    result = run.result()
    try:
        figure: Path | MissingExtra = plot_line(result, path)
    except MissingExtra as error:
        figure = error
    if as_json:
        print_json(_line_record(result, figure))
        return
    table = facts_table(
        "Federated linear regression over a masked sum: five clients, each with its own stretch of x",
        [
            ("global line", _formula(result.line)),
            ("least squares, pooled", _formula(result.pooled)),
            ("the truth", _formula(result.truth)),
            *((f"client {1 + at} alone", _formula(line)) for at, line in enumerate(result.alone)),
            ("rounds", str(len(result.reports))),
        ],
    )
    output().print(table)
    _print_plot(figure)


def _line_record(result: LineResult, figure: Path | MissingExtra) -> dict[str, Any]:
    return {
        "slope": result.line[0],
        "intercept": result.line[1],
        "pooled_slope": result.pooled[0],
        "pooled_intercept": result.pooled[1],
        "rounds": len(result.reports),
        "plot": str(figure) if isinstance(figure, Path) else None,
    }


def _formula(line: tuple[float, float]) -> str:
    return f"y = {line[0]:.3f} x {'-' if line[1] < 0 else '+'} {abs(line[1]):.3f}"
