"""The content of an opened sum, as a round's plan reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privfl.fl.counts import Counts


@dataclass(frozen=True, slots=True)
class Decoded:
    """The content of an opened sum.

    Attributes:
        mean: The mean update, float64 `[d]`.
        blocks: The mean of each block, float64, by name.
        denominator: The number of contributions of full weight that the means divide by.
        metrics: The mean metrics, by name.
        next_clip_norm: The clip norm of the next round if it is adaptive, else None.
        counts: What the round counted about its updates; None where nothing is counted.
    """

    mean: npt.NDArray[np.float64] = field(repr=False)
    blocks: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    denominator: float
    metrics: Mapping[str, float]
    next_clip_norm: float | None
    counts: Counts | None
