"""The plot of an audit: the stated trade-off curve, the curve of the lower bound, and the test's own rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from privfl.dp.accounting.audit import highest_rates
from privfl.experiment import AuditResult
from privfl.report.canvas import BLUE, GRAY, ORANGE, RED, new_figure, save, style


def plot_audit(result: AuditResult, path: Path) -> Path:
    """Draw the true positive rate over the false positive rate, and return the file.

    A point above the stated curve refutes the statement, as far as chance allows.

    Args:
        result: The audit.
        path: The file, which ends in .png, .pdf or .svg.

    Raises:
        MissingExtra: Without matplotlib.
    """
    figure = new_figure(5.6, 5.2)
    axes = figure.subplots()
    lower, rates = result.lower, np.linspace(0.0, 1.0, 201)
    color = RED if result.refuted else BLUE
    axes.plot(*zip(*result.curve, strict=True), color=color, label=f"stated: epsilon {result.stated.epsilon:.3f}")
    axes.plot(
        rates,
        highest_rates(lower, result.stated.delta, rates),
        color=ORANGE,
        linestyle="--",
        label=f"lower bound: epsilon {lower.epsilon:.3f}",
    )
    axes.plot(
        *zip(*result.points, strict=True), color="black", linestyle="none", marker=".", markersize=3, label="test"
    )
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":", label="guessing")
    style(axes, "Audit", "false positive rate", "true positive rate")
    axes.legend(fontsize=8, loc="lower right")
    figure.supxlabel(f"{result.trials} pairs; {result.stated.observer}; delta {result.stated.delta:g}", fontsize=8)
    return save(figure, path)
