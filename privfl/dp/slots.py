"""Several blocks in one vector under one noise: their bounds as a single norm bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from privfl.checks import check_count, check_positive, unwrap_numpy
from privfl.errors import ConfigError

MEAN_STDDEV: Final = 0.05
"""How well the noisy mean of a side block is known, in units of its range, unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Entries of a vector with one scale and one bound.

    Attributes:
        name: The name, such as "update".
        length: The number of entries.
        scale: The integer units of 1.0.
        bound: The maximum of the real l2 norm.
    """

    name: str
    length: int
    scale: float
    bound: float

    def __post_init__(self) -> None:
        unwrap_numpy(self, "length", "scale", "bound")
        check_count("length", self.length)
        check_positive("scale", self.scale)
        check_positive("bound", self.bound)

    @property
    def norm_bound(self) -> float:
        """l2 norm bound in integer units: scale*bound."""
        return self.scale * self.bound

    @property
    def l1_bound(self) -> float:
        """l1 norm bound in integer units: min(sqrt(length) L2, L2^2), the latter because entries are integers."""
        return min(math.sqrt(self.length) * self.norm_bound, self.norm_bound**2)

    def noise_multiplier(self, noise_stddev: float) -> float:
        """z_b = S/(s_b c_b) of this block under noise of `noise_stddev` integer units."""
        return noise_stddev / self.norm_bound


def side_bound(
    units: int, *, noise_multiplier: float, denominator: float, stddev: float = MEAN_STDDEV, blocks: int = 1
) -> int:
    """Return the integer bound h of single entries next to an update, under one noise.

    A mean of such entries, in units of their range 2h, gets noise of standard deviation `stddev` at most. It solves
    S = z sqrt(units^2 + blocks h^2) and S/(2h) = stddev*denominator together.

    Args:
        units: The norm bound of the update, in integer units.
        noise_multiplier: The standard deviation of the noise divided by the norm bound of the whole vector, z.
        denominator: The number of clients that the mean divides by.
        stddev: The standard deviation of the mean, in units of the range.
        blocks: The number of single entries.

    Raises:
        ConfigError: The cohort is too small for that.
    """
    for name, value in (
        ("noise_multiplier", noise_multiplier),
        ("denominator", denominator),
        ("stddev", stddev),
    ):
        check_positive(name, value)
    check_count("units", units)
    left = 4 * (stddev * denominator) ** 2 - blocks * noise_multiplier**2
    if left <= 0:
        least = math.sqrt(blocks) * noise_multiplier / (2 * denominator)
        raise ConfigError(
            f"a cohort of {denominator:g} cannot give a mean to {stddev:g} of its range under a noise multiplier of "
            f"{noise_multiplier:g}: allow a stddev above {least:.3g}"
        )
    return max(1, math.ceil(noise_multiplier * units / math.sqrt(left)))


def norm_bound(slots: Sequence[Slot]) -> float:
    """l2 norm bound (integer units) of one contribution, all blocks: sqrt(sum (s_b c_b)^2), so 1/z^2 = sum 1/z_b^2."""
    _check(slots)
    return math.sqrt(math.fsum(s.norm_bound**2 for s in slots))


def l1_bound(slots: Sequence[Slot]) -> float:
    """l1 norm bound (integer units) of one contribution: the blocks' bounds added, or the whole's, if smaller."""
    _check(slots)
    whole, length = norm_bound(slots), sum(s.length for s in slots)
    return min(math.fsum(s.l1_bound for s in slots), math.sqrt(length) * whole, whole**2)


def _check(slots: Sequence[Slot]) -> None:
    if not slots:
        raise ConfigError("a vector has at least one block")
    names = [s.name for s in slots]
    if len(set(names)) != len(names):
        raise ConfigError(f"block names must be distinct, not {names}")
