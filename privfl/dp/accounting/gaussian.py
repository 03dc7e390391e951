"""The Gaussian mechanism in closed form (Balle and Wang 2018, theorem 8), in logarithms, never below the truth."""

from __future__ import annotations

import math
from typing import Final

_ROOT2: Final = math.sqrt(2.0)
_SAFE: Final = 1e-9  # relative excess that covers every rounding below


def log_delta(noise_multiplier: float, epsilon: float) -> float:
    """Return ln delta(epsilon) of a Gaussian mechanism: Phi(1/(2z) - eps z) - e^eps Phi(-1/(2z) - eps z).

    Args:
        noise_multiplier: The standard deviation divided by the sensitivity, z.
        epsilon: At least 0.
    """
    z = noise_multiplier
    first = log_cdf(0.5 / z - epsilon * z)
    second = epsilon + log_cdf(-0.5 / z - epsilon * z)
    return first + math.log(-math.expm1(second - first)) if second < first else -math.inf


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Return the smallest epsilon >= 0 of a Gaussian mechanism, rounded up by at most 1e-9 of its size.

    Args:
        noise_multiplier: The standard deviation divided by the sensitivity.
        delta: In (0, 1).
    """
    wanted = math.log(delta) - 1e-9  # above the error of the logarithms at z = 10^4
    low, high = 0.0, 1.0
    if log_delta(noise_multiplier, 0.0) <= wanted:
        return 0.0
    while log_delta(noise_multiplier, high) > wanted:
        low, high = high, 2.0 * high
    while high - low > _SAFE * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if log_delta(noise_multiplier, middle) > wanted else (low, middle)
    return high


def log_cdf(x: float) -> float:
    """ln Phi(x), to about 1e-13 of its size."""
    if x > -20.0:
        return math.log1p(-0.5 * math.erfc(x / _ROOT2)) if x > 0 else math.log(0.5 * math.erfc(-x / _ROOT2))
    # Laplace's continued fraction of Mills' ratio: x < -20 needs few terms.
    tail = -x
    for n in range(60, 0, -1):
        tail = -x + n / tail
    return -0.5 * x * x - 0.5 * math.log(2.0 * math.pi) - math.log(tail)


def probability(log: float) -> float:
    """e^log as a probability, rounded up: never 0 where the logarithm is finite, and at most 1."""
    return 0.0 if log == -math.inf else min(1.0, max(math.exp(log) * (1 + 1e-9), math.ulp(0.0)))
