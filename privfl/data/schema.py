"""The schema of a table: its target, its clients, and how each column becomes features.

A schema is public. In a run that claims privacy it has to be declared, because column types, categories and ranges that
were read from the examples would be released without noise.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from privfl.errors import ConfigError
from privfl.files import user_path

ColumnKind = Literal["number", "category", "ignore"]
TableTask = Literal["binary", "multiclass", "regression"]

NUMBER_MISSING: Final = ("refuse", "mean")
CATEGORY_MISSING: Final = ("refuse", "zeros", "own")
OWN: Final = "missing"
"""The name of the category of missing values under `missing = "own"`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column that becomes features, or is ignored.

    Attributes:
        name: The column's name in the table.
        kind: "number" is one feature; "category" is one feature of 0 and 1 for each value (one feature for two values);
            "ignore" is none.
        low: The smallest value that the column can have, as public knowledge; `standardize = "public"` needs it.
        high: The largest value that it can have.
        values: The values of a category, as text.
        missing: For a number "refuse" (default), "mean" (standardization puts the mean in its place), or a number that
            takes its place. For a category "refuse", "zeros" (no feature is 1) or "own" (a category of its own).
        unknown: For a value that is not in `values`: "refuse" (default) or "zeros".
    """

    name: str
    kind: ColumnKind = "number"
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    missing: str | float = "refuse"
    unknown: str = "refuse"

    def __post_init__(self) -> None:
        if self.kind not in get_args(ColumnKind):
            raise self._error("kind", self.kind, f"one of {', '.join(get_args(ColumnKind))}")
        if self.kind == "category":
            self._check_category()
        elif self.kind == "number":
            self._check_number()

    def _check_category(self) -> None:
        if len(self.values) < 2 or not all(isinstance(value, str) for value in self.values):
            raise self._error("values", list(self.values), "a list of 2 texts or more")
        if len(set(self.values)) < len(self.values):
            raise self._error("values", list(self.values), "a list without repetitions")
        if self.missing not in CATEGORY_MISSING:
            raise self._error("missing", self.missing, f"one of {', '.join(CATEGORY_MISSING)}")
        if self.missing == "own" and OWN in self.values:
            raise self._error("missing", "own", f"'refuse' or 'zeros', because {OWN!r} is one of its values")
        if self.unknown not in ("refuse", "zeros"):
            raise self._error("unknown", self.unknown, "'refuse' or 'zeros'")
        if self.low is not None or self.high is not None:
            raise self._error("low", self.low, "absent from a category")

    def _check_number(self) -> None:
        if self.values:
            raise self._error("values", list(self.values), "absent from a number")
        for key, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and not _is_number(bound):
                raise self._error(key, bound, "a finite number")
        if (self.low is None) != (self.high is None) or (
            self.low is not None and self.high is not None and self.low >= self.high
        ):
            raise self._error("high", self.high, "given together with low, and above it")
        if self.missing not in NUMBER_MISSING and not _is_number(self.missing):
            raise self._error("missing", self.missing, f"a number, or one of {', '.join(NUMBER_MISSING)}")

    def _error(self, key: str, value: object, allowed: str) -> ConfigError:
        return ConfigError(f"[columns.{toml_key(self.name)}] {key} must be {allowed}, not {value!r}")

    @property
    def categories(self) -> tuple[str, ...]:
        """The values of a category. With `missing = "own"` one more value follows, for missing values."""
        return (*self.values, OWN) if self.missing == "own" else self.values

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that the column becomes."""
        if self.kind == "ignore":
            return ()
        if self.kind == "number":
            return (self.name,)
        shown = self.categories[1:] if len(self.categories) == 2 else self.categories
        return tuple(f"{self.name}={value}" for value in shown)

    @property
    def ranges(self) -> tuple[tuple[float, float] | None, ...]:
        """The public range of each feature; None where a number has none. A feature of 0 and 1 has (0, 1)."""
        if self.kind == "number":
            return (None,) if self.low is None or self.high is None else ((self.low, self.high),)
        return ((0.0, 1.0),) * len(self.features)


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, and what is learned from them.

    Attributes:
        target: The column that is predicted.
        task: "binary", "multiclass" or "regression".
        classes: The target's values as text, in the order of their class numbers; empty for a regression.
        client: The column that names each example's client; None where clients are files, or are made by a partition.
        columns: The other columns, in the order of their features. Columns of the table that are not listed are an
            error.
        person: The column that names each example's person, which is no feature; None where the table has none.
        inferred: Whether types and categories were read from the examples.
    """

    target: str
    task: TableTask
    classes: tuple[str, ...] = ()
    client: str | None = None
    columns: tuple[Column, ...] = field(default=())
    person: str | None = None
    inferred: bool = False

    def __post_init__(self) -> None:
        if self.task not in get_args(TableTask):
            raise ConfigError(f"task must be one of {', '.join(get_args(TableTask))}, not {self.task!r}")
        if self.task == "regression" and self.classes:
            raise ConfigError("classes must be absent where task = 'regression'")
        if self.task != "regression" and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ConfigError(f"classes must list 2 values of {self.target!r} or more, each once")
        if self.task == "binary" and len(self.classes) != 2:
            raise ConfigError(f"task = 'binary' has 2 classes, not {len(self.classes)}: set task = 'multiclass'")
        names = [self.target, *filter(None, (self.client, self.person)), *(column.name for column in self.columns)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"the column {repeated[0]!r} has two roles: name it once in the schema")
        if not any(column.features for column in self.columns):
            raise ConfigError("no column becomes a feature: declare one as kind = 'number' or 'category'")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of all features, in their order."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def ranges(self) -> tuple[tuple[float, float], ...] | None:
        """The public range of each feature, or None where the schema states none for some number."""
        found = [each for column in self.columns for each in column.ranges]
        stated = tuple(each for each in found if each is not None)
        return stated if len(stated) == len(found) else None

    def to_mapping(self) -> dict[str, Any]:
        """The nested dictionaries of the schema's TOML, without what has its default."""
        out: dict[str, Any] = {"target": self.target, "task": self.task}
        if self.classes:
            out["classes"] = list(self.classes)
        if self.client:
            out["client"] = self.client
        if self.person:
            out["person"] = self.person
        out["columns"] = {column.name: _column_mapping(column) for column in self.columns}
        return out

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Schema:
        """The schema of nested dictionaries, as `tomllib` reads them; raises `ConfigError` naming the key."""
        _check_keys("", values, {"target", "task", "classes", "client", "person", "columns"})
        columns = values.get("columns")
        if not isinstance(columns, Mapping) or not isinstance(values.get("target"), str):
            raise ConfigError("a schema has the keys target, task and [columns.NAME] for each column")
        return cls(
            target=values["target"],
            task=values.get("task", "binary"),
            classes=tuple(map(str, values.get("classes", ()))),
            client=_role(values, "client"),
            person=_role(values, "person"),
            columns=tuple(_column(str(name), column) for name, column in columns.items()),
        )


def load_schema(path: Path | str) -> Schema:
    """The schema in a TOML file; raises `ConfigError` when it cannot be read, or holds a key that is not allowed."""
    path = user_path(path)
    try:
        return Schema.from_mapping(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ConfigError(
            f"cannot read the schema {path}: {error.strerror}. `privfl data inspect FILE --output {path}` writes one"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the schema {path} is not TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"the schema {path}: {error}") from error


def toml_key(name: str) -> str:
    """A column's name as TOML writes it in a table's head."""
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _role(values: Mapping[str, Any], key: str) -> str | None:
    name = values.get(key)
    if name is not None and not (isinstance(name, str) and name):
        raise ConfigError(f"{key} must be the name of a column, not {name!r}")
    return name


def _column(name: str, values: object) -> Column:
    if not isinstance(values, Mapping):
        raise ConfigError(f"columns.{toml_key(name)} must be a table: write [columns.{toml_key(name)}]")
    _check_keys(f"columns.{toml_key(name)}.", values, {"kind", "low", "high", "values", "missing", "unknown"})
    return Column(name, **{**values, "values": tuple(values.get("values", ()))})


def _column_mapping(column: Column) -> dict[str, Any]:
    out: dict[str, Any] = {"kind": column.kind}
    if column.low is not None:
        out |= {"low": column.low, "high": column.high}
    if column.values:
        out["values"] = list(column.values)
    if column.missing != "refuse":
        out["missing"] = column.missing
    if column.unknown != "refuse":
        out["unknown"] = column.unknown
    return out


def _check_keys(prefix: str, values: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(map(str, values)) - known):
        raise ConfigError(f"unknown key {prefix}{unknown[0]}; allowed: {', '.join(sorted(known))}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
