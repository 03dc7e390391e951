"""Sweeps: one question for each value of an option, and the tidy table of the answers."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from privfl.cli.planned import Adjacency, CorrelationName, PlacementName, SamplingName
from privfl.cli.show import output
from privfl.dp import format_epsilon
from privfl.errors import ConfigError
from privfl.experiment.arms import INFINITY
from privfl.files import atomic_write, existing_parent

KEYS: Final[Mapping[str, Callable[[str], Any]]] = {
    "noise_multiplier": float,
    "rounds": int,
    "steps": int,
    "population": int,
    "cohort": int,
    "cap": int,
    "selected": int,
    "block": int,
    "dataset_size": int,
    "batch_size": int,
    "length": int,
    "units": int,
    "spare": int,
    "delta": float,
    "group": int,
    "sampling": SamplingName,
    "adjacency": Adjacency,
    "placement": PlacementName,
    "correlation": CorrelationName,
}
"""The options of a planned run that a sweep may vary, and how a value is read."""

MAX_QUESTIONS: Final = 1000

TidyRow = Mapping[str, Any]


def combinations(sweeps: Sequence[str], keys: Mapping[str, Callable[[str], Any]] = KEYS) -> list[dict[str, Any]]:
    """Return every combination of the values, in order: `["rounds=10,20"]` gives `[{"rounds": 10}, {"rounds": 20}]`.

    Args:
        sweeps: Texts of the form KEY=A,B,...
        keys: The keys that may be swept, and how a value is read.

    Raises:
        ConfigError: Another form or key, a value that cannot be read, a key twice, or too many combinations.
    """
    values: dict[str, list[Any]] = {}
    for text in sweeps:
        key, equals, listed = text.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        if not equals or key not in keys:
            raise ConfigError(f"--sweep takes KEY=A,B,... with a key of {', '.join(keys)}, not {text!r}")
        if key in values:
            raise ConfigError(f"--sweep {key} is given twice: give it once with all values")
        try:
            values[key] = [keys[key](value.strip()) for value in listed.split(",")]
        except ValueError as error:
            raise ConfigError(f"--sweep {key} takes values such as {_example(keys[key])}, not {listed!r}") from error
        if any(isinstance(value, int) and value < 1 for value in values[key]):
            raise ConfigError(f"--sweep {key} takes values of at least 1, not {listed!r}")
    found = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    if len(found) > MAX_QUESTIONS:
        raise ConfigError(f"this sweep asks {len(found)} questions; at most {MAX_QUESTIONS} are answered at once")
    return found


def _example(kind: Callable[[str], Any]) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ",".join(member.value for member in kind)
    return "10,20" if kind is int else "0.5,1,2"


def print_rows(title: str, rows: Sequence[TidyRow]) -> None:
    """Print rows as a table: one column for each key.

    Args:
        title: The title.
        rows: The rows of the table. If a row lacks a key, its cell is empty.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    names = columns(rows)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(row, name)) for name in names))
    output().print(table)


def write_csv(path: Path, rows: Sequence[TidyRow]) -> Path:
    """Write tidy rows as a CSV file, whole or not at all, and return the path.

    Args:
        path: The file.
        rows: The rows; a value that is absent or None leaves the cell empty, and an infinite one is "infinity".

    Raises:
        ConfigError: The folder does not exist.
        OSError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else INFINITY if v == math.inf else v for k, v in row.items()})
    path = existing_parent(path)
    atomic_write(path, text.getvalue().encode(), shared=True)
    return path


def columns(rows: Iterable[TidyRow]) -> list[str]:
    """The names of all columns, in the order of their first occurrence."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _shown(row: TidyRow, name: str) -> str:
    """A cell: an upper bound is rounded up, a lower bound down."""
    value = row.get(name)
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if name == "epsilon" and row.get("bound") != "lower bound":
        return format_epsilon(value)
    down = "at least" in name or row.get("bound") == "lower bound"
    return format_rounded(value, ROUND_FLOOR if down else ROUND_CEILING)


def format_rounded(value: float, rounding: str) -> str:
    """A number in at most six significant digits.

    Args:
        value: The number; infinity is written out.
        rounding: A rounding mode of `decimal`.
    """
    if math.isinf(value):
        return "infinity"
    return f"{float(Context(prec=6, rounding=rounding).create_decimal(Decimal(repr(value)))):g}"
