"""Cumulants of composed losses, the saddle point, and searches for roots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from privfl.dp.accounting import special
from privfl.dp.accounting.losses import Floats

Nodes = Iterable[tuple[Floats, Floats, int]]
"""Losses, logarithms of their weights, and how often each event is composed."""


@dataclass(frozen=True, slots=True)
class LossMoments:
    """The cumulant generating function of the composed losses at a tilt, and the first two moments under it.

    Attributes:
        log: The function's value, the logarithm of the mean of e^(tilt * loss).
        mean: The mean of the losses under the tilt.
        variance: The variance of the losses under the tilt.
        stddevs: The standard deviation of each event's loss.
    """

    log: float
    mean: float
    variance: float
    stddevs: tuple[float, ...] = ()

    @property
    def stddev(self) -> float:
        """The standard deviation of the sum of the losses under the tilt."""
        return math.sqrt(self.variance)

    @property
    def scale(self) -> float:
        """The standard deviation, or a millionth of the mean for a loss that has one value only."""
        return self.stddev or 1e-6 * max(1.0, abs(self.mean))


def moments_of(nodes: Nodes, tilt: float) -> LossMoments:
    """Return the moments of the composed losses under a tilt.

    Args:
        nodes: The losses of each event, their weights and how often it is composed.
        tilt: The factor lambda of the weights e^(lambda l).
    """
    log = mean = variance = 0.0
    stddevs = []
    for losses, weights, count in nodes:
        exponents = weights + tilt * losses
        top = float(exponents.max())
        shares = np.exp(exponents - top)
        total = float(shares.sum())
        center = float(np.dot(shares, losses)) / total
        spread = float(np.dot(shares, (losses - center) ** 2)) / total
        log += count * (top + math.log(total))
        mean += count * center
        variance += count * spread
        stddevs.append(math.sqrt(spread))
    return LossMoments(log, mean, variance, tuple(stddevs))


def log_estimate(moments: LossMoments, tilt: float, epsilon: float) -> float:
    """Return ln delta at `epsilon` as if the tilted sum were Gaussian.

    Args:
        moments: The moments under the tilt.
        tilt: The factor lambda.
        epsilon: At least 0.
    """
    stddev, m = max(moments.stddev, 1e-300), moments.mean - epsilon

    def log_part(power: float) -> float:
        tail = float(special.log_ndtr((m - power * stddev**2) / stddev))
        return -power * m + 0.5 * power**2 * stddev**2 + tail

    first, second = log_part(tilt), log_part(tilt + 1.0)
    if second >= first:
        return -math.inf
    return moments.log - tilt * epsilon + first + math.log(-math.expm1(second - first))


def first_power(low_side: Callable[[float], bool], scale: float) -> float:
    """Return the smallest power of two times `scale`, roughly, where `low_side` does not hold any more, up to 2^30
    times it.

    Args:
        low_side: A condition that holds below some point.
        scale: Positive.
    """
    high = scale
    while low_side(high) and high < 2.0**30 * scale:
        high *= 2.0
    return bisect(low_side, 0.0, high, steps=16)


def bisect(low_side: Callable[[float], bool], low: float, high: float, *, steps: int = 60) -> float:
    """Return a point at the end of the part of [low, high] where `low_side` holds.

    Args:
        low_side: A condition that holds below some point.
        low: The start of the interval.
        high: Its end.
        steps: The number of bisections.
    """
    for _ in range(steps):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if low_side(middle) else (low, middle)
        if high - low <= 1e-10 * high:
            break
    return high


def root(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a falling function between `low` and `high`, from above, to 1e-9 of itself (Illinois).

    Args:
        excess: The function.
        low: Where it is at least 0.
        high: Where it is at most 0.
    """
    left, right = excess(low), excess(high)
    last = 0
    while high - low > 1e-9 * high:
        share = left / (left - right) if math.isfinite(right) and left > right else 0.5
        tiny = 0.25e-9 * high / (high - low)
        middle = low + min(max(share, tiny), 1 - tiny) * (high - low)
        if not low < middle < high:
            break
        value = excess(middle)
        if value > 0:
            low, left = middle, value
            right = 0.5 * right if last > 0 else right
            last = 1
        else:
            high, right = middle, value
            left = 0.5 * left if last < 0 else left
            last = -1
    return high
