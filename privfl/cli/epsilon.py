"""`privfl epsilon`: the epsilon of ledgers, or of a run that is only planned, and all that a paper plots of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from privfl.cli.cases import (
    Case,
    accountant_rows,
    case_of_plan,
    cases_of_configs,
    cases_of_ledgers,
    curve_rows,
    facts_of,
    json_value,
    jsonable,
    observer_rows,
    tidy_rows,
)
from privfl.cli.epsilon_sweep import combinations, print_rows, write_csv
from privfl.cli.figures import draw, draw_curves, draw_ledgers, draw_sweep
from privfl.cli.options import Json, print_json
from privfl.cli.planned import (
    Adjacency,
    AdjacencyOption,
    AtSites,
    BatchSize,
    Block,
    Cap,
    Cohort,
    CorrelationName,
    CorrelationOption,
    CsvOption,
    DatasetSize,
    DeltaOption,
    GroupOption,
    LargeDelta,
    Length,
    Level,
    ObserverName,
    PlacementName,
    PlacementOption,
    PlannedRun,
    PlotOption,
    Population,
    Rounds,
    SamplingOption,
    Selected,
    Spare,
    Steps,
    SumOption,
    SweepOption,
    UnitOption,
    Units,
)
from privfl.cli.show import facts_table, output, print_plot
from privfl.dp import EpsilonReport, format_epsilon
from privfl.errors import ConfigError
from privfl.files import user_path
from privfl.observers import Observer

EXAMPLE: Final = (
    "Examples: [bold]privfl epsilon --sampling poisson --population 10000 --cohort 100 --noise-multiplier 1 "
    "--rounds 1000 --delta 1e-5[/]\n\n[bold]privfl epsilon --unit example --dataset-size 60000 --batch-size 600 "
    "--noise-multiplier 1.1 --steps 3000 --delta 1e-5[/]\n\n[bold]privfl epsilon --ledger runs/demo/ledger.jsonl "
    "--observer server[/]\n\n[bold]privfl epsilon --population 1000 --cohort 100 --rounds 100 --sweep "
    "noise_multiplier=0.8,1,2 --tradeoff --plot curves.pdf[/]\n\nSeveral --ledger options give the composition of all "
    "of them, or with --each one line for each.\n\n[bold]privfl epsilon --config a.toml --config b.toml --profile "
    "--tradeoff --plot curves.pdf[/]"
)

_CURVE_ROWS: Final = 13
_ALPHAS: Final = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


def epsilon(
    *,
    sampling: SamplingOption = None,
    population: Population = None,
    cohort: Cohort = None,
    cap: Cap = None,
    selected: Selected = None,
    block: Block = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option("--noise-multiplier", help="Noise stddev divided by the norm bound of one contribution."),
    ] = None,
    rounds: Rounds = None,
    dataset_size: DatasetSize = None,
    batch_size: BatchSize = None,
    steps: Steps = None,
    unit: UnitOption = Level.CLIENT,
    adjacency: AdjacencyOption = Adjacency.ADD_REMOVE,
    observer: Annotated[
        ObserverName | None,
        typer.Option("--observer", help="The observer that the promise protects against; all observers if absent."),
    ] = None,
    placement: PlacementOption = PlacementName.CENTRAL,
    length: Length = None,
    units: Units = None,
    spare: Spare = None,
    at_sites: AtSites = False,
    correlation: CorrelationOption = CorrelationName.NONE,
    sum_name: SumOption = None,
    delta: DeltaOption = None,
    allow_large_delta: LargeDelta = False,
    group: GroupOption = 1,
    ledger: Annotated[
        list[Path] | None,
        typer.Option(
            "--ledger",
            metavar="FILE",
            parser=user_path,
            help="Judge what runs have spent; repeat it for their composition.",
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            metavar="FILE",
            parser=user_path,
            help="Judge what configurations plan; repeat it for one line, and one curve, for each.",
        ),
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="Judge each ledger by itself instead of all together.")] = False,
    sweep: SweepOption = None,
    accountants: Annotated[
        bool, typer.Option("--accountants", help="Ask every accountant there is, and show the seconds it takes.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show delta over epsilon.")] = False,
    tradeoff: Annotated[
        bool, typer.Option("--tradeoff", help="Show how often any test must be wrong: false negatives over positives.")
    ] = False,
    prior: Annotated[
        float, typer.Option("--prior", help="Probability of presence before the release, for Bayes risk and odds.")
    ] = 0.5,
    plot: PlotOption = None,
    csv: CsvOption = None,
    as_json: Json = False,
) -> None:
    """Compute the epsilon of privacy ledgers, or of a run that is only planned, and report against whom it holds."""
    run = PlannedRun(
        unit=unit, adjacency=adjacency, sampling=sampling, population=population, cohort=cohort, cap=cap,
        selected=selected, block=block, rounds=rounds, dataset_size=dataset_size, batch_size=batch_size, steps=steps,
        placement=placement,
        length=length, units=units, spare=spare, correlation=correlation, sum_name=sum_name,
        noise_multiplier=noise_multiplier, delta=delta,
        group=group, at_sites=at_sites,
    )  # fmt: skip
    if config:
        _alone({"--ledger": ledger, "--sweep": sweep, "--each": each})
        if plot is not None and not (profile or tradeoff):
            raise ConfigError("--plot draws curves of configurations: give --profile, --tradeoff or both")
        cases = cases_of_configs(run, config)
    else:
        cases = _cases(run, ledger or [], sweep or [], each=each, allow_large=allow_large_delta)
    wish = _Wish(observer, profile, tradeoff, prior, accountants, plot, csv, as_json)
    if sweep or each or len(cases) > 1:
        _tell_several(cases, wish)
    else:
        _tell_one(cases[0], wish)


@dataclass(frozen=True, slots=True)
class _Wish:
    """The tables, curves and files that are asked for."""

    named: ObserverName | None
    profile: bool
    tradeoff: bool
    prior: float
    accountants: bool
    plot: Path | None
    csv: Path | None
    as_json: bool

    @property
    def observer(self) -> Observer:
        """The observer of the report."""
        return "outsider" if self.named is None else self.named.value

    @property
    def curves(self) -> bool:
        """True when curves are asked for."""
        return self.profile or self.tradeoff


def _alone(others: dict[str, object]) -> None:
    """Raise `ConfigError` for an option that --config does not go with."""
    if given := [name for name, value in others.items() if value]:
        raise ConfigError(f"--config judges what configurations plan, and {given[0]} something else: give one of both")


def _cases(
    run: PlannedRun, ledgers: Sequence[Path], sweeps: Sequence[str], *, each: bool, allow_large: bool
) -> list[Case]:
    if each and not ledgers:
        raise ConfigError("--each judges each ledger by itself: give several --ledger options")
    if not ledgers:
        return [case_of_plan(run, keys, allow_large=allow_large) for keys in combinations(sweeps)]
    if sweeps:
        raise ConfigError("--sweep varies a planned run: a ledger states by itself what was done")
    return cases_of_ledgers(run, ledgers, each=each, allow_large=allow_large)


def _tell_several(cases: Sequence[Case], wish: _Wish) -> None:
    """Show the tidy table of several cases."""
    if wish.accountants:
        raise ConfigError("--accountants judges one run: leave --sweep and --each out, and give one --config")
    rows = [row for case in cases for row in tidy_rows(case, wish.named)]
    points = _points(cases, wish)
    plotted = None
    if wish.plot is not None and wish.curves:
        named = [(case.label, case.ask(wish.observer)) for case in cases]
        plotted = draw_curves(named, wish.plot, profile=wish.profile, tradeoff=wish.tradeoff)
    elif wish.plot is not None:
        shown = [row for row in rows if row["observer"] == wish.observer]
        plotted = draw_sweep(shown, list(cases[0].keys), "epsilon", wish.plot)
    if wish.csv is not None:
        write_csv(wish.csv, points if wish.curves else rows)
    if wish.as_json:
        print_json({"rows": [jsonable(row) for row in rows]} | ({"points": points} if points else {}) | _at(plotted))
        return
    print_rows("Epsilon", rows)
    print_plot(plotted)


def _tell_one(case: Case, wish: _Wish) -> None:
    """Show the report of one case, with the tables that were asked for."""
    report = case.ask(wish.observer)
    plotted = None
    if wish.plot is not None and wish.curves:
        plotted = draw_curves([(case.label, report)], wish.plot, profile=wish.profile, tradeoff=wish.tradeoff)
    elif wish.plot is not None:
        plotted = _over_rounds(case, report, wish)
    if wish.csv is not None:
        write_csv(wish.csv, _points([case], wish) if wish.curves else tidy_rows(case, wish.named))
    tables = {"observers": observer_rows(case)} if wish.named is None else {}
    if wish.accountants:
        tables["accountants"] = accountant_rows(case, wish.observer)
    facts = facts_of(report, wish.prior) if wish.curves else {}
    if wish.as_json:
        stated = replace(report, caveats=(*report.caveats, f"delta{case.why}")) if case.why else report
        extra: dict[str, Any] = {name: json_value(value) for name, value in facts.items()} | tables
        extra |= {"profile": report.profile()} if wish.profile else {}
        extra |= {"tradeoff": report.tradeoff()} if wish.tradeoff else {}
        print_json(stated.as_dict() | extra | _at(plotted))
        return
    _print(case, report, facts)
    for name, rows in tables.items():
        print_rows("Against each observer" if name == "observers" else "Accountants", rows)
    if wish.profile:
        top = 1.5 * report.epsilon if 0 < report.epsilon < 1e3 else 1.0
        shown = report.profile(top * n / (_CURVE_ROWS - 1) for n in range(_CURVE_ROWS))
        print_rows("Privacy profile", [{"epsilon": e, "delta": d} for e, d in shown])
    if wish.tradeoff:
        shown = report.tradeoff(_ALPHAS)
        print_rows("Trade-off", [{"false positive rate": a, "false negative rate, at least": b} for a, b in shown])
    print_plot(plotted)


def _points(cases: Sequence[Case], wish: _Wish) -> list[dict[str, Any]]:
    """The points of the curves, where a file or JSON takes them."""
    if not wish.curves or not (wish.csv or wish.as_json):
        return []
    return curve_rows(cases, wish.observer, profile=wish.profile, tradeoff=wish.tradeoff)


def _over_rounds(case: Case, report: EpsilonReport, wish: _Wish) -> Path:
    path = wish.plot or Path()
    if case.plan is None:
        return draw_ledgers(case.history, report, path)
    return draw(replace(case.plan, observer=wish.observer), case.delta, path)


def _print(case: Case, report: EpsilonReport, facts: dict[str, Any]) -> None:
    """Print a report with its sentence and all that it rests on."""
    rows = [
        (report.label, format_epsilon(report.epsilon)),
        ("delta", f"{report.delta:g}{case.why}"),
        ("which means", report.sentence),
        ("unit", f"{report.unit.level}, {report.unit.adjacency}"),
        ("sampling", report.sampling),
        ("observer", report.observer),
        ("rounds", str(report.rounds)),
        ("accountant", report.accountant),
        *(("cross-check", f"{name}: {format_epsilon(value)}") for name, value in report.cross_checks.items()),
        *(("caveat", caveat) for caveat in report.caveats),
    ]
    if facts:
        low, high = facts["posterior_odds"]
        rows += [
            ("advantage", f"{facts['advantage']:.6g} at most, of any test"),
            ("Bayes risk", f"{facts['bayes_risk']:.6g} at least, at a prior of {facts['prior']:g}"),
            ("posterior odds", f"{low:.4g} to {high:.4g}, each except with probability {report.delta:g}"),
        ]
    output().print(facts_table(str(report), rows))


def _at(plotted: Path | None) -> dict[str, str]:
    return {"plot": str(plotted)} if plotted else {}
