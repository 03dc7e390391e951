"""A comparison's table as CSV, and its figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import numpy as np

from privfl.experiment.arms import ArmSummary, Cell, json_record
from privfl.experiment.compare import summarize, who_sees
from privfl.experiment.comparison import DELTA, Comparison
from privfl.files import atomic_write
from privfl.report.canvas import BLUE, COLORS, GRAY, GREEN, KINDS, ORANGE, RED, new_figure, save, style, whole_numbers

_NO_NOISE: Final = (
    ("pooled", GREEN, "--"),
    ("FedAvg", BLUE, "-."),
    ("local only", GRAY, ":"),
    ("no noise", GRAY, "-."),
)
_NOISE: Final = (
    ("central", BLUE, "o"),
    ("distributed", ORANGE, "s"),
    ("mesh", GREEN, "D"),
    ("independent", RED, "v"),
    ("local DP", "#8a4fbf", "^"),
)
_CURVES: Final = ("federated", "central", "independent", "distributed", "mesh", "local DP")


def write_csv(rows: Sequence[ArmSummary], path: Path) -> Path:
    """Write one line per arm, with a header, and return the path. An epsilon that is not claimed is empty,
    and an infinite one is "infinity".

    Args:
        rows: The lines of the comparison.
        path: The file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in fields(ArmSummary)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(json_record, rows))
    atomic_write(path, text.getvalue().encode(), shared=True)
    return path


def plot_comparison(comparison: Comparison, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Draw the metric against epsilon and over rounds, bytes and seconds by sum, and who sees what.

    All four stand together in `comparison`, and the first three in files of their own, each as PNG, PDF and SVG.

    Args:
        comparison: The comparison.
        cells: Its results.
        folder: The folder of the files.

    Returns:
        The files.
    """
    rows = summarize(comparison, cells)
    figure = new_figure(12.0, 8.4)
    top, bottom = figure.subplots(2, 2)
    _privacy(top[0], comparison, rows)
    _curves(top[1], comparison, cells)
    _costs(bottom[0], comparison, rows)
    _sees(bottom[1], rows)
    figure.suptitle(f"{comparison.data}: {rows[0].clients} clients, {comparison.partition}", fontweight="bold")
    bars = f"Bars: one standard deviation over {comparison.seeds} seeds." if comparison.seeds > 1 else "One seed."
    figure.supxlabel(fill(f"{comparison.warning} {comparison.tuning} {bars}", 170), fontsize=8)
    figures, name = {"comparison": figure}, comparison.metric_name.replace("_", "-")
    panels: dict[str, Callable[[Any], None]] = {
        f"{name}-over-epsilon": lambda axes: _privacy(axes, comparison, rows),
        f"{name}-over-rounds": lambda axes: _curves(axes, comparison, cells),
        "costs": lambda axes: _costs(axes, comparison, rows),
    }
    for title, draw in panels.items():
        figures[title] = new_figure(6.4, 4.8)
        draw(figures[title].subplots())
    return [save(each, folder / f"{title}{kind}") for title, each in figures.items() for kind in KINDS]


def _privacy(axes: Any, comparison: Comparison, rows: Sequence[ArmSummary]) -> None:
    for name, color, line in _NO_NOISE:
        for row in rows:
            if row.arm == name:
                label = name if name == "no noise" else f"{name}, no noise"
                axes.axhline(row.value, color=color, linestyle=line, label=label)
    examples = comparison.unit == "example"
    for prefix, color, marker in _NOISE:
        own = [row for row in rows if row.arm.startswith(prefix) and row.epsilon is not None]
        if not own:
            continue
        trusted = prefix == "central" and examples
        # A server that is trusted sees the sum: its own epsilon is infinite, and an outsider's is shown.
        at = [row.server_epsilon if examples and not trusted else row.epsilon for row in own]
        label = "central DP (trusted server)" if trusted else f"{prefix.removesuffix(' DP')} DP"
        axes.errorbar(
            at, [row.value for row in own], [row.stddev for row in own],
            color=color, marker=marker, capsize=3, label=label,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(comparison.epsilons, [f"{epsilon:g}" for epsilon in comparison.epsilons])
    _limits(axes, [edge for row in rows for edge in (row.value - row.stddev, row.value + row.stddev)])
    name = comparison.metric_name
    who = "server; a trusted one: outsider" if examples else "outsider"
    of = " of one example" if examples else ""
    style(
        axes, f"{name.capitalize()} against epsilon", f"epsilon{of} at delta {DELTA:g}, {who} (log scale)", _unit(name)
    )
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)


def _curves(axes: Any, comparison: Comparison, cells: Sequence[Cell]) -> None:
    arms = [arm.name for arm in comparison.arms() if arm.kind in _CURVES]
    for at, name in enumerate(arms):
        curves = [cell.curve for cell in cells if cell.arm == name]
        if curves:
            rounds = range(1, len(curves[0]) + 1)
            mean, color = np.mean(curves, axis=0), COLORS[at % len(COLORS)]
            line, marker = ("-", "--", ":")[at // len(COLORS) % 3], "ovs^Dxp*"[at % 8]
            axes.plot(rounds, mean, color=color, linestyle=line, marker=marker, markersize=3.5, label=name)
            if len(curves) > 1:
                spread = np.std(curves, axis=0, ddof=1)
                axes.fill_between(rounds, mean - spread, mean + spread, color=color, alpha=0.12, linewidth=0)
    _limits(axes, [value for cell in cells for value in cell.curve])
    name = comparison.metric_name
    style(axes, f"{name.capitalize()} over rounds, mean and spread of the seeds", "round", _unit(name))
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, frameon=False)


def _unit(name: str) -> str:
    return "fraction of test examples correct" if name == "accuracy" else f"{name} on test examples"


def _limits(axes: Any, values: Sequence[float]) -> None:
    """An axis from a tenth below all values, for values of at most 1; at most two below 0, where r2 is worse than a
    constant.
    """
    if values and max(values) <= 1.02:
        axes.set_ylim(max(-2.0, math.floor(10 * min(values)) / 10 - 0.05), 1.02)


def _costs(axes: Any, comparison: Comparison, rows: Sequence[ArmSummary]) -> None:
    names = {f"{name} sum": name for name in comparison.sums}
    own = [row for row in rows if row.arm in names]
    x = np.arange(len(own))
    size = [row.bytes_up / 1000 / row.clients for row in own]
    left = axes.bar(x - 0.2, size, 0.36, color=BLUE, label="kB up a client (left axis)")
    axes.bar_label(left, fmt="%.1f", fontsize=8)
    style(axes, "Bytes and seconds of a round, by sum", "sum", "kB a client sends")
    axes.set_xticks(x, [names[row.arm] for row in own])
    other = axes.twinx()
    right = other.bar(x + 0.2, [row.seconds for row in own], 0.36, color=ORANGE, label="seconds a round (right axis)")
    other.bar_label(right, fmt="%.2f", fontsize=8)
    other.set_ylabel("seconds, all parties on this machine")
    axes.margins(y=0.3)
    other.margins(y=0.3)
    axes.legend(handles=[left, right], fontsize=7, loc="upper left")


def _sees(axes: Any, rows: Sequence[ArmSummary]) -> None:
    axes.axis("off")
    axes.set_title("Who sees what", loc="left", fontsize=11, fontweight="bold")
    lines = [
        f"{arms}:\n{fill(what, 62, initial_indent='    ', subsequent_indent='    ')}" for arms, what in who_sees(rows)
    ]
    axes.text(0.0, 0.96, "\n".join(lines), va="top", fontsize=8.5, linespacing=1.5, transform=axes.transAxes)
