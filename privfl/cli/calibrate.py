"""`privfl calibrate`: the least noise for an epsilon, or the most rounds, or the least population."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.epsilon import (
    Adjacency,
    AdjacencyOption,
    BatchSize,
    Cap,
    Cohort,
    DatasetSize,
    DeltaOption,
    LargeDelta,
    Length,
    Level,
    ObserverName,
    ObserverOption,
    PlacementName,
    PlacementOption,
    PlotOption,
    Population,
    Rounds,
    SamplingOption,
    Steps,
    SumOption,
    UnitOption,
    Units,
    choose_delta,
    draw,
    planned_run,
    slots_of,
    views_of,
)
from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output
from privfl.dp import Plan, PrivacyUnit, Sampling, calibrate, format_epsilon, max_rounds, min_population
from privfl.errors import ConfigError

EXAMPLE: Final = (
    "Example: [bold]privfl calibrate --epsilon 8 --sampling poisson --population 1000 --cohort 100 --rounds 100[/]\n\n"
    "With --noise-multiplier it finds the most rounds instead, or with --rounds and --cohort besides the least "
    "population: [bold]privfl calibrate --find population --epsilon 2 --noise-multiplier 1 --rounds 500 --cohort 100[/]"
)


class Wanted(StrEnum):
    """The quantity to find."""

    NOISE = "noise"
    ROUNDS = "rounds"
    POPULATION = "population"


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
    sum_name: SumOption = None,
    delta: DeltaOption = None,
    allow_large_delta: LargeDelta = False,
    plot: PlotOption = None,
    as_json: Json = False,
) -> None:
    """Find the least noise multiplier that keeps a planned run within epsilon, or the most rounds for given noise."""
    wanted = _wanted(find, noise_multiplier)
    if wanted is Wanted.ROUNDS and unit is Level.CLIENT and rounds is None:
        rounds = 1  # what is asked for
    if wanted is Wanted.ROUNDS and unit is Level.EXAMPLE and steps is None:
        steps = 1
    if wanted is Wanted.POPULATION:
        if unit is Level.EXAMPLE or cohort is None or population is not None:
            raise ConfigError("--find population asks how many clients are needed: give --cohort, and no --population")
        population = cohort  # the least that there can be
    how, count = planned_run(
        unit, sampling, population=population, cohort=cohort, cap=cap, rounds=rounds,
        dataset_size=dataset_size, batch_size=batch_size, steps=steps,
    )  # fmt: skip
    allow_large = allow_large_delta or wanted is Wanted.POPULATION  # which is then judged when it is known
    chosen, why = choose_delta(delta, population or dataset_size, allow_large=allow_large)
    plan = Plan(
        sampling=how,
        noise_multiplier=noise_multiplier or 1.0,
        rounds=count,
        unit=PrivacyUnit(unit.value, adjacency.value),
        observer=observer.value,
        placement=placement.value,
        slots=slots_of(placement, length, units),
        views=views_of(sum_name),
    )
    if wanted is Wanted.NOISE:
        plan = calibrate(
            epsilon=epsilon, delta=chosen, sampling=how, rounds=count, unit=plan.unit, observer=plan.observer,
            placement=plan.placement, slots=plan.slots, views=plan.views,
        )  # fmt: skip
    elif wanted is Wanted.ROUNDS:
        count = max_rounds(epsilon=epsilon, delta=chosen, plan=plan)
        plan = replace(plan, rounds=max(count, 1))
    else:

        def of(people: int) -> Sampling:
            return planned_run(
                unit, sampling, population=people, cohort=cohort, cap=cap, rounds=rounds,
                dataset_size=None, batch_size=None, steps=None,
            )[0]  # fmt: skip

        population, chosen = _min_population(plan, of, epsilon, delta, least=population or 1)
        chosen, why = choose_delta(delta, population, allow_large=allow_large_delta)
        plan = replace(plan, sampling=of(population))
    report = plan.report(chosen)
    drawn = draw(plan, chosen, plot, budget=epsilon) if plot is not None else None
    if as_json:
        extra = {"noise_multiplier": plan.noise_multiplier, "rounds": count, "budget": epsilon, "found": wanted.value}
        if population is not None:
            extra["population"] = population
        print_json(report.as_dict() | extra | ({"plot": str(drawn)} if drawn else {}))
        return
    found = {
        Wanted.NOISE: ("least noise multiplier", f"{plan.noise_multiplier:g}"),
        Wanted.ROUNDS: ("most rounds", str(count)),
        Wanted.POPULATION: ("least population", str(population)),
    }
    rows = [
        found[wanted],
        ("epsilon", f"{format_epsilon(report.epsilon)} of {epsilon:g}"),
        ("delta", f"{chosen:g}{why}"),
        ("which means", report.sentence),
        ("sampling", report.sampling),
        ("accountant", report.accountant),
        *(("caveat", caveat) for caveat in report.caveats),
    ]
    if not count:
        rows[1] = ("epsilon", f"{format_epsilon(report.epsilon)} after one round, which is above {epsilon:g}")
    output().print(facts_table("Calibration", rows))
    _tell_plot(drawn)


def _wanted(find: Wanted | None, noise_multiplier: float | None) -> Wanted:
    wanted = find or (Wanted.NOISE if noise_multiplier is None else Wanted.ROUNDS)
    if (wanted is Wanted.NOISE) != (noise_multiplier is None):
        verb = "finds" if wanted is Wanted.NOISE else "needs"
        raise ConfigError(f"--find {wanted.value} {verb} --noise-multiplier")
    return wanted


def _min_population(
    plan: Plan, of: Callable[[int], Sampling], epsilon: float, delta: float | None, *, least: int
) -> tuple[int, float]:
    """The least population, and the delta it was found for: more clients may ask for a smaller default, and so on."""
    chosen = choose_delta(delta, least, allow_large=True)[0]
    while True:
        least = min_population(epsilon=epsilon, delta=chosen, plan=plan, sampling_of=of, minimum=least)
        following = choose_delta(delta, least, allow_large=True)[0]
        if following == chosen:
            return least, chosen
        chosen = following


def _tell_plot(drawn: Path | None) -> None:
    if drawn is not None:
        output().print(f"plot: {drawn.resolve()}", markup=False, soft_wrap=True)
