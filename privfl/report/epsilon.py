"""Epsilon over rounds and over delta, as a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from privfl.report.canvas import BLUE, ORANGE, RED, new_figure, save, style

Points = Sequence[tuple[float, float]]


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
