"""`privfl epsilon`: the epsilon of ledgers, or of a run that is only planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.options import Json, plot_file, print_json
from privfl.cli.show import facts_table, output
from privfl.dp import (
    Accountant,
    EpsilonReport,
    Everyone,
    FixedSize,
    History,
    Ledger,
    Plan,
    Poisson,
    PrivacyUnit,
    Sampling,
    Slot,
    TruncatedPoisson,
    default_delta,
    format_epsilon,
)
from privfl.dp import epsilon as judged
from privfl.dp.accounting.planning import over_delta, over_rounds
from privfl.dp.accounting.report import check_small_delta, delta_caveat
from privfl.errors import ConfigError
from privfl.files import user_path
from privfl.observers import Views

EXAMPLE: Final = (
    "Examples: [bold]privfl epsilon --sampling poisson --population 10000 --cohort 100 --noise-multiplier 1 "
    "--rounds 1000 --delta 1e-5[/]\n\n[bold]privfl epsilon --unit example --dataset-size 60000 --batch-size 600 "
    "--noise-multiplier 1.1 --steps 3000 --delta 1e-5[/]\n\n[bold]privfl epsilon --ledger runs/demo/ledger.jsonl "
    "--observer server[/]\n\nSeveral --ledger options give the composition of all of them."
)


UNITS: Final = 1 << 20
"""Integer units of one clip norm in a planned run, unless it says otherwise: finer ones cost nothing measurable."""


class SamplingName(StrEnum):
    """The sampling of a cohort."""

    POISSON = "poisson"
    TRUNCATED_POISSON = "truncated-poisson"
    FIXED_SIZE = "fixed-size"
    EVERYONE = "everyone"


class Adjacency(StrEnum):
    """The meaning of a unit's presence."""

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"
    ZERO_OUT = "zero_out"


class Level(StrEnum):
    """The unit whose presence is hidden."""

    CLIENT = "client"
    EXAMPLE = "example"


class PlacementName(StrEnum):
    """The place at which the noise is added."""

    CENTRAL = "central"
    DISTRIBUTED = "distributed"
    LOCAL = "local"


class ObserverName(StrEnum):
    """Against whom."""

    OUTSIDER = "outsider"
    PARTICIPANT = "participant"
    SERVER = "server"
    KEY_HOLDER = "key_holder"


SamplingOption = Annotated[SamplingName | None, typer.Option("--sampling", help="How cohorts are sampled.")]
Population = Annotated[int | None, typer.Option("--population", min=1, help="Clients that exist.")]
Cohort = Annotated[int | None, typer.Option("--cohort", min=1, help="Clients of one round, on average or exactly.")]
Cap = Annotated[int | None, typer.Option("--cap", min=1, help="Most clients of a round (truncated-poisson).")]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds.")]
DatasetSize = Annotated[int | None, typer.Option("--dataset-size", min=1, help="Examples of the data (unit example).")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Examples of a batch, on average (unit example).")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps (unit example).")]
UnitOption = Annotated[Level, typer.Option("--unit", help="Whose presence is hidden.")]
AdjacencyOption = Annotated[Adjacency, typer.Option("--adjacency", help="What presence means.")]
ObserverOption = Annotated[ObserverName, typer.Option("--observer", help="Against whom the promise is made.")]
DeltaOption = Annotated[
    float | None, typer.Option("--delta", help="Chance that the promise fails; 1e-5 if absent, which is said.")
]


LargeDelta = Annotated[
    bool, typer.Option("--allow-large-delta", help="Take a delta of 1/population or more, which promises little.")
]
PlacementOption = Annotated[PlacementName, typer.Option("--placement", help="Where the noise is added.")]
Length = Annotated[
    int | None, typer.Option("--length", min=1, help="Entries of the summed vector (distributed noise only).")
]
Units = Annotated[
    int | None,
    typer.Option("--units", min=1, help="Integer units of a clip norm: scale times clip (distributed; default 2^20)."),
]
SumOption = Annotated[
    str | None,
    typer.Option("--sum", metavar="NAME", help="The secure sum; needed for observers other than the outsider."),
]
Opacus = Annotated[bool, typer.Option("--opacus", help="Ask Opacus's PRV accountant too, where it applies.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", parser=plot_file, help="Draw over rounds and delta.")
]


GroupOption = Annotated[
    int, typer.Option("--group", min=1, help="Units that change together, such as the clients of one person.")
]


def epsilon(
    *,
    sampling: SamplingOption = None,
    population: Population = None,
    cohort: Cohort = None,
    cap: Cap = None,
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
    observer: ObserverOption = ObserverName.OUTSIDER,
    placement: PlacementOption = PlacementName.CENTRAL,
    length: Length = None,
    units: Units = None,
    sum_name: SumOption = None,
    delta: DeltaOption = None,
    allow_large_delta: LargeDelta = False,
    group: GroupOption = 1,
    opacus: Opacus = False,
    ledger: Annotated[
        list[Path] | None,
        typer.Option(
            "--ledger",
            metavar="FILE",
            parser=user_path,
            help="Judge what runs have spent; repeat it for their composition.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", parser=plot_file, help="Draw epsilon over rounds and delta."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the epsilon of privacy ledgers, or of a run that is only planned, and report against whom it holds."""
    chosen, why = choose_delta(delta, population or dataset_size, allow_large=allow_large_delta)
    if ledger:
        planned = (
            sampling,
            population,
            cohort,
            cap,
            noise_multiplier,
            rounds,
            dataset_size,
            batch_size,
            steps,
            sum_name,
        )
        if any(value is not None for value in (*planned, length, units)) or placement is not PlacementName.CENTRAL:
            raise ConfigError("a ledger states by itself what was done: give --ledger with --observer and --delta only")
        if opacus:
            raise ConfigError("--opacus judges a planned run: a ledger's rounds need not be alike")
        history = History.of([Ledger.read(path) for path in _distinct(ledger)])
        report = judged(history, chosen, observer=observer.value, assume_secure_noise=True, group=group)
        drawn = None if plot is None else draw_ledgers(history, report, plot)
        tell(report, why=why, drawn=drawn, as_json=as_json)
        return
    how, count = planned_run(
        unit, sampling, population=population, cohort=cohort, cap=cap, rounds=rounds,
        dataset_size=dataset_size, batch_size=batch_size, steps=steps,
    )  # fmt: skip
    if noise_multiplier is None:
        raise ConfigError("--noise-multiplier is missing; `privfl calibrate` finds the least for an epsilon")
    plan = Plan(
        sampling=how,
        noise_multiplier=noise_multiplier,
        rounds=count,
        unit=PrivacyUnit(unit.value, adjacency.value),
        observer=observer.value,
        placement=placement.value,
        slots=slots_of(placement, length, units),
        views=views_of(sum_name),
    )
    report = plan.report(chosen, group=group)
    if opacus:
        from privfl.adapters.opacus import prv_epsilon

        report = replace(report, cross_checks={**report.cross_checks, "PRV (Opacus)": prv_epsilon(plan, chosen)})
    drawn = None if plot is None else draw(plan, chosen, plot)
    tell(report, why=why, drawn=drawn, as_json=as_json)


def slots_of(placement: PlacementName, length: int | None, units: int | None) -> tuple[Slot, ...]:
    """The vector of a planned run, which only distributed noise is judged by; raises `ConfigError` without it.

    Args:
        placement: The place at which the noise is added.
        length: The number of entries of the vector, of `--length`; needed for distributed noise only.
        units: Integer units of one clip norm, of `--units`; None takes `UNITS`.
    """
    if placement is not PlacementName.DISTRIBUTED:
        _refuse({"--length": length, "--units": units}, f"--placement {placement.value}")
        return ()
    _need({"--length": length}, ("--length",), "--placement distributed")
    return (Slot("update", int(length or 0), float(units or UNITS), 1.0),)


def views_of(name: str | None) -> Views | None:
    """The views of each observer of the sum of this name, such as "masked"; None without a name."""
    if name is None:
        return None
    from privfl.experiment.config import Config
    from privfl.experiment.schemes import describe

    return describe(name).views(Config())


def _distinct(paths: Sequence[Path]) -> Sequence[Path]:
    """The paths, if no two name one file: counting a ledger twice would not be the epsilon of anything."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("one ledger is given twice: give each --ledger once")
    return paths


def draw_ledgers(history: History, report: EpsilonReport, path: Path) -> Path:
    """Plot the epsilon of ledgers over their rounds and over delta.

    Args:
        history: The releases of the ledgers.
        report: The report, which gives the observer, the delta and the caption.
        path: The PNG that is written.
    """
    from privfl.report.epsilon import plot_epsilon

    def spent(rounds: int, delta: float) -> float:
        accountant = Accountant(delta, observer=report.observer, assume_secure_noise=True)
        return accountant.spent(History(history.unit, history.rounds[:rounds]))

    total = len(history.rounds)
    shown = sorted({max(1, round(total * part / 12)) for part in range(1, 13)}) if total else []
    over = [(float(count), spent(count, report.delta)) for count in shown]
    deltas = [(delta, spent(total, delta)) for delta in _deltas(report.delta)]
    caption = f"{report.sampling}; {report.observer}" + ("" if report.secure else "; if the noise were secure")
    return plot_epsilon(over, deltas, path, delta=report.delta, caption=caption)


def choose_delta(delta: float | None, units: int | None, *, allow_large: bool) -> tuple[float, str]:
    """Return the delta that was asked for, or a default, and a word on why.

    Args:
        delta: The delta that was asked for.
        units: The number of clients or examples, where it is known.
        allow_large: Take a delta of 1/units or more.

    Raises:
        ConfigError: The delta is that large.
    """
    if delta is not None:
        if units is not None and not allow_large:
            check_small_delta(delta, units, setting="--delta", flag="give --allow-large-delta")
        caveat = delta_caveat(delta, units or 1)
        return delta, f" ({caveat})" if caveat else ""
    chosen, _ = default_delta(units or 1)
    return chosen, " (the default: the smaller of 1e-5 and 1/units^1.1; it bounds the chance of a failure)"


def draw(plan: Plan, delta: float, path: Path, *, budget: float | None = None) -> Path:
    """Plot the epsilon of a plan over rounds and over delta.

    Args:
        plan: The planned run.
        delta: The delta of the curve over rounds.
        path: The PNG that is written.
        budget: The epsilon to mark; None marks none.
    """
    from privfl.report.epsilon import plot_epsilon

    rounds = sorted({max(1, round(plan.rounds * share / 12)) for share in range(1, 13)})
    caption = f"noise multiplier {plan.noise_multiplier:g}; {plan.known_sampling.describe()}; {plan.observer}"
    points = over_rounds(plan, delta, rounds), over_delta(plan, _deltas(delta))
    return plot_epsilon(*points, path, delta=delta, caption=caption, budget=budget)


def _deltas(delta: float) -> list[float]:
    return sorted({delta, *(10.0**-power for power in range(3, 9))})


def planned_run(
    unit: Level,
    sampling: SamplingName | None,
    *,
    population: int | None,
    cohort: int | None,
    cap: int | None,
    rounds: int | None,
    dataset_size: int | None,
    batch_size: int | None,
    steps: int | None,
) -> tuple[Sampling, int]:
    """The sampling and the number of releases that the options describe.

    Raises `ConfigError` for an option that is missing, or that this kind of run does not take.
    """
    clients = {"--population": population, "--cohort": cohort, "--cap": cap, "--rounds": rounds, "--sampling": sampling}
    rows = {"--dataset-size": dataset_size, "--batch-size": batch_size, "--steps": steps}
    if unit is Level.EXAMPLE:
        _refuse(clients, "--unit example")
        _need(rows, ("--dataset-size", "--batch-size", "--steps"), "--unit example")
        return Poisson(_share(batch_size, dataset_size, "--batch-size", "--dataset-size")), int(steps or 0)
    _refuse(rows, "--unit client")
    how = sampling or (SamplingName.EVERYONE if cohort is None else SamplingName.POISSON)
    what = f"--sampling {how.value}"
    if how is SamplingName.EVERYONE:
        _refuse({"--cohort": cohort, "--cap": cap}, what)
        _need(clients, ("--rounds",), what)
        return Everyone(), int(rounds or 0)
    needs = ("--population", "--cohort", "--rounds") + (("--cap",) if how is SamplingName.TRUNCATED_POISSON else ())
    _need(clients, needs, what)
    if how is not SamplingName.TRUNCATED_POISSON:
        _refuse({"--cap": cap}, what)
    if how is SamplingName.FIXED_SIZE:
        return FixedSize(int(cohort or 0), int(population or 0)), int(rounds or 0)
    share = _share(cohort, population, "--cohort", "--population")
    if how is SamplingName.POISSON:
        return Poisson(share), int(rounds or 0)
    return TruncatedPoisson(share, int(cap or 0), int(population or 0)), int(rounds or 0)


def tell(report: EpsilonReport, *, why: str, drawn: Path | None, as_json: bool) -> None:
    """Print a report with its sentence and all that it rests on."""
    if as_json:
        told = replace(report, caveats=(*report.caveats, f"delta{why}")) if why else report
        print_json(told.as_dict() | ({"plot": str(drawn)} if drawn else {}))
        return
    rows = [
        (report.label, format_epsilon(report.epsilon)),
        ("delta", f"{report.delta:g}{why}"),
        ("which means", report.sentence),
        ("unit", f"{report.unit.level}, {report.unit.adjacency}"),
        ("sampling", report.sampling),
        ("observer", report.observer),
        ("rounds", str(report.rounds)),
        ("accountant", report.accountant),
        *(("cross-check", f"{name}: {format_epsilon(value)}") for name, value in report.cross_checks.items()),
        *(("caveat", caveat) for caveat in report.caveats),
    ]
    output().print(facts_table(str(report), rows))
    if drawn is not None:
        output().print(f"plot: {drawn.resolve()}", markup=False, soft_wrap=True)


def _share(part: int | None, whole: int | None, part_name: str, whole_name: str) -> float:
    if part is None or whole is None or part > whole:
        raise ConfigError(f"{part_name} {part} is more than {whole_name} {whole}")
    return part / whole


def _refuse(options: Mapping[str, object], what: str) -> None:
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None:
        raise ConfigError(f"{what} does not take {given}")


def _need(options: Mapping[str, object], names: tuple[str, ...], what: str) -> None:
    missing = next((name for name in names if options[name] is None), None)
    if missing is not None:
        raise ConfigError(f"{what} needs {missing}")
