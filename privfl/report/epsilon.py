"""Figures of epsilon: over rounds and delta, privacy profiles, trade-off curves, and sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfl.dp.accounting.curves import SMALLEST_DELTA
from privfl.report.canvas import BLUE, COLORS, GRAY, ORANGE, RED, new_figure, save, style

Points = Sequence[tuple[float, float]]

_DASHES: Final = ("-", "--", "-.", ":")


def plot_epsilon(
    rounds: Points, deltas: Points, path: Path, *, delta: float, caption: str, budget: float | None = None
) -> Path:
    """Draw epsilon over rounds and epsilon over delta side by side, and return the path. Infinite values are left out.

    Args:
        rounds: Points (rounds, epsilon).
        deltas: Points (delta, epsilon).
        path: The PNG to write.
        delta: The delta of the first plot.
        caption: The text below the plots.
        budget: An epsilon to draw as a line.
    """
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*_finite(rounds), strict=True), color=BLUE, marker="o", markersize=3)
    style(left, "Epsilon over rounds", "rounds", f"epsilon at delta {delta:g}")
    left.set_ylim(bottom=0)
    right.plot(*zip(*_finite(deltas), strict=True), color=ORANGE, marker="o", markersize=3)
    right.set_xscale("log")
    style(right, "Epsilon over delta, at the end", "delta", "epsilon")
    right.set_ylim(bottom=0)
    if budget is not None:
        left.axhline(budget, color=RED, linestyle="--", label=f"budget {budget:g}")
        left.legend(fontsize=8)
    figure.supxlabel(caption, fontsize=8)
    return save(figure, path)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [point for point in points if math.isfinite(point[1])] or [(0.0, 0.0)]


@dataclass(frozen=True, slots=True)
class NamedCurve:
    """The curves of one configuration.

    Attributes:
        label: The words of the legend.
        profile: Points (epsilon, delta); None leaves the profile out.
        tradeoff: Points (false positive rate, least false negative rate); None leaves the trade-off curve out.
    """

    label: str
    profile: Points | None = None
    tradeoff: Points | None = None


def plot_curves(curves: Sequence[NamedCurve], path: Path, *, caption: str) -> Path:
    """Draw privacy profiles and trade-off curves side by side, and return the path.

    Args:
        curves: One entry for each configuration; all have the same kinds of curves.
        path: The file to write.
        caption: The text below the plots.
    """
    profiles = any(curve.profile is not None for curve in curves)
    tradeoffs = any(curve.tradeoff is not None for curve in curves)
    count = profiles + tradeoffs
    figure = new_figure(5.0 * count, 4.4)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    if profiles:
        axes = panels[0]
        for number, curve in enumerate(curves):
            points = [point for point in curve.profile or () if point[1] > 0]
            axes.plot(*_columns(points), label=curve.label, **_line(number))
        axes.set_yscale("log")
        axes.set_ylim(top=1.5)
        if axes.get_ylim()[0] < SMALLEST_DELTA:  # below it the bounds are not close
            axes.set_ylim(bottom=SMALLEST_DELTA)
        style(axes, "Privacy profile", "epsilon", "delta, at most")
    if tradeoffs:
        axes = panels[-1]
        axes.plot([0, 1], [1, 0], color=GRAY, linewidth=0.8, label="perfect privacy")
        for number, curve in enumerate(curves):
            axes.plot(*_columns(curve.tradeoff or ()), label=curve.label, **_line(number))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        style(axes, "Trade-off curve", "false positive rate", "false negative rate, at least")
    for axes in panels:
        axes.legend(fontsize=8)
    figure.supxlabel(caption, fontsize=8)
    return save(figure, path)


def plot_sweep(lines: Mapping[str, Points], path: Path, *, x: str, y: str) -> Path:
    """Draw one quantity over another for several configurations, and return the path.

    Args:
        lines: Points of each line by label; an empty label stands for the only line.
        path: The file to write.
        x: The name of the horizontal quantity.
        y: The name of the vertical quantity.
    """
    figure = new_figure(6.0, 4.2)
    axes = figure.subplots()
    for number, (label, points) in enumerate(lines.items()):
        axes.plot(*_columns(sorted(points)), label=label, marker="o", markersize=3, **_line(number))
    style(axes, f"{y.capitalize()} over {x}", x, y)
    axes.set_ylim(bottom=0)
    if any(lines):
        axes.legend(fontsize=8)
    return save(figure, path)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]


def _line(number: int) -> dict[str, str]:
    """Color and dashes of a line: no figure relies on color alone."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": _DASHES[number % len(_DASHES)]}
