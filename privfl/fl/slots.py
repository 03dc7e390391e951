"""The parts of a summed vector next to the update: training metrics, and the blocks that an algorithm sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from privfl.codec import FixedPoint
from privfl.errors import ConfigError
from privfl.fl.counts import CLIPPED, EMPTY, EXCESS, RANGE, REJECTED, UNSUMMED

UPDATE: Final = "update"
INDICATOR: Final = "clip"
WEIGHT: Final = "weight"

RESERVED: Final = frozenset({UPDATE, INDICATOR, WEIGHT, CLIPPED, RANGE, REJECTED, EMPTY, UNSUMMED, EXCESS})
"""The names of slots that no metric and no block has."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A training metric that travels in the summed vector.

    Attributes:
        name: The key of the metric in `ClientUpdate.metrics`.
        bound: The largest absolute value. Larger values count as `bound`; where the encoding counts, as not reported.
        units: The integer that `bound` becomes; None scales the metric as the update's entries are scaled. An encoding
            that counts has metrics without units.
    """

    name: str
    bound: float = 32.0
    units: int | None = None

    def __post_init__(self) -> None:
        if self.name in RESERVED or not self.name:
            raise ConfigError(f"a metric cannot be named {self.name!r}: that is another slot of the vector")
        if not (math.isfinite(self.bound) and self.bound > 0) or (self.units is not None and self.units < 1):
            raise ConfigError(f"a metric has a positive bound and units, not {self.bound!r} and {self.units!r}")

    def entry_bound(self, codec: FixedPoint) -> int:
        """The largest integer that the metric becomes."""
        return codec.bound(self.bound) if self.units is None else self.units

    def scale(self, codec: FixedPoint) -> float:
        """Integer units per 1.0."""
        return codec.scale if self.units is None else self.units / self.bound

    @property
    def weight(self) -> str:
        """The name of the slot with the weight of the clients that report the metric."""
        return f"{self.name}.weight"


@dataclass(frozen=True, slots=True)
class Block:
    """A vector that is summed next to the update, under the update's scale and clip, such as control variates.

    Attributes:
        name: The key of the vector in `ClientUpdate.blocks`.
        length: Its entries, at least 1.
    """

    name: str
    length: int

    def __post_init__(self) -> None:
        if type(self.name) is not str or self.name in RESERVED or not self.name:
            raise ConfigError(f"a block cannot be named {self.name!r}: that is another slot of the vector")
        if type(self.length) is not int or self.length < 1:
            raise ConfigError(
                f"the length of block {self.name!r} must be an integer of at least 1, not {self.length!r}"
            )
