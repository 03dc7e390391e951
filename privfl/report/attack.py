"""The pictures of attacks: reconstructed images in a grid, and the rates of guesses below what epsilon allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from privfl.experiment import InversionResult, MembershipResult
from privfl.report.canvas import COLORS, GRAY, new_figure, save, style


def plot_attack(result: InversionResult | MembershipResult, path: Path) -> Path:
    """Draw the picture of an attack, and return the file.

    Args:
        result: The attack.
        path: The file, which ends in .png, .pdf or .svg.

    Raises:
        MissingExtra: Without matplotlib.
    """
    if isinstance(result, MembershipResult):
        figure = new_figure(10.0, 4.4)
        draw_membership(figure, result)
    else:
        figure = new_figure(1.4 + 1.05 * len(result.truths), 1.05 * (len(result.cases) + 1) + 0.5)
        draw_inversion(figure, result)
    return save(figure, path)


def draw_inversion(figure: Any, result: InversionResult) -> None:
    """Draw an inversion on a figure of matplotlib.

    Args:
        figure: The figure.
        result: The inversion.
    """
    count = len(result.truths)
    axes = figure.subplots(len(result.cases) + 1, count, squeeze=False)
    lines: list[tuple[str, Any, Any]] = [("true example", result.truths, None)]
    lines += [(case.name, case.images, case.correlations) for case in result.cases]
    for row, (title, images, correlations) in enumerate(lines):
        for column in range(count):
            axis = axes[row, column]
            axis.imshow(_picture(images[column], result.side), cmap="gray_r", vmin=result.low, vmax=result.high,
                        aspect="equal" if result.side else "auto", interpolation="nearest")  # fmt: skip
            axis.set(xticks=[], yticks=[])
            if correlations is not None:
                axis.set_xlabel(f"r = {correlations[column]:.2f}", fontsize=7, labelpad=2)
        axes[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle("What the server reconstructs", x=0.01, ha="left", fontsize=11, fontweight="bold")


def draw_membership(figure: Any, result: MembershipResult) -> None:
    """Draw a membership attack on a figure of matplotlib: its curves, and the area under each.

    Args:
        figure: The figure.
        result: The attack.
    """
    curves, areas = figure.subplots(1, 2)
    smallest = 1.0 / result.trials
    for case, color in zip(result.cases, COLORS, strict=False):
        points = np.array([point for point in case.points if point[0] >= smallest])
        curves.plot(*points.T, color=color, label=case.name)
        if case.curve:
            stated = np.array([point for point in case.curve if point[0] >= smallest])
            curves.plot(*stated.T, color=color, linestyle="--", linewidth=1.0)
    guessing = np.geomspace(smallest, 1.0, 100)
    curves.plot(guessing, guessing, color=GRAY, linewidth=0.8, linestyle=":")
    curves.set(xscale="log", xlim=(smallest, 1.0), ylim=(0.0, 1.02))
    style(curves, "Guesses, and what epsilon allows (dashed)", "false positive rate", "true positive rate")
    curves.legend(fontsize=8, loc="upper left")
    names = [case.name for case in result.cases]
    for at, (case, color) in enumerate(zip(result.cases, COLORS, strict=False)):
        auc = case.rates.auc
        areas.errorbar(at, auc.value, yerr=[[auc.value - auc.low], [auc.high - auc.value]], color=color, marker="o",
                       capsize=4)  # fmt: skip
        areas.plot([at - 0.3, at + 0.3], [auc.limit, auc.limit], color=color, linestyle="--")
    areas.axhline(0.5, color=GRAY, linewidth=0.8, linestyle=":")
    areas.set(ylim=(0.4, 1.03))
    style(areas, "Area under the curve, 95 % interval", "", "area (.5: guessing)")
    areas.set_xticks(range(len(names)), names, fontsize=8)


def _picture(values: np.ndarray, side: int | None) -> np.ndarray:
    return values.reshape(side, side) if side else values.reshape(1, -1)
