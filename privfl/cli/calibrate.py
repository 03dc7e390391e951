"""`privfl calibrate`: the least noise for a budget, the most rounds for given noise, or the least population."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from privfl.cli.epsilon_sweep import KEYS, combinations, print_rows, write_csv
from privfl.cli.figures import draw, draw_sweep
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
    ObserverOption,
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
from privfl.dp import Plan, Sampling, calibrate, format_epsilon, max_rounds, min_population
from privfl.errors import ConfigError

EXAMPLE: Final = (
    "Example: [bold]privfl calibrate --epsilon 8 --sampling poisson --population 1000 --cohort 100 --rounds 100[/]\n\n"
    "With --noise-multiplier it finds the most rounds instead, or with --rounds and --cohort besides the least "
    "population: [bold]privfl calibrate --find population --epsilon 2 --noise-multiplier 1 --rounds 500 --cohort 100[/]"
    "\n\nA table over budgets: [bold]privfl calibrate --epsilon 8 --rounds 10 --sweep epsilon=1,2,4,8[/]"
)


class Wanted(StrEnum):
    """The quantity to find."""

    NOISE = "noise"
    ROUNDS = "rounds"
    POPULATION = "population"


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one question.

    Attributes:
        plan: The plan with the quantity that was found; one round where the answer is none.
        rounds: The number of rounds, which may be 0.
        population: The number of clients, where it counts.
        delta: Probability with which the promise may fail.
        why: A word on the delta.
    """

    plan: Plan
    rounds: int
    population: int | None
    delta: float
    why: str

    def value(self, wanted: Wanted) -> tuple[str, Any]:
        """The name of the column and the quantity."""
        return {
            Wanted.NOISE: ("noise_multiplier", self.plan.noise_multiplier),
            Wanted.ROUNDS: ("rounds", self.rounds),
            Wanted.POPULATION: ("population", self.population),
        }[wanted]


def calibrate_verb(
    *,
    epsilon: Annotated[float, typer.Option("--epsilon", help="The budget.")],
    find: Annotated[
        Wanted | None, typer.Option("--find", help="The least noise, the most rounds, or the least population.")
    ] = None,
    sampling: SamplingOption = None,
    population: Population = None,
    cohort: Cohort = None,
    cap: Cap = None,
    selected: Selected = None,
    block: Block = None,
    rounds: Rounds = None,
    dataset_size: DatasetSize = None,
    batch_size: BatchSize = None,
    steps: Steps = None,
    noise_multiplier: Annotated[
        float | None, typer.Option("--noise-multiplier", help="Keep this noise, and find the most rounds.")
    ] = None,
    unit: UnitOption = Level.CLIENT,
    adjacency: AdjacencyOption = Adjacency.ADD_REMOVE,
    observer: ObserverOption = ObserverName.OUTSIDER,
    placement: PlacementOption = PlacementName.CENTRAL,
    length: Length = None,
    units: Units = None,
    spare: Spare = None,
    at_sites: AtSites = False,
    group: GroupOption = 1,
    correlation: CorrelationOption = CorrelationName.NONE,
    sum_name: SumOption = None,
    delta: DeltaOption = None,
    allow_large_delta: LargeDelta = False,
    sweep: SweepOption = None,
    plot: PlotOption = None,
    csv: CsvOption = None,
    as_json: Json = False,
) -> None:
    """Find the least noise multiplier that keeps a planned run within epsilon, or the most rounds for given noise."""
    wanted = _wanted(find, noise_multiplier)
    run = PlannedRun(
        unit=unit, adjacency=adjacency, sampling=sampling, population=population, cohort=cohort, cap=cap,
        selected=selected, block=block, rounds=rounds, dataset_size=dataset_size, batch_size=batch_size, steps=steps,
        placement=placement,
        length=length, units=units, spare=spare, correlation=correlation, sum_name=sum_name,
        noise_multiplier=noise_multiplier, delta=delta, at_sites=at_sites, group=group,
    )  # fmt: skip
    ask = _Question(run, wanted, epsilon, observer, allow_large_delta)
    if sweep:
        _tell_table(ask, sweep, plot, csv, as_json=as_json)
        return
    found = ask.answer()
    report = found.plan.report(found.delta)
    plotted = draw(found.plan, found.delta, plot, budget=epsilon) if plot is not None else None
    if csv is not None:
        write_csv(csv, [ask.row({})])
    if as_json:
        extra: dict[str, Any] = {
            "noise_multiplier": found.plan.noise_multiplier,
            "rounds": found.rounds,
            "budget": epsilon,
        }
        extra["found"] = wanted.value
        if found.population is not None:
            extra["population"] = found.population
        print_json(report.as_dict() | extra | ({"plot": str(plotted)} if plotted else {}))
        return
    names = {
        Wanted.NOISE: "least noise multiplier",
        Wanted.ROUNDS: "most rounds",
        Wanted.POPULATION: "least population",
    }
    facts = [
        (names[wanted], f"{found.value(wanted)[1]:g}" if wanted is Wanted.NOISE else str(found.value(wanted)[1])),
        ("epsilon", f"{format_epsilon(report.epsilon)} of {epsilon:g}"),
        ("delta", f"{found.delta:g}{found.why}"),
        ("which means", report.sentence),
        ("sampling", report.sampling),
        ("accountant", report.accountant),
        *(("caveat", caveat) for caveat in report.caveats),
    ]
    if not found.rounds:
        facts[1] = ("epsilon", f"{format_epsilon(report.epsilon)} after one round, which is above {epsilon:g}")
    output().print(facts_table("Calibration", facts))
    print_plot(plotted)


@dataclass(frozen=True, slots=True)
class _Question:
    """A planned run, the quantity that is wanted, and the budget."""

    run: PlannedRun
    wanted: Wanted
    budget: float
    observer: ObserverName
    allow_large: bool

    @property
    def column(self) -> str:
        """The name of the wanted quantity in a table."""
        return "noise_multiplier" if self.wanted is Wanted.NOISE else self.wanted.value

    def of(self, swept: dict[str, Any]) -> _Question:
        """The question with other values of some options."""
        options = {name: value for name, value in swept.items() if name != "epsilon"}
        return replace(self, run=replace(self.run, **options), budget=swept.get("epsilon", self.budget))

    def row(self, swept: dict[str, Any]) -> dict[str, Any]:
        """One line of the tidy table; a question without an answer has a note."""
        ask = self.of(swept)
        row = {name: value for name, value in swept.items() if name != "epsilon"}
        row |= {"budget": ask.budget, "observer": self.observer.value}
        try:
            found = ask.answer()
        except ConfigError as error:
            return row | {"delta": ask.run.delta, self.column: None, "epsilon": None, "note": str(error)}
        name, value = found.value(self.wanted)
        spent = found.plan.epsilon(found.delta) if found.rounds else None
        note = "" if found.rounds else "one round is too many"
        return row | {"delta": found.delta, name: value, "epsilon": spent, "note": note}

    def answer(self) -> Found:
        """Find the quantity; raises `ConfigError` where there is none."""
        run, wanted = self.run, self.wanted
        if wanted is Wanted.ROUNDS and run.unit is Level.CLIENT and run.rounds is None:
            run = replace(run, rounds=1)  # what is asked for
        if wanted is Wanted.ROUNDS and run.unit is Level.EXAMPLE and run.steps is None:
            run = replace(run, steps=1)
        if wanted is Wanted.POPULATION:
            if run.unit is Level.EXAMPLE or run.cohort is None or run.population is not None:
                raise ConfigError(
                    "--find population asks how many clients are needed: give --cohort, and no --population"
                )
            run = replace(run, population=run.cohort)  # the least that there can be
        # A population that is searched for is judged when it is known.
        delta, why = run.chosen_delta(allow_large=self.allow_large or wanted is Wanted.POPULATION)
        plan = run.plan(self.observer.value, noise_multiplier=run.noise_multiplier or 1.0)
        if wanted is Wanted.NOISE:
            plan = calibrate(
                epsilon=self.budget, delta=delta, sampling=plan.sampling, rounds=plan.rounds, unit=plan.unit,
                observer=plan.observer, placement=plan.placement, slots=plan.slots, views=plan.views, spare=plan.spare,
                correlation=plan.correlation, draw_known_to=plan.draw_known_to, group=plan.group,
            )  # fmt: skip
            return Found(plan, plan.rounds, run.population, delta, why)
        if wanted is Wanted.ROUNDS:
            count = max_rounds(epsilon=self.budget, delta=delta, plan=plan)
            return Found(replace(plan, rounds=max(count, 1)), count, run.population, delta, why)
        population, delta = _min_population(plan, run, self.budget)
        run = replace(run, population=population)
        delta, why = run.chosen_delta(allow_large=self.allow_large)
        return Found(replace(plan, sampling=run.sampled()[0]), plan.rounds, population, delta, why)


def _tell_table(ask: _Question, sweep: list[str], plot: Path | None, csv: Path | None, *, as_json: bool) -> None:
    """Answer a question for every combination of a sweep."""
    fixed = {ask.column, "group"}
    keys = {"epsilon": float} | {name: kind for name, kind in KEYS.items() if name not in fixed}
    swept = combinations(sweep, keys)
    rows = [ask.row(values) for values in swept]
    if all(row["epsilon"] is None for row in rows):
        raise ConfigError(f"no combination of the sweep has an answer; the first: {rows[0]['note']}")
    plotted = None
    if plot is not None:
        names = ["budget" if name == "epsilon" else name for name in swept[0]]
        plotted = draw_sweep(rows, names, ask.column, plot)
    if csv is not None:
        write_csv(csv, rows)
    if as_json:
        print_json({"rows": rows} | ({"plot": str(plotted)} if plotted else {}))
        return
    print_rows("Calibration", rows)
    print_plot(plotted)


def _wanted(find: Wanted | None, noise_multiplier: float | None) -> Wanted:
    wanted = find or (Wanted.NOISE if noise_multiplier is None else Wanted.ROUNDS)
    if (wanted is Wanted.NOISE) != (noise_multiplier is None):
        verb = "finds" if wanted is Wanted.NOISE else "needs"
        raise ConfigError(f"--find {wanted.value} {verb} --noise-multiplier")
    return wanted


def _min_population(plan: Plan, run: PlannedRun, epsilon: float) -> tuple[int, float]:
    """The least population, and the delta it was found for: more clients may ask for a smaller default, and so on."""

    def of(people: int) -> Sampling:
        return replace(run, population=people).sampled()[0]

    minimum = run.population or 1
    chosen = run.chosen_delta(allow_large=True)[0]
    while True:
        minimum = min_population(epsilon=epsilon, delta=chosen, plan=plan, sampling_of=of, minimum=minimum)
        following = replace(run, population=minimum).chosen_delta(allow_large=True)[0]
        if following == chosen:
            return minimum, chosen
        chosen = following
