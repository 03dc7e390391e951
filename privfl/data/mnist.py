"""MNIST from its four original IDX files."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.data.folder import read
from privfl.data.sets import Dataset
from privfl.errors import DataError

TRAIN: Final = 60_000
TEST: Final = 10_000
_SIDE: Final = 28


def mnist(folder: str | os.PathLike[str] | None = None, *, verify: bool = True) -> Dataset:
    """Return 60,000 training and 10,000 test digits (LeCun, Cortes, Burges): float32 `[70000, 784]` in [0, 1].

    `test` is the last 10,000 examples.

    Args:
        folder: The folder of data sets; the environment variable `PRIVFL_DATA` by default.
        verify: Compare the files' checksums; False takes other editions, at the caller's own risk.

    Raises:
        DataError: A file is absent, altered or malformed.
    """
    features = np.empty((TRAIN + TEST, _SIDE * _SIDE), np.float32)
    targets = np.empty(TRAIN + TEST, np.int64)
    for prefix, rows in (("train", slice(0, TRAIN)), ("t10k", slice(TRAIN, TRAIN + TEST))):
        count = rows.stop - rows.start
        images = _file(f"{prefix}-images-idx3-ubyte.gz", (count, _SIDE, _SIDE), folder, verify)
        np.multiply(images.reshape(count, -1), np.float32(1 / 255), out=features[rows])
        labels = _file(f"{prefix}-labels-idx1-ubyte.gz", (count,), folder, verify)
        if int(labels.max()) > 9:
            raise DataError(f"mnist/{prefix}-labels-idx1-ubyte.gz: a label is above 9")
        targets[rows] = labels
    return Dataset(
        name="mnist",
        task="multiclass",
        features=features,
        targets=targets,
        classes=tuple("0123456789"),
        test=np.arange(TRAIN, TRAIN + TEST),
    )


def parse_idx(data: bytes, shape: tuple[int, ...], name: str = "IDX file") -> npt.NDArray[np.uint8]:
    """Return the values of a gzipped IDX file of unsigned bytes.

    The format is two zero bytes, the type 0x08, the number of dimensions, one big-endian uint32 per dimension, and the
    values. At most the expected bytes, and one more to see that there are too many, are ever unpacked.

    Args:
        data: The content of the file.
        shape: The shape that the file must have.
        name: The name of the file in errors.

    Raises:
        DataError: The file has any other form.
    """
    header = struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            raw = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a whole gzip file: {error}") from error
    if raw[: len(header)] != header:
        raise DataError(f"{name} does not begin with {header.hex()}, as a file of shape {shape} does")
    if len(raw) != size:
        raise DataError(f"{name} holds {'more' if len(raw) > size else 'fewer'} than {size} bytes")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _file(file: str, shape: tuple[int, ...], folder: Any, verify: bool) -> npt.NDArray[np.uint8]:
    return parse_idx(read("mnist", file, folder, verify=verify), shape, f"mnist/{file}")
