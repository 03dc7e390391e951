"""Searches over an expensive cost that falls: quick figures first, exact ones only near the root."""

from __future__ import annotations

import math
from collections.abc import Callable


def clearly_above(epsilon: float) -> float:
    """A coarse figure above this belongs to a fine one above `epsilon`."""
    return 1.001 * epsilon + 0.002


def min_root(cost: Callable[[int, bool], float], target: float, low: int, high: int) -> int:
    """The smallest whole number above `low`, up to `high`, whose cost is at most `target`.

    The cost falls. It is above the target at `low` and at most the target at `high`.

    cost(n, True) is quick and never below cost(n, False). Interpolation finds the quick root first. The fine figure
    there, divided by the slope, states the distance of the fine root below it. A gallop from there ends the search.

    Args:
        cost: The cost of n; the second argument asks for a quick figure, which is never below the exact one.
        target: The largest cost that is allowed.
        low: An n whose cost is above the target.
        high: An n whose cost is within it.
    """
    bad, sure, even = low, high, False
    left, right = cost(low, True), cost(high, True)
    while right <= target and high - low > max(1, abs(high) // 20_000):
        share = 0.5 if even or right <= 0 else math.log(left / target) / math.log(left / right)
        even = not even
        middle = low + min(max(round(share * (high - low)), 1), high - low - 1)
        value = cost(middle, True)
        low, left, high, right = (low, left, middle, value) if value <= target else (middle, value, high, right)
    slope = (left - right) / (high - low)
    start = high - math.floor((target - cost(high, False)) / slope) if slope > 0 else high
    return _gallop(lambda n: cost(n, False) <= target, min(max(start, bad + 1), sure), bad, sure)


def _gallop(good: Callable[[int], bool], start: int, low: int, high: int) -> int:
    """The least good n in (low, high], searched in doubling steps from `start`; `low` is not good, `high` is."""
    step = 1
    if start == high or good(start):
        high = start
        while high - step > low and good(high - step):
            high, step = high - step, 2 * step
        low = max(low, high - step)
    else:
        low = start
        while low + step < high and not good(low + step):
            low, step = low + step, 2 * step
        high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
