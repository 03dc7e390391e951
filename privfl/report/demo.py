"""The figures of the two demonstrations. They take any object with the values that they draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from privfl.dp import EpsilonReport
from privfl.experiment.view import Sighting
from privfl.fl.report import RoundReport
from privfl.report.canvas import BLUE, COLORS, GRAY, GREEN, ORANGE, RED, new_figure, save, style, whole_numbers


class Training(Protocol):
    """The values of `DemoResult` that its figure shows."""

    @property
    def reports(self) -> Sequence[RoundReport]: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def pooled_accuracy(self) -> float: ...
    @property
    def local_accuracy(self) -> float: ...
    @property
    def averaged(self) -> int: ...
    @property
    def epsilon(self) -> EpsilonReport: ...
    @property
    def scheme(self) -> str: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def clear(self) -> npt.NDArray[np.int64]: ...
    @property
    def sighting(self) -> Sighting: ...


class Lines(Protocol):
    """The values of `LineResult` that its figure shows."""

    @property
    def lines(self) -> Sequence[tuple[float, float]]: ...
    @property
    def line(self) -> tuple[float, float]: ...
    @property
    def alone(self) -> Sequence[tuple[float, float]]: ...
    @property
    def points(self) -> Sequence[npt.NDArray[np.float64]]: ...


def plot_demo(result: Training, budget: float, path: Path) -> Path:
    """Draw accuracy and epsilon over rounds, and one vector before and after masking; return the PNG's path.

    Args:
        result: The values of the run, such as a `DemoResult`.
        budget: The epsilon that the run may spend.
        path: The PNG to write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = new_figure(11.0, 7.4)
    top, bottom = figure.subplots(2, 2)
    _accuracy(top[0], result)
    _epsilon(top[1], result, budget)
    _clear(bottom[0], result)
    _seen(bottom[1], result)
    return save(figure, path)


def _accuracy(axes: Any, result: Training) -> None:
    rounds = [report.round for report in result.reports]
    accuracy = [report.evaluation["accuracy"] for report in result.reports]
    axes.axhline(result.pooled_accuracy, color=GREEN, linestyle="--", label=f"pooled {result.pooled_accuracy:.3f}")
    axes.axhline(result.local_accuracy, color=GRAY, linestyle=":", label=f"local, mean {result.local_accuracy:.3f}")
    axes.plot(rounds, accuracy, color=BLUE, marker="o", markersize=4, label="global model of the round")
    label = f"released: mean of the last {result.averaged} {result.accuracy:.3f}"
    axes.plot(rounds[-1], result.accuracy, color=ORANGE, marker="*", markersize=15, linestyle="none", label=label)
    lowest = min(*accuracy, result.local_accuracy, result.pooled_accuracy)
    axes.set_ylim(max(0.0, lowest - 0.06), 1.005)
    style(axes, "Accuracy on public test examples", "round", "fraction classified correctly")
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=8, loc="lower right")


def _epsilon(axes: Any, result: Training, budget: float) -> None:
    rounds = [0, *(report.round for report in result.reports)]
    spent = [0.0, *(report.epsilon or 0.0 for report in result.reports)]
    axes.axhline(budget, color=RED, linestyle="--", label=f"budget {budget:g}")
    axes.plot(rounds, spent, color=BLUE, marker="o", markersize=4, label="spent, against an outsider")
    axes.set_ylim(0.0, budget * 1.12)
    style(axes, "Privacy spent", "round", f"epsilon at delta {result.epsilon.delta:g}")
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=8, loc="lower right")


def _clear(axes: Any, result: Training) -> None:
    axes.hist(result.clear / 2.0**20, bins=12, color=BLUE, edgecolor="white", linewidth=0.5)
    style(axes, f"The vector of {result.names[0]}, round 1", "entry (units of 2^20)", "entries")
    whole_numbers(axes.yaxis)


def _seen(axes: Any, result: Training) -> None:
    seen = result.sighting
    entry, uniform = seen.scheme.entry, seen.scheme.looks_uniform
    unit, name = (1.0, "byte") if entry == "byte" else (2.0**20, "entry (units of 2^20)")
    edges = np.linspace(seen.low / unit, (seen.high + 1) / unit, 13)
    if not uniform:
        edges = np.linspace(seen.values.min() / unit, seen.values.max() / unit, 13)
    axes.hist(seen.values / unit, bins=edges, color=ORANGE, edgecolor="white", linewidth=0.5)
    if uniform:
        even = len(seen.values) / (len(edges) - 1)
        axes.axhline(even, color=GRAY, linestyle="--", linewidth=1, label="uniform noise would give this on average")
        axes.legend(fontsize=8, loc="upper right")
        axes.set_ylim(0, 1.35 * max(np.histogram(seen.values / unit, edges)[0].max(), even))
    style(
        axes,
        f"The same vector as the server saw it ({result.scheme})",
        name,
        "bytes" if entry == "byte" else "entries",
    )
    whole_numbers(axes.yaxis)


def plot_line(result: Lines, path: Path) -> Path:
    """Draw each client's points and own line, and the global line over rounds; return the PNG's path.

    Args:
        result: The values of the run, such as a `LineResult`.
        path: The PNG to write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = new_figure(8.0, 5.2)
    axes = figure.subplots()
    for at, own in enumerate(result.points):
        color = COLORS[at % len(COLORS)]
        axes.scatter(own[:, 0], own[:, 1], s=14, color=color, alpha=0.75, label=f"client {1 + at}")
        ends = np.array([own[:, 0].min(), own[:, 0].max()])
        axes.plot(ends, result.alone[at][0] * ends + result.alone[at][1], color=color, linewidth=1.2, linestyle=":")
    x = np.array([min(own[:, 0].min() for own in result.points), max(own[:, 0].max() for own in result.points)])
    for at, (slope, intercept) in enumerate(result.lines[:-1]):
        label = "global line, earlier rounds" if not at else None
        axes.plot(x, slope * x + intercept, color=GRAY, linewidth=0.8, alpha=0.5, label=label)
    slope, intercept = result.line
    axes.plot(
        x, slope * x + intercept, color="black", linewidth=2.4, label=f"global line, round {len(result.lines) - 1}"
    )
    axes.plot([], [], color=GRAY, linewidth=1.2, linestyle=":", label="each client alone")
    style(axes, "Federated linear regression", "x", "y")
    axes.legend(fontsize=8, loc="upper left", ncols=2)
    return save(figure, path)
