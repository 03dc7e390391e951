"""Encoding of many updates at once: the same integers as one by one, in a few operations over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.dp import ElementClip, FlatClip
from privfl.dp.clip import Clipped
from privfl.fl.client import ClientUpdate
from privfl.fl.counts import EMPTY, REJECTED
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.fill import fill
from privfl.ring import Ints

_Rows = npt.NDArray[np.floating[Any]]

_LONG: Final = 1 << 15
"""Longer updates are encoded one by one: their arithmetic costs more than the calls, and stays in the cache."""

_SMALL_UNITS: Final = 2.0**51


def encode_all(encoding: UpdateEncoding, updates: Sequence[ClientUpdate], rngs: Sequence[np.random.Generator]) -> Ints:
    """Clip, weigh and round the updates of a chunk; see `UpdateEncoding.encode`.

    Args:
        encoding: The encoding of the round.
        updates: The updates.
        rngs: Each client's own randomness, for stochastic rounding.

    Returns:
        int64 `[updates, total_length]`, each as `encode` returns it.
    """
    if not _is_usual(encoding, updates):
        out = np.zeros((len(updates), encoding.total_length), np.int64)
        for place, (update, rng) in enumerate(zip(updates, rngs, strict=True)):
            out[place] = encoding.encode(update, rng)
        return out
    joined = np.stack([encoding.joined(update) for update in updates])
    rows, finite, within = _clipped(encoding, joined)
    by_examples, width = encoding.weighting == "examples", encoding.width
    counted = by_examples or encoding.counts
    weights = [min(update.examples, encoding.max_weight) if counted else 1 for update in updates]
    if by_examples and min(weights) < encoding.max_weight:
        rows = rows * np.array([weight / encoding.max_weight for weight in weights], rows.dtype)[:, np.newaxis]
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
    """True where few operations encode all updates: short ones of one type, without rotation or random rounding."""
    return (
        type(encoding.clip) in (FlatClip, ElementClip)
        and encoding.examples is None
        and encoding.rotation is None
        and encoding.rounding == "nearest"
        and encoding.length <= _LONG
        and encoding.codec.scale * encoding.clip.clip_norm < _SMALL_UNITS
        and len({update.delta.dtype for update in updates}) == 1
        and not any(update.blocks for update in updates)
    )


def _clipped(encoding: UpdateEncoding, joined: _Rows) -> tuple[_Rows, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The clipped updates `[n, length]`, which of them are finite, and which were within the bound."""
    clip, peaks = encoding.clip, np.abs(joined).max(axis=1)
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
