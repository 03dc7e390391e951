"""`privfl calibrate`: the least noise for an epsilon, or the most rounds, or the least population."""

from __future__ import annotations

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
    Level,
    ObserverName,
    ObserverOption,
    PlotOption,
    Population,
    Rounds,
    SamplingOption,
    Steps,
    UnitOption,
    choose_delta,
    draw,
    planned_run,
)
from privfl.cli.options import Json, print_json
from privfl.cli.show import facts_table, output
from privfl.dp import Plan, PrivacyUnit, calibrate, format_epsilon, most_rounds

EXAMPLE: Final = (
    "Example: [bold]privfl calibrate --epsilon 8 --sampling poisson --population 1000 --cohort 100 --rounds 100[/]\n\n"
    "With --noise-multiplier it finds the most rounds instead: [bold]privfl calibrate --epsilon 8 --noise-multiplier 2"
    " --rounds 1[/]"
)


def calibrate_verb(
    *,
    epsilon: Annotated[float, typer.Option("--epsilon", help="The budget.")],
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
    delta: DeltaOption = None,
    plot: PlotOption = None,
    as_json: Json = False,
) -> None:
    """Find the least noise multiplier that keeps a planned run within epsilon, or the most rounds for given noise."""
    keeps_noise = noise_multiplier is not None
    if keeps_noise and unit is Level.CLIENT and rounds is None:
        rounds = 1  # what is asked for
    if keeps_noise and unit is Level.SAMPLE and steps is None:
        steps = 1
    how, count = planned_run(
        unit, sampling, population=population, cohort=cohort, cap=cap, rounds=rounds,
        dataset_size=dataset_size, batch_size=batch_size, steps=steps,
    )  # fmt: skip
    chosen, why = choose_delta(delta, population or dataset_size)
    privacy_unit = PrivacyUnit(unit.value, adjacency.value)
    if noise_multiplier is None:
        plan = calibrate(
            epsilon=epsilon, delta=chosen, sampling=how, rounds=count, unit=privacy_unit, observer=observer.value
        )
    else:
        plan = Plan(
            sampling=how, noise_multiplier=noise_multiplier, rounds=1, unit=privacy_unit, observer=observer.value
        )
        most = most_rounds(epsilon=epsilon, delta=chosen, plan=plan)
        plan = Plan(
            sampling=how,
            noise_multiplier=noise_multiplier,
            rounds=max(most, 1),
            unit=privacy_unit,
            observer=observer.value,
        )
        count = most
    report = plan.report(chosen)
    drawn = draw(plan, chosen, plot, budget=epsilon) if plot is not None else None
    if as_json:
        extra = {"noise_multiplier": plan.noise_multiplier, "rounds": count, "budget": epsilon}
        print_json(report.as_dict() | extra | ({"plot": str(drawn)} if drawn else {}))
        return
    found = [("most rounds", str(count))] if keeps_noise else [("least noise multiplier", f"{plan.noise_multiplier:g}")]
    rows = [
        *found,
        ("epsilon", f"{format_epsilon(report.epsilon)} of {epsilon:g}"),
        ("delta", f"{chosen:g}{why}"),
        ("which means", report.sentence),
        ("sampling", report.sampling),
        ("accountant", report.accountant),
        *(("caveat", caveat) for caveat in report.caveats),
    ]
    if keeps_noise and not count:
        rows[1] = ("epsilon", f"{format_epsilon(report.epsilon)} after one round, which is above {epsilon:g}")
    output().print(facts_table("Calibration", rows))
    _tell_plot(drawn)


def _tell_plot(drawn: Path | None) -> None:
    if drawn is not None:
        output().print(f"plot: {drawn.resolve()}", markup=False, soft_wrap=True)
