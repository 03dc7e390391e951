"""Mock data: files of the same schema as a site's data, for people who write training functions and never see it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final, Literal

import numpy as np

from privfl.errors import DataError, StateError

MockKind = Literal["integer", "number", "text"]

_WORDS: Final = ("a", "b", "c")


def mock_data(source: Path, target: Path, *, examples: int, seed: int = 0) -> dict[str, dict[str, MockKind]]:
    """Write files of the same names and columns as a site's CSV files, with random values.

    From the data it takes only the names of files and columns, and the kind of each column (integer, number, text). It
    takes no value, no range and no count.

    Args:
        source: A CSV file with a header, or a folder of such files.
        target: The folder that is made.
        examples: The examples of each mock file.
        seed: The seed of the random values.

    Returns:
        The kind of each column, by file.

    Raises:
        DataError: There is no CSV file, or one is malformed.
        StateError: The target exists.
    """
    files = sorted(source.glob("*.csv")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{source} is neither a CSV file nor a folder of CSV files: set training.data")
    if target.exists():
        raise StateError(f"{target} exists: choose another folder for the mock data")
    schemas = {file.name: _schema(file) for file in files}
    target.mkdir()
    rng = np.random.default_rng(seed)
    for name, schema in schemas.items():
        with (target / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(schema)
            writer.writerows([_value(kind, rng) for kind in schema.values()] for _ in range(examples))
    return schemas


def _schema(file: Path) -> dict[str, MockKind]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        header = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise DataError(f"{file} has no header of distinct column names")
        kinds: list[MockKind] = ["integer"] * len(header)
        for number, values in enumerate(reader, start=2):
            if len(values) != len(header):
                raise DataError(f"{file}, line {number}: {len(values)} values, and the header has {len(header)}")
            kinds = [_wider(kind, value) for kind, value in zip(kinds, values, strict=True)]
    return dict(zip(header, kinds, strict=True))


def _wider(kind: MockKind, value: str) -> MockKind:
    if kind == "text" or not value:  # an empty value may be of any kind
        return kind
    if kind == "integer" and value.lstrip("+-").isdigit():
        return "integer"
    try:
        float(value)
    except ValueError:
        return "text"
    return "number"


def _value(kind: MockKind, rng: np.random.Generator) -> str:
    if kind == "integer":
        return str(int(rng.integers(2)))
    return f"{rng.normal():.4f}" if kind == "number" else _WORDS[int(rng.integers(len(_WORDS)))]
