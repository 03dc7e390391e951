"""The figures of `epsilon` and `calibrate`: over rounds and delta, over a sweep, and curves of several cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privfl.dp import Accountant, EpsilonReport, History, Plan
from privfl.dp.accounting.planning import over_delta, over_rounds
from privfl.errors import ConfigError
from privfl.report.epsilon import NamedCurve, plot_curves, plot_epsilon, plot_sweep


def draw(plan: Plan, delta: float, path: Path, *, budget: float | None = None) -> Path:
    """Plot the epsilon of a plan over rounds and over delta.

    Args:
        plan: The planned run.
        delta: The delta of the curve over rounds.
        path: The file that is written.
        budget: The epsilon to mark; None marks none.
    """
    rounds = sorted({max(1, round(plan.rounds * share / 12)) for share in range(1, 13)})
    caption = f"noise multiplier {plan.noise_multiplier:g}; {plan.known_sampling.describe()}; {plan.observer}"
    points = over_rounds(plan, delta, rounds), over_delta(plan, _deltas(delta))
    return plot_epsilon(*points, path, delta=delta, caption=caption, budget=budget)


def draw_ledgers(history: History, report: EpsilonReport, path: Path) -> Path:
    """Plot the epsilon of ledgers over their rounds and over delta.

    Args:
        history: The releases of the ledgers.
        report: The report, which gives the observer, the delta and the caption.
        path: The file that is written.
    """

    def spent(rounds: int, delta: float) -> float:
        accountant = Accountant(delta, observer=report.observer, assume_secure_noise=True)
        return accountant.spent(History(history.unit, history.rounds[:rounds]))

    total = len(history.rounds)
    shown = sorted({max(1, round(total * part / 12)) for part in range(1, 13)}) if total else []
    over = [(float(count), spent(count, report.delta)) for count in shown]
    deltas = [(delta, spent(total, delta)) for delta in _deltas(report.delta)]
    caption = f"{report.sampling}; {report.observer}" + ("" if report.secure else "; if the noise were secure")
    return plot_epsilon(over, deltas, path, delta=report.delta, caption=caption)


def draw_curves(named: Sequence[tuple[str, EpsilonReport]], path: Path, *, profile: bool, tradeoff: bool) -> Path:
    """Plot the privacy profile or the trade-off curve, or both, of one or several reports.

    Args:
        named: Labels and reports.
        path: The file that is written.
        profile: Draw delta against epsilon.
        tradeoff: Draw the false negative rate against the false positive rate.
    """
    top = max((1.5 * report.epsilon for _, report in named if report.epsilon < 100), default=1.0)
    epsilons = [top * n / 60 for n in range(61)]
    curves = [
        NamedCurve(label, report.profile(epsilons) if profile else None, report.tradeoff() if tradeoff else None)
        for label, report in named
    ]
    caption = "; ".join(dict.fromkeys(f"against the {report.observer}, {report.unit.adjacency}" for _, report in named))
    return plot_curves(curves, path, caption=caption)


def draw_sweep(rows: Sequence[dict[str, Any]], keys: Sequence[str], value: str, path: Path) -> Path:
    """Plot one column of a sweep against the first key whose values are numbers.

    Each combination of values of the other keys is a line of its own.

    Args:
        rows: The results of the sweep, one for each combination and observer.
        keys: The keys that were swept.
        value: The column to draw.
        path: The file that is written.

    Raises:
        ConfigError: No key of the sweep is a number.
    """
    numeric = [key for key in keys if all(isinstance(row[key], int | float) for row in rows)]
    if not numeric:
        raise ConfigError("--plot needs a sweep over numbers, or --profile or --tradeoff")
    x, rest = numeric[0], [key for key in keys if key != numeric[0]]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if isinstance(row.get(value), int | float):
            label = ", ".join(f"{key} {row[key]}" for key in rest)
            lines.setdefault(label, []).append((float(row[x]), float(row[value])))
    return plot_sweep(lines, path, x=x.replace("_", " "), y=value.replace("_", " "))


def _deltas(delta: float) -> list[float]:
    return sorted({delta, *(10.0**-power for power in range(3, 9))})
