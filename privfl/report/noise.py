"""The price of noise inside a masked sum over the dropout rate, as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from privfl.report.canvas import BLUE, GRAY, GREEN, ORANGE, new_figure, save, style

_LINES: Final = {
    "shares": ("shares by all (distributed)", ORANGE, "s", "-"),
    "groups": ("groups of two or more", GRAY, "^", ":"),
    "add-then-remove": ("add-then-remove (XNoise; figures only)", BLUE, "v", "--"),
    "mesh": ("mesh", GREEN, "D", "-"),
}


def plot_noise(rates: Sequence[float], curves: Mapping[Any, Sequence[float]], path: Path, *, caption: str) -> Path:
    """Draw the mean variance of each way of adding noise over the dropout rate, and return the path.

    Args:
        rates: The probabilities that one client drops out.
        curves: The mean variance divided by that of central noise, by way; NaN where a way has no noise left.
        path: The file to write.
        caption: The text below the plot.
    """
    figure = new_figure(7.5, 4.6)
    axes = figure.subplots()
    percent = [100 * rate for rate in rates]
    for way, values in curves.items():
        name, color, marker, line = _LINES[way]
        axes.plot(percent, values, color=color, marker=marker, markersize=4, linestyle=line, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8, label="central (the server sees the sum)")
    known = [value for values in curves.values() for value in values if math.isfinite(value)]
    axes.set_ylim(0.9, max(known, default=2.0) * 1.05)
    style(axes, "Noise inside a masked sum", "clients that drop out, %", "variance divided by that of central noise")
    axes.legend(fontsize=8, frameon=False)
    figure.supxlabel(caption, fontsize=8)
    return save(figure, path)
