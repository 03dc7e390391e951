"""Tables of the user's own: CSV and Parquet files, folders with one file for each client, and pandas frames.

The only module that imports pandas and pyarrow. A file is read in pieces, so memory holds its features and one piece.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.data.schema import Column, Schema, toml_key
from privfl.data.sets import Dataset, Grouping, persons_grouping
from privfl.errors import ConfigError, DataError, MissingExtra
from privfl.files import user_path

SUFFIXES: Final = (".csv", ".tsv", ".parquet")
MISSING: Final = ("", " ", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null")
"""The texts of a CSV file that mean "no value"."""

_PIECE: Final = 100_000  # examples
_SNIFFED: Final = 1 << 16  # characters of a file that decide on its separator


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive examples of a table.

    Attributes:
        file: The name of their file, for errors.
        frame: The examples, a pandas frame.
        client: The client that their file belongs to, in a folder; else None.
    """

    file: str
    frame: Any = field(repr=False)
    client: str | None = None


def is_table(name: str) -> bool:
    """True if `name` is that of a table: it ends in .csv, .tsv or .parquet, or is an existing folder."""
    return Path(name).suffix.lower() in SUFFIXES or (("/" in name or name.startswith("~")) and user_path(name).is_dir())


def is_folder(source: object) -> bool:
    """True if `source` is the path of a folder, whose files are the clients."""
    return isinstance(source, (str, Path)) and user_path(source).is_dir()


def pieces(source: Any, text: frozenset[str] | None) -> Iterator[Piece]:
    """The examples of a table, in order.

    Args:
        source: The path of a CSV or Parquet file or of a folder of them, or a pandas frame.
        text: The columns that are read as text; None reads all as text.

    Raises:
        DataError: A file is absent, of another kind, malformed, or has other columns than the first of its folder.
        MissingExtra: pandas or pyarrow is not installed.
    """
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "columns") or not hasattr(source, "iloc"):
            raise ConfigError(f"a table is a path or a pandas frame, not a {type(source).__name__}")
        yield Piece("the given frame", source)
        return
    path = user_path(source)
    if not path.is_dir():
        yield from (Piece(path.name, frame) for frame in _frames(path, text))
        return
    files = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"the folder {path} holds no file that ends in {', '.join(SUFFIXES)}: one file for each client")
    if len({each.stem for each in files}) < len(files):
        raise DataError(f"two files of the folder {path} would name the same client: rename one")
    columns: list[str] | None = None
    for each in files:
        for frame in _frames(each, text):
            own = sorted(map(str, frame.columns))
            columns = own if columns is None else columns
            if own != columns:
                other = sorted(set(own) ^ set(columns))
                raise DataError(f"{each.name} has other columns than {files[0].name}: {', '.join(other[:5])}")
            yield Piece(each.name, frame, each.stem)


def read_table(source: Any, schema: Schema, *, test: Any = None, name: str | None = None) -> Dataset:
    """Return the examples of a table, encoded as its schema says.

    Args:
        source: The path of a CSV or Parquet file or of a folder of them (one file for each client), or a pandas frame.
        schema: The columns.
        test: A second table with the same columns: public test examples. Client and person may be absent from it.
        name: The name of the data set; the file's by default.

    Returns:
        The data set. Its groupings are by the client column, or by file, and by the person column.

    Raises:
        DataError: A file is malformed, or a column holds values that the schema refuses. The error names the file, the
            column, the count and the line of TOML that accepts them, never a value.
    """
    reader = _Reader(schema, by_file=is_folder(source))
    reader.read(source)
    count = reader.count
    if not count:
        raise DataError(f"{_title(source)} holds no example")
    if test is not None:
        reader.read(test, clients=False)
        if reader.count == count:
            raise DataError(f"{_title(test)} holds no example")
    features, targets = reader.arrays()
    return Dataset(
        name=name or _title(source),
        task=schema.task,
        features=features,
        targets=targets,
        feature_names=schema.feature_names,
        classes=schema.classes,
        test=np.arange(count, len(features)),
        groupings=reader.groupings(),
        ranges=schema.ranges,
        inferred=schema.inferred,
        own=True,
    )


class _Reader:
    """Collects encoded pieces, and counts what the schema refuses before anything is refused."""

    def __init__(self, schema: Schema, *, by_file: bool) -> None:
        self._schema, self._by_file = schema, by_file
        self._features: list[npt.NDArray[np.float32]] = []
        self._targets: list[npt.NDArray[Any]] = []
        self._clients: list[str] = []
        self._persons: list[str] = []
        self._grouped = by_file or schema.client is not None
        self.count = 0

    def read(self, source: Any, *, clients: bool = True) -> None:
        schema, faults = self._schema, _Faults()
        text = {column.name for column in schema.columns if column.kind != "number"}
        text |= {schema.client or schema.target, schema.person or schema.target} | (
            {schema.target} if schema.task != "regression" else set()
        )
        for piece in pieces(source, frozenset(text)):
            self._check_columns(piece, clients=clients)
            frame = piece.frame
            parts = [
                _encode(frame[column.name], column, piece.file, faults) for column in schema.columns if column.features
            ]
            self._features.append(np.column_stack(parts).astype(np.float32, copy=False))
            self._targets.append(_target(frame[schema.target], schema, piece.file, faults))
            if self._grouped:
                self._clients += self._names(piece, faults) if clients else [""] * len(frame)
            if schema.person and clients:
                self._persons += self._labels(piece, schema.person, faults, "person")
            self.count += len(frame)
        faults.refuse()

    def _check_columns(self, piece: Piece, *, clients: bool) -> None:
        schema = self._schema
        present = list(map(str, piece.frame.columns))
        if repeated := sorted({name for name in present if present.count(name) > 1}):
            raise DataError(f"{piece.file} has the column {repeated[0]!r} more than once: rename one")
        wanted = [schema.target, *(column.name for column in schema.columns if column.features)]
        wanted += [name for name in (schema.client, schema.person) if name and clients]
        if absent := [name for name in wanted if name not in present]:
            raise DataError(
                f"{piece.file} has no column {absent[0]!r}; it has {', '.join(present[:20])}. Correct the schema"
            )
        known = {schema.target, schema.client, schema.person, *(column.name for column in schema.columns)}
        if other := [name for name in present if name not in known]:
            raise DataError(
                f"{piece.file} has {len(other)} columns that the schema does not name: {', '.join(other[:5])}. Add "
                f"[columns.{toml_key(other[0])}] with kind = 'ignore', 'number' or 'category'"
            )

    def _names(self, piece: Piece, faults: _Faults) -> list[str]:
        if self._by_file and self._schema.client is None:
            return [str(piece.client)] * len(piece.frame)
        return self._labels(piece, str(self._schema.client), faults, "client")

    def _labels(self, piece: Piece, column: str, faults: _Faults, what: str) -> list[str]:
        values = as_text(piece.frame[column])
        absent = int(values.isna().sum())
        faults.add(piece.file, column, f"missing {what}s", absent, f"name a {what} in each example")
        return [str(value) for value in values.tolist()]

    def arrays(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """All features and targets; the pieces are given up."""
        features, self._features = np.concatenate(self._features), []
        targets, self._targets = np.concatenate(self._targets), []
        return features, targets

    def groupings(self) -> tuple[Grouping, ...]:
        """The grouping by client, then the one by person, which keeps no identifier."""
        by_client, person = self._by_client(), self._schema.person
        if person is None:
            return by_client
        labels, self._persons = np.array(self._persons), []
        whole = np.pad(labels, (0, self.count - len(labels)))  # public test examples come last, and have no person
        return (*by_client, persons_grouping(person, whole, np.arange(self.count) < len(labels)))

    def _by_client(self) -> tuple[Grouping, ...]:
        if not self._grouped:
            return ()
        named = sorted({name for name in self._clients if name})
        code = {name: at for at, name in enumerate(named)}
        codes = np.array([code.get(name, 0) for name in self._clients], np.int64)  # test examples have no client
        return (Grouping(self._schema.client or "file", codes, tuple(named)),)


class _Faults:
    """The values that a schema refuses, counted by file, column and kind."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def add(self, file: str, column: str, kind: str, count: int, remedy: str) -> None:
        if count:
            self._counts[file, column, kind, remedy] += count

    def refuse(self) -> None:
        if not self._counts:
            return
        (file, column, kind, remedy), count = next(iter(self._counts.items()))
        others = len({(each[0], each[1], each[2]) for each in self._counts}) - 1
        more = f" ({others} more such columns or files)" if others else ""
        raise DataError(f"{file}: the column {column!r} has {count} {kind}: {remedy}{more}")


def _encode(values: Any, column: Column, file: str, faults: _Faults) -> npt.NDArray[np.float32]:
    """One column as features, float32 `[n, k]`."""
    head = f"[columns.{toml_key(column.name)}]"
    if column.kind == "number":
        numbers = as_numbers(values)
        empty = np.asarray(values.isna(), bool)
        odd = np.isnan(numbers) & ~empty
        faults.add(file, column.name, "values that are no finite numbers", int((odd | np.isinf(numbers)).sum()),
                   f"set {head} kind = 'category' or 'ignore', or correct them")  # fmt: skip
        if column.missing == "refuse":
            faults.add(file, column.name, "missing values", int(empty.sum()),
                       f"set {head} missing = 'mean' or a number")  # fmt: skip
        elif column.missing != "mean":
            numbers = np.where(empty, float(column.missing), numbers)
        return numbers.astype(np.float32)[:, None]
    codes = _codes(values, column.values)
    empty = np.asarray(values.isna(), bool)
    if column.missing == "refuse":
        faults.add(file, column.name, "missing values", int(empty.sum()), f"set {head} missing = 'own' or 'zeros'")
    elif column.missing == "own":
        codes[empty] = len(column.values)
    if column.unknown == "refuse":
        faults.add(file, column.name, "values that its list does not hold", int(((codes < 0) & ~empty).sum()),
                   f"complete {head} values, or set unknown = 'zeros'")  # fmt: skip
    table = np.zeros((len(column.categories) + 1, len(column.categories)), np.float32)
    np.fill_diagonal(table, 1.0)  # its last row is for code -1
    encoded: npt.NDArray[np.float32] = table[codes][:, len(column.categories) - len(column.features) :]
    return encoded


def _target(values: Any, schema: Schema, file: str, faults: _Faults) -> npt.NDArray[Any]:
    empty = int(values.isna().sum())
    faults.add(file, schema.target, "missing targets", empty, "leave these examples out of the table")
    if schema.task == "regression":
        numbers = as_numbers(values)
        odd = int((~np.isfinite(numbers)).sum()) - empty
        faults.add(file, schema.target, "targets that are no finite numbers", odd, "set classes = [...] and task")
        return np.nan_to_num(numbers, posinf=0.0, neginf=0.0).astype(np.float32)
    codes = _codes(values, schema.classes)
    faults.add(file, schema.target, "targets that are no class", int((codes < 0).sum()) - empty, "complete classes")
    return np.maximum(codes, 0)


def as_numbers(values: Any) -> npt.NDArray[np.float64]:
    """A column as float64 `[n]`; NaN where there is no number. True and False are text, in a file and in a frame."""
    pd = _pandas()
    if pd.api.types.is_bool_dtype(values.dtype):
        values = as_text(values)
    numbers = pd.to_numeric(values, errors="coerce")
    return np.asarray(numbers.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan))


def as_text(values: Any) -> Any:
    """A column as text; whole numbers lose their decimals, so 1.0 in a column with missing values is "1"."""
    pd = _pandas()
    if pd.api.types.is_float_dtype(values.dtype):
        present = values.dropna()
        if len(present) and bool((present == present.round()).all()) and bool((present.abs() < 2**53).all()):
            values = values.astype("Int64")
    return values.astype("string").str.strip()


def _codes(values: Any, categories: tuple[str, ...]) -> npt.NDArray[np.int64]:
    found = _pandas().Index(list(categories), dtype="string").get_indexer(as_text(values))  # -1 where there is none
    return np.array(found, np.int64)


def _frames(path: Path, text: frozenset[str] | None) -> Iterator[Any]:
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path} is not there: data.path names a file that ends in {', '.join(SUFFIXES)}, or a folder")
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is not a table: allowed are files that end in {', '.join(SUFFIXES)}, and folders")
    return _parquet(path) if suffix == ".parquet" else _csv(path, text)


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pyarrow", "tables") from error
    _pandas()
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PIECE):
                yield batch.to_pandas()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read ({type(error).__name__})") from None


def _csv(path: Path, text: frozenset[str] | None) -> Iterator[Any]:
    pd = _pandas()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.read(_SNIFFED)
            if not head.strip():
                raise DataError(f"{path.name} is empty: its first line names the columns")
            separator = _separator(head)
            names = next(csv.reader(head.splitlines(), delimiter=separator))
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path.name} has the column {repeated[0]!r} more than once: rename one")
            file.seek(0)
            types = "string" if text is None else {name: "string" for name in names if name in text}
            yield from pd.read_csv(
                file, sep=separator, dtype=types, keep_default_na=False, na_values=list(MISSING), chunksize=_PIECE,
                skipinitialspace=True, index_col=False, low_memory=False,
            )  # fmt: skip
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except pd.errors.ParserError as error:
        line = [word for word in str(error).replace(",", " ").split() if word.isdigit()]
        raise DataError(
            f"{path.name} is not a table: a line has another number of fields than the first"
            + (f" (line {line[1]})" if len(line) > 1 else "")
        ) from None


def _separator(head: str) -> str:
    first = head.splitlines()[0]
    counts = {separator: first.count(separator) for separator in (",", ";", "\t")}
    return max(counts, key=lambda separator: counts[separator])


def _title(source: Any) -> str:
    return user_path(source).stem if isinstance(source, (str, Path)) else "table"


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", "tables") from error
    return pd
