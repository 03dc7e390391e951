"""The figures of the two demonstrations. They take any object with the values that they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from privfl.dp import EpsilonReport, Observer
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
    def epsilons(self) -> Mapping[Observer, EpsilonReport]: ...
    @property
    def scheme(self) -> str: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def clear(self) -> npt.NDArray[np.int64]: ...
    @property
    def sightings(self) -> Sequence[Sighting]: ...
    @property
    def opened(self) -> npt.NDArray[np.floating[Any]]: ...


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
    """Draw updates as hospitals know them, as the server received them, and their sum; return the file's path.

    Accuracy and epsilon over rounds stand below.

    Args:
        result: The values of the run, such as a `DemoResult`.
        budget: The epsilon that the run may spend.
        path: The file to write.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure = new_figure(11.0, 7.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.05), hspace=0.04)
    panels = top.subplots(1, 3, width_ratios=(1.0, 1.0, 1.0))
    _known(panels[0], result)
    _received(panels[1], result)
    _opened(panels[2], result)
    left, right = bottom.subplots(1, 2)
    _accuracy(left, result)
    _epsilon(right, result, budget)
    return save(figure, path)


def _strips(axes: Any, values: npt.NDArray[Any], title: str, below: str, *, shades: str = "RdBu") -> None:
    """One strip of colored cells for each line of `values`: blue is above 0 and red below, or shades of gray."""
    size = float(np.abs(values).max()) or 1.0
    low = -size if shades == "RdBu" else 0.0
    axes.imshow(values, cmap=shades, vmin=low, vmax=size, aspect="auto", interpolation="nearest")
    axes.set_yticks(np.arange(0.5, len(values) - 1), minor=True)
    axes.grid(visible=True, axis="y", which="minor", color="white", linewidth=2.5)
    axes.tick_params(which="both", length=0)
    axes.set_xticks([])
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(below, fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)


def _known(axes: Any, result: Training) -> None:
    numbers = result.clear.shape[1]
    _strips(
        axes, result.clear, "What each hospital knows", f"its update in round 1: {numbers} numbers, blue + and red -"
    )
    axes.set_yticks(range(len(result.names)), result.names, fontsize=8)


def _received(axes: Any, result: Training) -> None:
    first = result.sightings[0]
    if first.scheme.entry == "byte":
        middle = min(len(seen.values) for seen in result.sightings) // 2
        values = np.stack([seen.values[middle : middle + 2 * result.clear.shape[1]] for seen in result.sightings])
        below = "the same updates: bytes out of the middle of each ciphertext"
    else:
        values = np.stack([seen.values for seen in result.sightings])
        hidden = first.scheme.looks_uniform
        below = (
            "the same updates, each under its masks" if hidden else "the same updates, each with its part of the noise"
        )
    _strips(axes, values, "What the server received", below, shades="gray" if first.scheme.entry == "byte" else "RdBu")
    axes.set_yticks([])


def _opened(axes: Any, result: Training) -> None:
    values = np.stack([result.opened, result.clear.mean(axis=0)])
    _strips(axes, values, "What the sum gives", "the mean of the ten, which moves the model")
    axes.set_yticks(range(2), ["with noise:\nreleased", "without:\nseen by\nnobody"], fontsize=8)


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
    asked = [report for report in result.reports if report.epsilon is not None]
    rounds = [0, *(report.round for report in asked)]
    spent = [0.0, *(report.epsilon for report in asked)]
    outsider = result.epsilons["outsider"]
    who = "the server too" if result.epsilons["server"].epsilon <= outsider.epsilon else "an outsider"
    axes.axhline(budget, color=RED, linestyle="--", label=f"budget {budget:g}")
    axes.plot(rounds, spent, color=BLUE, marker="o", markersize=4, label=f"spent, against {who}")
    axes.set_ylim(0.0, budget * 1.12)
    style(axes, "Privacy spent", "round", f"epsilon at delta {outsider.delta:g}")
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=8, loc="lower right")


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
