"""Finished runs as a tidy table: one record for each run, one column for each setting that differs and each figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from privfl.errors import ConfigError
from privfl.experiment.config import to_mapping
from privfl.experiment.folder import RunFolder, essence

EPSILON: Final = "epsilon"
Record = Mapping[str, Any]


def tidy(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One record for each run.

    Args:
        runs: The folders of the runs; a run without a finished round is left out.

    Returns:
        The name, the seed, and every setting that differs between the runs, by key. Then `rounds`, every metric of the
        last evaluation, and `epsilon.OBSERVER` for every observer, where noise was added. Then `bytes_up`,
        `bytes_down`, `seconds` and `dropouts` of the whole run. The last four depend on who took part: leave them out
        of what is published next to an epsilon that counts on sampling.
    """
    found = [(run, reports) for run in runs if (reports := run.reports())]
    settings = [_flat(run) for run, _ in found]
    varied = [key for key in dict.fromkeys(key for each in settings for key in each) if _differs(key, settings)]
    records = []
    for (run, reports), own in zip(found, settings, strict=True):
        evaluation = next((report.evaluation for report in reversed(reports) if report.evaluation), {})
        epsilons = {f"{EPSILON}.{observer}": report.epsilon for observer, report in run.epsilons().items()}
        sums = {
            name: sum(getattr(report, name) for report in reports) for name in ("bytes_up", "bytes_down", "seconds")
        }
        record = {"name": run.name, "seed": run.config.seed, **{key: own.get(key) for key in varied}}
        record |= {"rounds": len(reports), **evaluation, **epsilons, **sums}
        records.append(record | {"dropouts": sum(len(report.dropouts) for report in reports)})
    columns = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in columns} for record in records]


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell of a paper's table.

    Attributes:
        mean: The mean over the runs of the cell.
        stddev: The standard deviation over them; 0 for one run.
        count: The number of runs; 0 leaves the cell empty.
    """

    mean: float = math.nan
    stddev: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> TableCell:
        """The cell of some figures."""
        if not values:
            return cls()
        if not all(map(math.isfinite, values)):
            return cls(math.inf, 0.0, len(values))
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


@dataclass(frozen=True, slots=True)
class Pivot:
    """A table for a paper: a figure by one setting in its rows and another in its columns.

    Attributes:
        corner: The names of the row setting and of the column setting.
        value: The name of the figure.
        rows: The values of the row setting.
        columns: The values of the column setting. Without a column setting it is one empty text.
        entries: The cells, by row and column.
    """

    corner: tuple[str, str]
    value: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    entries: tuple[tuple[TableCell, ...], ...]


def pivot(records: Sequence[Record], rows: str, columns: str | None, value: str) -> Pivot:
    """The mean and the spread of a figure over the seeds, by one or two settings.

    Args:
        records: As `tidy` makes them.
        rows: The column of `records` that names the rows.
        columns: The column that names the columns; None for a single column.
        value: The column of the figure.

    Raises:
        ConfigError: A name is no column, the figure is no number, or runs of one cell differ in another setting.
    """
    if not records:
        raise ConfigError("there is no run with a finished round: train one first")
    for role, name in (("rows", rows), ("columns", columns), ("value", value)):
        if name is not None and name not in records[0]:
            raise ConfigError(f"{role} must name one of {', '.join(records[0])}, not {name!r}")
    axes = [name for name in (rows, columns) if name is not None]
    known = list(records[0])
    others = [key for key in known[2 : known.index("rounds")] if key not in axes]
    cells: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        cells.setdefault((_text(record[rows]), _text(record[columns]) if columns else ""), []).append(record)
    for members in cells.values():
        for key in others:
            if len({_text(record[key]) for record in members}) > 1:
                raise ConfigError(
                    f"runs of one cell differ in {key}: make it the rows or the columns, or give fewer runs"
                )
    names = _ordered([row for row, _ in cells]), _ordered([column for _, column in cells])
    entries = tuple(
        tuple(TableCell.of(_figures(cells.get((row, column), ()), value)) for column in names[1]) for row in names[0]
    )
    return Pivot((rows, columns or ""), value, *names, entries)


def _ordered(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once: numbers by size, others as they come."""
    found = list(dict.fromkeys(names))
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(found)


def _figures(members: Sequence[Record], value: str) -> list[float]:
    found = [record[value] for record in members if record[value] is not None]
    if not all(isinstance(each, (int, float)) for each in found):
        raise ConfigError(f"{value} is no number: name a metric, such as accuracy, or epsilon.outsider")
    return [float(each) for each in found]


def _flat(run: RunFolder) -> dict[str, Any]:
    """The settings that matter to a run's result, by key."""
    flat: dict[str, Any] = {}
    for key, value in to_mapping(essence(run.config)).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        elif key not in ("name", "seed", "rounds"):
            flat[key] = value
    return flat


def _differs(key: str, settings: Sequence[Mapping[str, Any]]) -> bool:
    return len({_text(each.get(key)) for each in settings}) > 1


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
