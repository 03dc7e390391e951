"""Flower's records as this project's values: arrays as one flat vector, and frames as bytes in one ConfigRecord.

A frame is opaque here. Arrays of an app are read with Flower's own reader, which never unpickles.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privfl.codec import Vector
from privfl.errors import ConfigError, WireError
from privfl.files import canonical_json, read_json

KEY: Final = "privfl"
"""The name of the one record that frames travel in."""

FRAME: Final = "frame"
MODEL: Final = "model"
LAYOUT: Final = "layout"
NAMES: Final = "records"
HELLO: Final = "hello"
CLIENT: Final = "client"

_MAX_LAYOUT: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """The place of each named array in a flat vector, in the order of the names.

    Attributes:
        names: The names.
        shapes: The shape of each array.
        dtype: "float32" or "float64"; all arrays have it.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @classmethod
    def of(cls, arrays: ArrayRecord) -> ArrayLayout:
        """The layout of an ArrayRecord; raises `ConfigError` for arrays that no flat vector of floats can hold."""
        found = {name: array.numpy() for name, array in arrays.items()}
        dtypes = {value.dtype.name for value in found.values()}
        if len(dtypes) != 1 or not dtypes <= {"float32", "float64"}:
            other = next((n for n, v in found.items() if v.dtype.name not in ("float32", "float64")), None)
            which = f"{other!r} is {found[other].dtype.name}" if other else f"there are {', '.join(sorted(dtypes))}"
            raise ConfigError(
                f"the arrays of a model are all float32 or all float64, and {which}: leave counters and other buffers "
                "out of the ArrayRecord, or convert them"
            )
        return cls(tuple(found), tuple(tuple(map(int, value.shape)) for value in found.values()), dtypes.pop())

    @property
    def size(self) -> int:
        """The entries of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, arrays: ArrayRecord) -> Vector:
        """The arrays as one vector `[size]`; raises `ConfigError` for arrays of another layout."""
        if set(arrays) != set(self.names):
            other = sorted(set(arrays) ^ set(self.names))
            raise ConfigError(f"the arrays have other names than the model: {', '.join(map(repr, other[:5]))}")
        parts = [arrays[name].numpy() for name in self.names]
        for name, part, shape in zip(self.names, parts, self.shapes, strict=True):
            if part.shape != shape:
                raise ConfigError(f"array {name!r} has the shape {part.shape}, and the model's has {shape}")
        return np.concatenate([part.ravel() for part in parts]).astype(self.dtype, copy=False)

    def arrays(self, vector: Vector) -> ArrayRecord:
        """The vector `[size]` as named arrays."""
        values, at, found = np.asarray(vector, self.dtype), 0, {}
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = at + math.prod(shape)
            found[name] = Array(np.ascontiguousarray(values[at:stop].reshape(shape)))
            at = stop
        return ArrayRecord(found)

    def to_text(self) -> str:
        """The layout as canonical JSON."""
        return canonical_json(
            {"names": list(self.names), "shapes": [list(shape) for shape in self.shapes], "dtype": self.dtype}
        ).decode()

    @classmethod
    def from_text(cls, text: str) -> ArrayLayout:
        """The layout from its canonical JSON; raises `WireError` for any other text."""
        try:
            if len(text) > _MAX_LAYOUT:
                raise ValueError("it is too long")
            record = read_json(text)
            shapes = tuple(tuple(int(side) for side in shape) for shape in record["shapes"])
            layout = cls(tuple(map(str, record["names"])), shapes, str(record["dtype"]))
            same = layout.to_text() == text and len(layout.names) == len(shapes)
            if not same or layout.dtype not in ("float32", "float64") or any(side < 0 for s in shapes for side in s):
                raise ValueError("it is not in the canonical form")
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(f"not the layout of a model: {error}") from error
        return layout

    def digest(self) -> str:
        """64 hexadecimal digits, for the charter."""
        return hashlib.sha256(b"privfl/1 array layout\n" + self.to_text().encode()).hexdigest()


def one_record(records: Any, what: str) -> tuple[str, Any]:
    """Return the name and the value of the only record of a kind.

    Args:
        records: The records of one kind of a RecordDict.
        what: The kind, for the error.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    found = list(records.items())
    if len(found) != 1:
        raise ConfigError(f"a message holds one {what}, and this one holds {len(found)}")
    name, value = found[0]
    return str(name), value


def frame_content(frame: bytes, others: Mapping[str, bytes | str] | None = None) -> RecordDict:
    """The content of a message with a frame.

    Args:
        frame: The frame.
        others: Further values of the record, such as the model's bytes.
    """
    return RecordDict({KEY: ConfigRecord({FRAME: frame, **(others or {})})})


def frame_record(content: RecordDict) -> Any:
    """The record that holds a frame or a greeting; None for a message without one."""
    record = content.get(KEY)
    return record if isinstance(record, ConfigRecord) else None
