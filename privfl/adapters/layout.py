"""The place of named arrays in one flat vector, for engines whose models are named arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError, WireError
from privfl.files import canonical_json, read_json

_MAX_LAYOUT: Final = 1 << 24
_DTYPES: Final = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class NamedLayout:
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
    def of(cls, arrays: Mapping[str, Any]) -> Self:
        """The layout of named arrays; raises `ConfigError` for arrays that no flat vector of floats can hold."""
        found = {name: np.asarray(array) for name, array in arrays.items()}
        dtypes = {value.dtype.name for value in found.values()}
        if len(dtypes) != 1 or not dtypes <= set(_DTYPES):
            other = next((n for n, v in found.items() if v.dtype.name not in _DTYPES), None)
            which = f"{other!r} is {found[other].dtype.name}" if other else f"there are {', '.join(sorted(dtypes))}"
            raise ConfigError(
                f"the arrays of a model are all float32 or all float64, and {which}: leave counters and other buffers "
                "out of the model's arrays, or convert them"
            )
        return cls(tuple(found), tuple(tuple(map(int, value.shape)) for value in found.values()), dtypes.pop())

    @property
    def size(self) -> int:
        """The entries of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, arrays: Mapping[str, Any]) -> Vector:
        """The arrays as one vector `[size]`; raises `ConfigError` for arrays of another layout."""
        if set(arrays) != set(self.names):
            other = sorted(set(arrays) ^ set(self.names))
            raise ConfigError(f"the arrays have other names than the model: {', '.join(map(repr, other[:5]))}")
        parts = [np.asarray(arrays[name]) for name in self.names]
        for name, part, shape in zip(self.names, parts, self.shapes, strict=True):
            if part.shape != shape:
                raise ConfigError(f"array {name!r} has the shape {part.shape}, and the model's has {shape}")
        return np.concatenate([part.ravel() for part in parts]).astype(self.dtype, copy=False)

    def split(self, vector: Vector) -> dict[str, Vector]:
        """The vector `[size]` as named arrays of their own memory."""
        values, at, found = np.asarray(vector, self.dtype), 0, {}
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = at + math.prod(shape)
            found[name] = values[at:stop].reshape(shape).copy()
            at = stop
        return found

    def to_text(self) -> str:
        """The layout as canonical JSON."""
        return canonical_json(
            {"names": list(self.names), "shapes": [list(shape) for shape in self.shapes], "dtype": self.dtype}
        ).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The layout from its canonical JSON; raises `WireError` for any other text."""
        try:
            if len(text) > _MAX_LAYOUT:
                raise ValueError("it is too long")
            record = read_json(text)
            shapes = tuple(tuple(int(side) for side in shape) for shape in record["shapes"])
            layout = cls(tuple(map(str, record["names"])), shapes, str(record["dtype"]))
            same = layout.to_text() == text and len(layout.names) == len(shapes)
            if not same or layout.dtype not in _DTYPES or any(side < 0 for s in shapes for side in s):
                raise ValueError("it is not in the canonical form")
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(f"not the layout of a model: {error}") from error
        return layout

    def digest(self) -> str:
        """64 hexadecimal digits, for the charter."""
        return hashlib.sha256(b"privfl/1 array layout\n" + self.to_text().encode()).hexdigest()
