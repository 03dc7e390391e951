"""A look at a table: its columns, missing values, clients and labels, and the schema that they propose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from privfl.data.schema import Column, Schema, TableTask
from privfl.data.tables import as_numbers, as_text, pieces
from privfl.errors import ConfigError, DataError

MAX_VALUES: Final = 50
"""A column of text with more different values is proposed as ignored."""

MAX_CLASSES: Final = 20
"""A target of whole numbers with more different values is proposed as a regression."""


@dataclass(slots=True)
class ColumnSummary:
    """The values of one column.

    Attributes:
        missing: The number of examples without a value.
        numeric: Whether every value is a finite number.
        integral: Whether every value is a whole number.
        values: The different values with their counts, while there are at most `MAX_VALUES`; else None.
    """

    missing: int = 0
    numeric: bool = True
    integral: bool = True
    values: Counter[str] | None = field(default_factory=Counter)

    def add(self, values: Any) -> None:
        """Count the values of one piece."""
        text, numbers, empty = as_text(values), as_numbers(values), np.asarray(values.isna(), bool)
        present = numbers[~empty]
        self.missing += int(empty.sum())
        self.numeric = self.numeric and bool(np.isfinite(present).all())
        self.integral = self.integral and self.numeric and bool((present == np.rint(present)).all())
        if self.values is not None:
            self.values.update(text.dropna().value_counts().to_dict())
            if len(self.values) > MAX_VALUES:
                self.values = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A schema that was read from a table's examples, with what it rests on.

    Attributes:
        schema: The proposed schema; `inferred` is set.
        examples: The number of examples.
        clients: The number of examples of each client; empty where nothing names clients.
        labels: The number of examples of each class; empty for a regression.
        persons: The number of persons, and the most examples of one; (0, 0) where no column names them.
        notes: For each column a remark, such as the number of missing values, or why it is ignored.
    """

    schema: Schema
    examples: int
    clients: Mapping[str, int]
    labels: Mapping[str, int]
    persons: tuple[int, int]
    notes: Mapping[str, str]


def propose(source: Any, target: str | None = None, client: str | None = None, person: str | None = None) -> Proposal:
    """Read a table once and propose its schema.

    Args:
        source: A table, as in `read_table`.
        target: The column that is predicted.
        client: The column that names each example's client; None where clients are files, or are made by a partition.
        person: The column that names each example's person; None where the table has none.

    Raises:
        ConfigError: `target`, `client` or `person` is not a column; the error lists the columns.
        DataError: The table cannot be read, has no example, or its target has a single value.
    """
    columns: dict[str, ColumnSummary] = {}
    clients: Counter[str] = Counter()
    persons: Counter[str] = Counter()
    examples, file = 0, "the table"
    for piece in pieces(source, None):
        file = file if examples else piece.file
        names = list(map(str, piece.frame.columns))
        for role, name in (("data.target", target), ("data.client", client), ("privacy.person", person)):
            if (role == "data.target" and name is None) or (name is not None and name not in names):
                raise ConfigError(f"{role} must name a column of {piece.file}, not {name!r}: {', '.join(names)}")
        for name in names:
            if name in (client, person):
                counts = clients if name == client else persons
                counts.update(as_text(piece.frame[name]).dropna().value_counts().to_dict())
            else:
                columns.setdefault(name, ColumnSummary()).add(piece.frame[name])
        if piece.client is not None and client is None:
            clients[piece.client] += len(piece.frame)
        examples += len(piece.frame)
    if not examples or target is None:
        raise DataError(f"{file} holds no example")
    task, classes, labels = _target(file, target, columns.pop(target))
    proposed = [_column(name, summary) for name, summary in columns.items()]
    schema = Schema(target, task, classes, client, tuple(column for column, _ in proposed), person, inferred=True)
    notes = {column.name: note for column, note in proposed if note}
    counted = len(persons), max(persons.values(), default=0)
    return Proposal(schema, examples, dict(sorted(clients.items())), labels, counted, notes)


def with_ranges(proposal: Proposal, ranges: Mapping[str, tuple[float, float]]) -> Proposal:
    """The proposal with public ranges of numbers, as declared by a person who has not looked at the examples.

    Args:
        proposal: The proposal.
        ranges: For each column its lowest and its highest value.

    Raises:
        ConfigError: A column is not there or no number, or a range is empty.
    """
    columns = {column.name: column for column in proposal.schema.columns}
    for name, (low, high) in ranges.items():
        if name not in columns or columns[name].kind != "number":
            numbers = ", ".join(column.name for column in columns.values() if column.kind == "number") or "none"
            raise ConfigError(f"a range belongs to a column of numbers, not to {name!r}; these are: {numbers}")
        columns[name] = replace(columns[name], low=low, high=high)
    return replace(proposal, schema=replace(proposal.schema, columns=tuple(columns.values())))


def _target(file: str, name: str, summary: ColumnSummary) -> tuple[TableTask, tuple[str, ...], Mapping[str, int]]:
    values = summary.values
    if values is not None and len(values) < 2:
        raise DataError(f"{file}: the target {name!r} has {len(values)} different values: choose another target")
    if values is None or (summary.numeric and (not summary.integral or len(values) > MAX_CLASSES)):
        if not summary.numeric:
            raise DataError(f"{file}: the target {name!r} is text of more than {MAX_VALUES} different values")
        return "regression", (), {}
    order = sorted(values, key=float) if summary.numeric else sorted(values)
    return ("binary" if len(order) == 2 else "multiclass"), tuple(order), {value: values[value] for value in order}


def _column(name: str, summary: ColumnSummary) -> tuple[Column, str]:
    """A column as proposed, and the remark on it."""
    missing = f"{summary.missing} missing values" if summary.missing else ""
    values = summary.values
    if values is not None and len(values) < 2:
        return Column(name, "ignore"), "the same value everywhere"
    if summary.numeric:
        return Column(name, "number", missing="mean" if summary.missing else "refuse"), missing
    if values is None:
        return Column(name, "ignore"), f"text of more than {MAX_VALUES} different values"
    if len(values) > max(4, sum(values.values()) // 2):
        return Column(name, "ignore"), "nearly every example has a value of its own"
    how = "own" if summary.missing else "refuse"
    return Column(name, "category", values=tuple(sorted(values)), missing=how), missing
