"""Tidy tables as CSV, a paper's table as LaTeX, Markdown or CSV, and the figure of a sweep."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from privfl.experiment.arms import INFINITY
from privfl.experiment.tidy import Pivot, TableCell
from privfl.report.canvas import COLORS, new_figure, save, style

Format = Literal["latex", "markdown", "csv"]

_SPECIAL: Final = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\~{}"}
_LOG_FROM: Final = 8.0  # numbers that span this ratio get a logarithmic axis


def tidy_text(records: Sequence[Mapping[str, Any]]) -> str:
    """The records of `privfl.experiment.tidy.tidy` as CSV: the names, then one line for each record.

    A value that does not apply to a run is empty, and an infinite epsilon is "infinity".
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(records[0] if records else [])
    for record in records:
        writer.writerow(
            ["" if value is None else INFINITY if value == math.inf else value for value in record.values()]
        )
    return text.getvalue()


def render_pivot(table: Pivot, form: Format, *, digits: int = 3) -> str:
    """Return a table for a paper as text.

    Args:
        table: The table.
        form: "latex" (booktabs), "markdown" or "csv".
        digits: The digits after the point.
    """
    if form == "csv":
        return _csv(table)
    corner = table.corner[0] if table.columns == ("",) else f"{table.corner[0]} / {table.corner[1]}"
    head = [corner, *(column or table.value for column in table.columns)]
    sign = r" $\pm$ " if form == "latex" else " ± "
    body = [
        [name, *(_cell(entry, sign, digits) for entry in row)]
        for name, row in zip(table.rows, table.entries, strict=True)
    ]
    if form == "markdown":
        table_lines = [head, ["---", *["---:"] * len(table.columns)], *body]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in table_lines)
    escaped = [[_latex(cell) if at == 0 else cell for at, cell in enumerate(line)] for line in body]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(map(_latex, head)) + r" \\",
        r"\midrule",
        *(" & ".join(line) + r" \\" for line in escaped),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def plot_pivot(table: Pivot, path: Path, *, caption: str) -> Path:
    """Plot the values of a table against its row setting: one line for each column, bars of one standard deviation.

    Args:
        table: The table.
        path: The file to write.
        caption: The text below the plot.
    """
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    numbers = _numbers(table.rows)
    places = list(range(len(table.rows))) if numbers is None else numbers
    for at, column in enumerate(table.columns):
        points = [
            (x, row[at])
            for x, row in zip(places, table.entries, strict=True)
            if row[at].count and math.isfinite(row[at].mean)
        ]
        axes.errorbar(
            [x for x, _ in points], [entry.mean for _, entry in points], [entry.stddev for _, entry in points],
            color=COLORS[at % len(COLORS)], marker="osv^Dxp*"[at % 8], capsize=3, label=column or None,
            linestyle="none" if numbers is None else "-",
        )  # fmt: skip
    if numbers is None:
        axes.set_xticks(places, table.rows)
    elif min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_FROM:
        axes.set_xscale("log")
        axes.set_xticks(numbers, table.rows)
        axes.minorticks_off()
    style(axes, f"{table.value} over {table.corner[0]}", table.corner[0], table.value)
    if table.columns != ("",):
        axes.legend(fontsize=8, title=table.corner[1], title_fontsize=8)
    figure.supxlabel(caption, fontsize=8)
    return save(figure, path)


def _csv(table: Pivot) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column or table.value for column in table.columns]
    writer.writerow(
        [table.corner[0], *(f"{name} {part}".strip() for name in names for part in ("mean", "stddev", "runs"))]
    )
    for name, row in zip(table.rows, table.entries, strict=True):
        cells = [part for entry in row for part in (_plain(entry.mean), _plain(entry.stddev), entry.count)]
        writer.writerow([name, *cells])
    return text.getvalue()


def _plain(value: float) -> str:
    return "" if math.isnan(value) else INFINITY if value == math.inf else repr(value)


def _cell(entry: TableCell, sign: str, digits: int) -> str:
    if not entry.count:
        return "-"
    if entry.mean == math.inf:
        return INFINITY
    return f"{entry.mean:.{digits}f}" + (f"{sign}{entry.stddev:.{digits}f}" if entry.count > 1 else "")


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _numbers(names: Sequence[str]) -> list[float] | None:
    try:
        return [float(name) for name in names]
    except ValueError:
        return None
