"""The only door to matplotlib: figures without a window, a global state or a display."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Final

from privfl.errors import ConfigError, MissingExtra
from privfl.files import atomic_write, existing_parent

BLUE: Final = "#2364aa"
ORANGE: Final = "#d1602b"
GREEN: Final = "#3b8b5a"
GRAY: Final = "#6b7280"
RED: Final = "#b3261e"
COLORS: Final = (BLUE, ORANGE, GREEN, "#8a4fbf", "#c79a00", "#0f8b8d", "#c2185b", GRAY)
"""Distinct in print and for most who see colors differently; figures never rely on color alone."""

DPI: Final = 130

KINDS: Final = (".png", ".pdf", ".svg")
"""The endings of a plot's file."""


def new_figure(width: float, height: float) -> Any:
    """Return a figure that lays itself out. Raises `MissingExtra` without matplotlib.

    Args:
        width: In inches.
        height: In inches.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Any, title: str, x: str, y: str) -> None:
    """Set titles and units, and draw a quiet grid: one style for every plot.

    Args:
        axes: The axes of matplotlib.
        title: The title.
        x: The label of the horizontal axis, with its unit.
        y: The label of the vertical axis, with its unit.
    """
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only: rounds, and counts."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def png(figure: Any) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": "privfl"})
    return buffer.getvalue()


def pdf(figure: Any) -> bytes:
    """Return the figure as PDF bytes, equal for equal figures."""
    buffer = BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"Creator": "privfl", "CreationDate": None})
    return buffer.getvalue()


def svg_file(figure: Any) -> bytes:
    """Return the figure as the bytes of a complete SVG file."""
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + svg(figure).encode()


def svg(figure: Any) -> str:
    """Return the figure as an SVG element for an HTML page."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "privfl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]


def save(figure: Any, path: Path) -> Path:
    """Write the figure, whole or not at all, and return the path.

    Args:
        figure: The figure.
        path: The file, whose ending is its kind; see `plot_path`.

    Raises:
        ConfigError: The ending is none of those, or the folder does not exist.
        OSError: The file cannot be written.
    """
    path = plot_path(path)
    kind = path.suffix.lower()
    atomic_write(path, {".png": png, ".pdf": pdf, ".svg": svg_file}[kind](figure), shared=True)
    return path


def plot_path(path: Path | str) -> Path:
    """The path of a plot, with `~` replaced; raises `ConfigError` unless it ends in .png, .pdf or .svg."""
    found = existing_parent(path)
    if found.suffix.lower() not in KINDS:
        raise ConfigError(f"a plot is a {', '.join(KINDS[:-1])} or {KINDS[-1]} file, not {found.name!r}: rename it")
    return found
