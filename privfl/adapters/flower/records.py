"""Flower's records as this project's values: arrays as one flat vector, and frames as bytes in one ConfigRecord.

A frame is opaque here. Arrays of an app are read with Flower's own reader, which never unpickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from privfl.adapters.federation import FRAME
from privfl.adapters.layout import NamedLayout
from privfl.codec import Vector
from privfl.errors import ConfigError

KEY: Final = "privfl"
"""The name of the one record that frames travel in."""

NAMES: Final = "records"
HELLO: Final = "hello"
CLIENT: Final = "client"


class ArrayLayout(NamedLayout):
    """The place of each array of an ArrayRecord in a flat vector, in the order of the names."""

    __slots__ = ()

    @classmethod
    def of(cls, arrays: ArrayRecord) -> Self:
        """The layout of an ArrayRecord; raises `ConfigError` for arrays that no flat vector of floats can hold."""
        return super().of(_values(arrays))

    def flatten(self, arrays: ArrayRecord) -> Vector:
        """The arrays as one vector `[size]`; raises `ConfigError` for arrays of another layout."""
        return super().flatten(_values(arrays))

    def arrays(self, vector: Vector) -> ArrayRecord:
        """The vector `[size]` as named arrays."""
        return ArrayRecord({name: Array(value) for name, value in self.split(vector).items()})


def _values(arrays: ArrayRecord) -> dict[str, Vector]:
    return {name: array.numpy() for name, array in arrays.items()}


def one_record(records: Any, what: str) -> tuple[str, Any]:
    """Return the name and the value of the only record of a kind.

    Args:
        records: The records of one kind of a RecordDict.
        what: The name of the kind; the error shows it.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    found = list(records.items())
    if len(found) != 1:
        raise ConfigError(f"a message holds one {what}, and this one holds {len(found)}")
    name, value = found[0]
    return str(name), value


def frame_content(frame: bytes, others: Mapping[str, bytes | str] | None = None) -> RecordDict:
    """Return the content of a message that carries a frame.

    Args:
        frame: The frame.
        others: Further values of the record, such as the model's bytes.
    """
    return RecordDict({KEY: ConfigRecord({FRAME: frame, **(others or {})})})


def frame_record(content: RecordDict) -> Any:
    """The record that holds a frame or a greeting; None for a message without one."""
    record = content.get(KEY)
    return record if isinstance(record, ConfigRecord) else None
