"""Files that the user downloads: the folder they are read from, and their checksums."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Final

from privfl.errors import DataError

VARIABLE: Final = "PRIVFL_DATA"
"""The environment variable that names the folder when no argument does."""

PAGES: Final = {
    "adult": "https://archive.ics.uci.edu/dataset/2/adult",
    "heart": "https://archive.ics.uci.edu/dataset/45/heart+disease",
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "parkinsons": "https://archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring",
    "shakespeare": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
}
"""Where the files of each set are to be had: a page, or with a slash at the end the folder of the files."""

CHECKSUMS: Final = {
    "adult/adult.data": "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult/adult.test": "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    "heart/processed.cleveland.data": "sha256:a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "heart/processed.hungarian.data": "sha256:d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "heart/processed.switzerland.data": "sha256:834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "heart/processed.va.data": "sha256:e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
    "mnist/train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    "parkinsons/parkinsons_updrs.data": "sha256:f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
    "shakespeare/tinyshakespeare.txt": "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
}
"""MNIST's are the published md5 sums; a checksum says "the same file", it is no signature of the publisher."""


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder with one folder per data set: the argument, or else `PRIVFL_DATA`. Raises `DataError`."""
    chosen = folder if folder is not None else os.environ.get(VARIABLE)
    if not chosen:
        raise DataError(f"no data folder: pass one, or set the environment variable {VARIABLE}")
    path = Path(chosen).expanduser()
    if not path.is_dir():
        raise DataError(f"the data folder {path} does not exist")
    return path


def read(name: str, file: str, folder: str | os.PathLike[str] | None = None, *, verify: bool = True) -> bytes:
    """Return the bytes of `<folder>/<name>/<file>`.

    Args:
        name: The name of the data set.
        file: The name of the file.
        folder: The folder of data sets, as in `data_folder`.
        verify: Compare the checksum; False takes other editions of the file, at the caller's own risk.

    Raises:
        DataError: The file is absent or has another checksum. The message names the path and the page to download from.
    """
    page = PAGES[name] + (file if PAGES[name].endswith("/") else "")
    try:
        root = data_folder(folder)
    except DataError as error:
        raise DataError(f"{error}; {name}/{file} is to be had at {page}") from error
    path = root / name / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); download it from {page}") from error
    if verify:
        kind, _, expected = CHECKSUMS[f"{name}/{file}"].partition(":")
        found = hashlib.new(kind, data, usedforsecurity=False).hexdigest()
        if found != expected:
            raise DataError(f"{path} has the {kind} {found}, expected is {expected}; download it again from {page}")
    return data


def text(name: str, file: str, folder: str | os.PathLike[str] | None = None, *, verify: bool = True) -> str:
    """Return the file decoded as ASCII.

    Args:
        name: The name of the data set.
        file: The name of the file.
        folder: As in `read`.
        verify: As in `read`.

    Raises:
        DataError: As `read`, and for any byte outside ASCII.
    """
    try:
        return read(name, file, folder, verify=verify).decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}/{file} is not ASCII text, at byte {error.start}") from None


def table(name: str, file: str, content: str, columns: int) -> list[list[str]]:
    """Return the stripped values of each line of a comma-separated file; blank lines are skipped.

    Args:
        name: The name of the data set, for errors.
        file: The name of the file, for errors.
        content: The text.
        columns: The number of values on each line.

    Raises:
        DataError: A line has another number of values, or there is none.
    """
    lines = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        values = [value.strip() for value in line.split(",")]
        if len(values) != columns:
            raise DataError(f"{name}/{file}, line {number}: {len(values)} values, expected {columns}")
        lines.append(values)
    if not lines:
        raise DataError(f"{name}/{file} has no rows")
    return lines


def number(name: str, file: str, value: str, *, place: str) -> float:
    """Return one finite number. Raises `DataError` for any other text.

    Args:
        name: The name of the data set, for errors.
        file: The name of the file, for errors.
        value: The text, which no error holds: it may be somebody's.
        place: The line or column of the text, for errors.
    """
    try:
        found = float(value)
    except ValueError:
        raise DataError(f"{name}/{file}, {place}: a value is not a number") from None
    if not math.isfinite(found):
        raise DataError(f"{name}/{file}, {place}: a value is not a finite number")
    return found
