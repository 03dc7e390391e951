"""Encoding of many updates at once: the same integers as one by one, in a few operations over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.dp import ElementClip, FlatClip
from privfl.dp.clip import Clipped
from privfl.fl.chunks import stacked
from privfl.fl.client import ClientUpdate
from privfl.fl.counts import EMPTY, REJECTED
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.fill import fill
from privfl.ring import Ints

_Rows = npt.NDArray[np.floating[Any]]

_LONG: Final = 1 << 15
"""Longer updates are encoded one by one: their arithmetic costs more than the calls, and stays in the cache."""

_PART: Final = 1 << 13
"""Entries of an update that are added at a time: their floats stay in the cache."""

_BLOCK: Final = 1 << 15
"""Entries of several updates that are encoded at a time where their sum is wanted: their integers stay in the cache."""

_SMALL_UNITS: Final = 2.0**51

_NORMS: Final = (2.0**-40, 2.0**40)
"""Clip norms whose squares single precision sums without leaving its normal numbers."""

_FAR_WITHIN: Final = 0.99
"""The part of a bound up to which an update is within it in spite of all rounding. A float32 sum of `_PART` squares is
off by 0.0005 of itself at most."""

_SINGLE: Final = 4
"""Bytes of a single precision number, the shortest type whose squares are summed in a rough way."""

_ROOM: Final = 0.004
"""The part of the bound that is left for the rounding of the entries."""


def add_all(encoding: UpdateEncoding, updates: Sequence[ClientUpdate]) -> Ints | None:
    """The sum of what `encode_all` returns, where no update needs more than rounding.

    Args:
        encoding: The encoding of the round.
        updates: The updates.

    Returns:
        int64 `[total_length]`; None where an update has to be clipped or left out, or the encoding does more.
    """
    if not _is_usual(encoding, updates):
        return None
    vectors, weights = [encoding.joined(update) for update in updates], _weights(encoding, updates)
    reported = [encoding.reported(update).values() for update in updates if encoding.metrics]
    if not all(weights) or not all(math.isfinite(value) for values in reported for value in values):
        return None
    if len(updates) * encoding.codec.scale * encoding.max_entry >= _SMALL_UNITS or not _far_within(encoding, vectors):
        return None
    total = np.zeros(encoding.total_length, np.int64)
    sums, units_of_one = np.empty((2, min(_PART, encoding.length)))
    for start in range(0, encoding.length, _PART):
        place = slice(start, min(start + _PART, encoding.length))
        real, added = units_of_one[: place.stop - start], sums[: place.stop - start]
        added[:] = 0
        for vector, fraction in zip(vectors, _fractions(encoding, weights), strict=True):
            part = vector[place]
            np.copyto(real, part if fraction == 1.0 else part * vector.dtype.type(fraction))
            np.multiply(real, encoding.codec.scale, out=real)
            np.add(added, np.rint(real, out=real), out=added)
        total[place] = added
    if encoding.total_length > encoding.width:
        one = np.zeros(encoding.total_length, np.int64)
        for update, vector, weight in zip(updates, vectors, weights, strict=True):
            fill(encoding, one, update, joined=vector, clipped=Clipped(vector, finite=True, within=True), weight=weight)
            total[encoding.width :] += one[encoding.width :]
            one[encoding.width :] = 0
    return total


def blocks(encoding: UpdateEncoding, count: int) -> list[slice]:
    """The updates of a chunk that are encoded and added at a time.

    Args:
        encoding: The encoding of the round.
        count: The updates of the chunk.
    """
    size = max(1, _BLOCK // encoding.total_length)
    return [slice(at, at + size) for at in range(0, count, size)]


def encode_all(encoding: UpdateEncoding, updates: Sequence[ClientUpdate], rngs: Sequence[np.random.Generator]) -> Ints:
    """Clip, weigh and round the updates of a chunk; see `UpdateEncoding.encode`.

    Args:
        encoding: The encoding of the round.
        updates: The updates.
        rngs: Each client's own randomness, for stochastic rounding.

    Returns:
        int64 `[updates, total_length]`, each as `encode` returns it.
    """
    if encoding.length > _LONG or not _is_usual(encoding, updates):
        return stacked([encoding.encode(update, rng) for update, rng in zip(updates, rngs, strict=True)])
    joined = np.concatenate([encoding.joined(update) for update in updates]).reshape(len(updates), -1)
    rows, finite, within = _clipped(encoding, joined)
    width, weights = encoding.width, _weights(encoding, updates)
    fractions = _fractions(encoding, weights)
    if min(fractions) < 1.0:
        rows = rows * np.array(fractions, rows.dtype)[:, np.newaxis]
    ints = (
        encoding.codec.encode_entry_rows(rows, max_abs=encoding.clip.max_abs)
        if isinstance(encoding.clip, ElementClip)
        else encoding.codec.encode_rows(rows, max_norm=encoding.clip.clip_norm)
    )
    if encoding.total_length == width and all(weights) and finite.all():
        return ints
    out = np.zeros((len(updates), encoding.total_length), np.int64)
    out[:, :width] = ints
    for place, update in enumerate(updates):
        good = bool(finite[place]) and all(map(math.isfinite, encoding.reported(update).values()))
        if not weights[place] or not good:
            out[place] = 0
            if encoding.counts:
                out[place, encoding.places[EMPTY if good else REJECTED]] = 1
        elif encoding.total_length != width:
            clipped = Clipped(rows[place], finite=True, within=bool(within[place]))
            fill(encoding, out[place], update, joined=joined[place], clipped=clipped, weight=weights[place])
    return out


def _is_usual(encoding: UpdateEncoding, updates: Sequence[ClientUpdate]) -> bool:
    """True where few operations encode all updates: they are of one type, without rotation or random rounding."""
    types = {update.delta.dtype for update in updates}
    return (
        type(encoding.clip) in (FlatClip, ElementClip)
        and encoding.examples is None
        and encoding.rotation is None
        and encoding.rounding == "nearest"
        and encoding.codec.scale * encoding.clip.clip_norm < _SMALL_UNITS
        and len(types) == 1
        and not any(update.blocks for update in updates)
    )


def _weights(encoding: UpdateEncoding, updates: Sequence[ClientUpdate]) -> list[int]:
    if not encoding.counts and encoding.weighting == "uniform":
        return [1] * len(updates)
    return [min(update.examples, encoding.max_weight) for update in updates]


def _fractions(encoding: UpdateEncoding, weights: Sequence[int]) -> list[float]:
    if encoding.weighting == "uniform":
        return [1.0] * len(weights)
    return [weight / encoding.max_weight for weight in weights]


def _far_within(encoding: UpdateEncoding, vectors: Iterable[Vector]) -> bool:
    """True if updates are finite and so short that neither the clip nor the rounding has to shorten one."""
    clip, room = encoding.clip, _ROOM * encoding.codec.scale * encoding.max_entry
    if isinstance(clip, ElementClip):
        limit = _FAR_WITHIN * clip.max_abs
        return room > 1 and all(-limit <= vector.min() and vector.max() <= limit for vector in vectors)
    norm = clip.clip_norm
    if type(clip) is not FlatClip or not _NORMS[0] <= norm <= _NORMS[1] or room < math.sqrt(encoding.length):
        return False
    limit = _FAR_WITHIN * norm * norm
    with np.errstate(over="ignore", invalid="ignore"):
        return all(vector.dtype.itemsize >= _SINGLE and _square(vector) <= limit for vector in vectors)


def _square(vector: Vector) -> float:
    parts = (vector[start : start + _PART] for start in range(0, len(vector), _PART))
    return sum(float(np.dot(part, part)) for part in parts)


def _clipped(encoding: UpdateEncoding, joined: _Rows) -> tuple[_Rows, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The clipped updates `[n, length]`, which of them are finite, and which were within the bound."""
    clip = encoding.clip
    if _far_within(encoding, joined):
        every = np.ones(len(joined), bool)
        return joined, every, every
    peaks = np.abs(joined).max(axis=1)
    finite = np.isfinite(peaks)
    if isinstance(clip, ElementClip):
        within = peaks <= clip.max_abs
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are clipped by themselves
            within = np.sqrt(np.add.reduce(np.square(joined, dtype=np.float64), axis=1)) <= clip.clip_norm
    beyond = np.flatnonzero(~(within & finite))
    if not len(beyond):
        return joined, finite, within
    rows = joined.copy()
    for place in beyond:
        clipped = clip(joined[place])
        rows[place], within[place] = clipped.vector, clipped.within
    return rows, finite, within
