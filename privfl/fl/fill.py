"""The slots of a contribution behind the update: metrics, counts, the indicator of an adaptive clip, and the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from privfl.codec import Vector
from privfl.dp import AdaptiveClip, ElementClip
from privfl.dp.clip import Clipped
from privfl.fl.client import ClientUpdate
from privfl.fl.counts import CLIPPED, EXCESS, RANGE, UNSUMMED, range_entries, to_limbs
from privfl.fl.slots import INDICATOR, WEIGHT
from privfl.ring import Ints

if TYPE_CHECKING:
    from privfl.fl.encoding import UpdateEncoding


def fill(
    encoding: UpdateEncoding, out: Ints, update: ClientUpdate, *, joined: Vector, clipped: Clipped, weight: int
) -> None:
    """Fill the slots behind the update and its blocks.

    Args:
        encoding: The encoding of the round.
        out: The contribution, int64 `[total_length]`.
        update: What the client's training returned.
        joined: The update and its blocks, float `[length]`.
        clipped: What the clip made of them.
        weight: The weight of the client.
    """
    places, reported, by_examples = encoding.places, encoding.reported(update), encoding.weighting == "examples"
    fraction = weight / encoding.max_weight if by_examples else 1.0
    if encoding.counts:
        _count(encoding, out, joined, clipped, reported=reported, weight=weight)
        out[places[UNSUMMED]] = any(v is not None and name not in reported for name, v in update.metrics.items())
        if by_examples:
            out[places[EXCESS]] = min(update.examples - weight, encoding.count_bound)
    else:
        for metric in encoding.metrics:
            value = min(max(reported.get(metric.name, 0.0), -metric.bound), metric.bound)
            bound = metric.entry_bound(encoding.codec)
            units = round(metric.scale(encoding.codec) * value * fraction)
            out[places[metric.name]] = min(max(units, -bound), bound)
    if isinstance(encoding.clip, AdaptiveClip):
        out[places[INDICATOR]] = encoding.clip.indicator(clipped.within)
    if by_examples:
        out[places[WEIGHT]] = weight


def _count(
    encoding: UpdateEncoding,
    out: Ints,
    joined: Vector,
    clipped: Clipped,
    *,
    reported: Mapping[str, float],
    weight: int,
) -> None:
    """Fill the slots of the metrics, `clipped` and `range`."""
    places, clip, top = encoding.places, encoding.clip, encoding.count_bound
    for metric in encoding.metrics:
        value = reported.get(metric.name)
        if value is not None and abs(value) <= metric.bound:
            place = places[metric.name]
            out[place] = to_limbs(value, weight, place.stop - place.start, top)
            out[places[metric.weight]] = weight
    if not clipped.within:
        out[places[CLIPPED]] = 1
        if isinstance(clip, ElementClip):
            sizes = np.abs(joined)
            out[places[CLIPPED]] = min(int(np.count_nonzero(sizes > clip.max_abs)), top)
            out[places[RANGE]] = range_entries(float(sizes.max()), clip.max_abs)
