"""The plays as one text: predict the next character, one client a speaker."""

from __future__ import annotations

import os
import re
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.data.folder import text
from privfl.data.sets import Dataset, Grouping
from privfl.errors import ConfigError, DataError

ALPHABET: Final = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 characters of the text; a character's class is its position here."""

Characters = npt.NDArray[np.uint8]
"""Positions in `ALPHABET`, uint8 `[length]`."""

_FILE: Final = "tinyshakespeare.txt"


def shakespeare(
    folder: str | os.PathLike[str] | None = None,
    *,
    window: int = 80,
    min_characters: int = 2000,
    verify: bool = True,
) -> Dataset:
    """Return the lines of 99 speakers: examples of `window` characters, with the character after each one as target.

    The speeches of one speaker (the lines after `NAME:` up to a blank line) are joined in order, each with its closing
    newline. They are cut into examples that do not overlap, in the order of the play; a rest shorter than an example is
    left out.

    Args:
        folder: The folder of data sets; the environment variable `PRIVFL_DATA` by default.
        window: The characters of an example, in [1, min_characters).
        min_characters: Speakers with fewer characters are left out, as are rare roles in McMahan et al. 2017, section
            3.
        verify: Compare the file's checksum; False takes other editions, at the caller's own risk.

    Raises:
        ConfigError: `window` is out of range.
        DataError: The file is absent, altered or malformed.
    """
    if not 1 <= window < min_characters:
        raise ConfigError(f"window must be in [1, {min_characters}), not {window}")
    speakers = {
        name: said
        for name, said in speeches(text("shakespeare", _FILE, folder, verify=verify)).items()
        if len(said) >= min_characters
    }
    if not speakers:
        raise DataError(f"shakespeare/{_FILE}: no speaker has {min_characters} characters")
    features, targets, codes = [], [], []
    for code, said in enumerate(speakers.values()):
        numbers = encode_text(said)
        count = (len(numbers) - 1) // window
        features.append(numbers[: count * window].reshape(count, window))
        targets.append(numbers[1 : count * window + 1].reshape(count, window))
        codes.append(np.full(count, code, np.int64))
    return Dataset(
        name="shakespeare",
        task="text",
        features=np.concatenate(features),
        targets=np.concatenate(targets),
        classes=tuple(ALPHABET),
        groupings=(Grouping("speaker", np.concatenate(codes), tuple(speakers)),),
    )


def speeches(play: str) -> dict[str, str]:
    """Return the text of each speaker, in order of appearance. Raises `DataError` where a speech has no header line."""
    said: dict[str, list[str]] = {}
    for block in re.split(r"\n{2,}", play.strip("\n")):
        header, _, body = block.partition("\n")
        if not header.endswith(":") or len(header) < 2:
            raise DataError(f"shakespeare/{_FILE}: a speech does not begin with a line NAME:")
        said.setdefault(header[:-1], []).append(body + "\n")
    return {name: "".join(parts) for name, parts in said.items()}


def encode_text(characters: str) -> Characters:
    """Characters -> uint8 `[length]`, positions in `ALPHABET`; raises `DataError` for a character outside it."""
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    numbers = _POSITIONS[np.minimum(points, 255)]
    if numbers.size and int(numbers.max()) == _UNKNOWN:
        raise DataError(
            f"shakespeare: character {int(numbers.argmax())} of the text is not one of the {len(ALPHABET)} allowed"
        )
    return numbers


def decode_text(numbers: Characters) -> str:
    """uint8 `[length]` -> characters."""
    return "".join(ALPHABET[number] for number in numbers.tolist())


_UNKNOWN: Final = 255
_POSITIONS: Final = np.full(256, _UNKNOWN, np.uint8)
for _position, _character in enumerate(ALPHABET):
    _POSITIONS[ord(_character)] = _position
