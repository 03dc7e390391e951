"""Several blocks in one vector under one noise: their bounds as a single norm bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from privfl.dp.unit import check_count, check_positive
from privfl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` entries of a vector, encoded at `scale` units per 1.0, whose real l2 norm is at most `bound`."""

    name: str
    length: int
    scale: float
    bound: float

    def __post_init__(self) -> None:
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


def norm_bound(segments: Sequence[Segment]) -> float:
    """l2 norm bound (integer units) of one contribution, all blocks: sqrt(sum (s_b c_b)^2), so 1/z^2 = sum 1/z_b^2."""
    _check(segments)
    return math.sqrt(math.fsum(s.norm_bound**2 for s in segments))


def l1_bound(segments: Sequence[Segment]) -> float:
    """l1 norm bound (integer units) of one contribution: the blocks' bounds added, or the whole's, if smaller."""
    _check(segments)
    whole, length = norm_bound(segments), sum(s.length for s in segments)
    return min(math.fsum(s.l1_bound for s in segments), math.sqrt(length) * whole, whole**2)


def _check(segments: Sequence[Segment]) -> None:
    if not segments:
        raise ConfigError("a vector has at least one block")
    names = [s.name for s in segments]
    if len(set(names)) != len(names):
        raise ConfigError(f"block names must be distinct, not {names}")
