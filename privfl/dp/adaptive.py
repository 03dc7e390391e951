"""Adaptive clipping to a quantile of the update norms (Andrew, Thakkar, McMahan and Ramaswamy 2021).

Each client adds one slot to its vector: whether its update was within the clip norm, minus one half. The noisy sum of
these divided by a fixed denominator, b, moves the norm geometrically: C <- C exp(-eta (b + 1/2 - quantile)). The slot
is under the one noise of the vector. The update is encoded in units of the clip norm that clipped it. Integer bounds,
noise and accounting therefore stay the same in every round, and the noise in the model's unit follows the norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from privfl.checks import check_count, check_positive, unwrap_numpy
from privfl.codec import FixedPoint, Vector
from privfl.dp.clip import Clipped, FlatClip
from privfl.dp.slots import MEAN_STDDEV, Slot, side_bound
from privfl.errors import ConfigError
from privfl.ring import Ring

BLOCK = "clip"


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """The state of adaptive clipping before a round: a `Clip`, and `next` gives the one of the next round.

    Attributes:
        clip_norm: The l2 norm that clips this round's updates.
        units: Integer units of one clip norm, the same in every round.
        indicator_units: Integer units of the indicator's range of 1; even.
        quantile: The quantile of the updates' norms that the clip norm follows, in (0, 1).
        learning_rate: The rate of the geometric steps; positive.
    """

    clip_norm: float
    units: int
    indicator_units: int
    quantile: float = 0.5
    learning_rate: float = 0.2

    def __post_init__(self) -> None:
        unwrap_numpy(self, "clip_norm", "units", "indicator_units", "quantile", "learning_rate")
        check_positive("clip_norm", self.clip_norm)
        check_positive("learning_rate", self.learning_rate)
        check_count("units", self.units)
        check_count("indicator_units", self.indicator_units)
        if self.indicator_units % 2:
            raise ConfigError(f"indicator_units must be even, not {self.indicator_units}: half of it is a value")
        if not 0 < self.quantile < 1:
            raise ConfigError(f"quantile must be in (0, 1), not {self.quantile!r}")

    @classmethod
    def plan(
        cls,
        clip_norm: float,
        *,
        units: int,
        noise_multiplier: float,
        denominator: float,
        quantile: float = 0.5,
        learning_rate: float = 0.2,
        stddev: float = MEAN_STDDEV,
        others: int = 0,
    ) -> AdaptiveClip:
        """Return an adaptive clip whose noisy quantile has a standard deviation of at most about `stddev`.

        Args:
            clip_norm: The first clip norm, positive.
            units: The integer units of a clip norm.
            noise_multiplier: The standard deviation of the noise divided by the norm bound of the whole vector.
            denominator: The number of clients that the mean divides by.
            quantile: The quantile of the norms that the clip follows.
            learning_rate: The rate eta.
            stddev: The standard deviation of the quantile, 1/20 by default.
            others: The number of further slots with the bound that the indicator gets; see `side_bound`.

        Raises:
            ConfigError: The cohort is too small.
        """
        half = side_bound(
            units,
            noise_multiplier=noise_multiplier,
            denominator=denominator,
            stddev=stddev,
            blocks=1 + others,
        )
        return cls(clip_norm, units, 2 * half, quantile, learning_rate)

    def __call__(self, update: Vector) -> Clipped:
        """Scale the whole vector down to an l2 norm of at most `clip_norm`; see `privfl.dp.clip.Clip`."""
        return FlatClip(self.clip_norm)(update)

    def codec(self, ring: Ring) -> FixedPoint:
        """Return this round's codec: `units` per clip norm and never more, so no integer norm exceeds `units`."""
        scale = self.units / self.clip_norm
        if Fraction(scale) * Fraction(self.clip_norm) > self.units:
            scale = math.nextafter(scale, 0.0)
        return FixedPoint(scale, ring)

    def slots(self, length: int) -> tuple[Slot, Slot]:
        """The vector's blocks: an update of `length` entries in units of the clip norm, and the indicator.

        They are the same in every round, to the last bit, and with them the noise and what it costs.
        """
        return (
            Slot("update", length, float(self.units), 1.0),
            Slot(BLOCK, 1, float(self.indicator_units), 0.5),
        )

    def indicator(self, within: bool) -> int:
        """The indicator's entry, in integer units: +1/2 when the update was within the norm, else -1/2."""
        return self.indicator_units // 2 if within else -(self.indicator_units // 2)

    def next(self, noisy_sum: int, denominator: float) -> AdaptiveClip:
        """The state for the next round.

        Args:
            noisy_sum: The opened, noisy entry of the indicator's slot.
            denominator: The fixed, public number of clients that a round expects.
        """
        within = noisy_sum / self.indicator_units / denominator + 0.5
        return replace(self, clip_norm=self.clip_norm * math.exp(-self.learning_rate * (within - self.quantile)))
