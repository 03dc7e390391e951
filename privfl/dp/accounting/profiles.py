"""Hockey-stick divergences of subsampled Gaussian mechanisms that dp-accounting has not, as functions of epsilon.

What it has, it does not always prove. Under replace_one with Poisson sampling it composes the pair
(1-q) N(0) + q N(-C) against (1-q) N(0) + q N(C), all of standard deviation s. That pair dominates in any dimension.
Given the others' draws the outputs are P = (1-q) N(0) + q N(x) and Q = (1-q) N(0) + q N(y) with |x|, |y| <= C, and
for a = e^eps >= 1

    H_eps(P || Q) = q E[(1 - c1 e^U - c0 e^V)_+],   c1 = a, c0 = (a-1)(1-q)/q,

Here U is the logarithm of N(y)/N(x) and V that of N(0)/N(x). Under N(x) both are Gaussians of mean -variance/2. The
covariances are Var U = |y-x|^2/s^2 <= 4C^2/s^2, Var V = |x|^2/s^2 <= C^2/s^2, and
Cov(U, V) = (|x|^2 - <x, y>)/s^2 <= 2C^2/s^2. The function is convex in c1 e^U + c0 e^V. So larger covariances give a
larger expectation by Kahane's convexity inequality (Kahane 1985, "Sur le chaos multiplicatif"). At y = -x, |x| = C,
all three are largest. Negative epsilons follow because neighbors can be exchanged.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.dp.accounting.gaussian import log_cdf

Floats = npt.NDArray[np.float64]

_TAIL: Final = 10.5  # standard deviations, which a Gaussian leaves with probability below e^-57
_UP: Final = 1e-13  # what the rounding of one divergence may amount to


def profile_reach(noise_multiplier: float) -> float:
    """An epsilon above which a replace-one Gaussian release (distance 2/z) has a divergence below 1e-24."""
    distance = 2.0 / noise_multiplier
    return 0.5 * distance * distance + _TAIL * distance


def gaussian_delta(distance: float, epsilon: Floats) -> Floats:
    """delta(eps) of N(0, 1) against N(distance, 1), for eps >= 0, rounded up by less than 1e-13.

    Args:
        distance: Distance of the means in standard deviations, positive.
        epsilon: The epsilons, each at least 0.
    """
    a, b = 0.5 * distance - epsilon / distance, -0.5 * distance - epsilon / distance
    first = np.array([log_cdf(x) for x in a])
    second = epsilon + np.array([log_cdf(x) for x in b])
    with np.errstate(under="ignore"):
        value = np.exp(first) * -np.expm1(np.minimum(second - first, 0.0))
        raised: Floats = np.minimum(value * (1 + 1e-12) + np.minimum(_UP, np.exp(first)), 1.0)
    return raised


def fixed_size_delta(noise_multiplier: float, q: float, epsilon: Floats) -> Floats:
    """delta(eps), eps >= 0, of Gaussian noise on a cohort sampled without replacement, under replace_one.

    Let P1 and P1' be the outputs given that the unit, or its replacement, was sampled, and P0 those given that it was
    not. The outputs are then (1-q) P0 + q P1 and (1-q) P0 + q P1'. Advanced joint convexity (Balle, Barthe and
    Gaboardi 2018, theorem 2) gives H_eps = q H_e1(P1 || (1-b) P0 + b P1') with e^e1 = 1 + (e^eps - 1)/q and
    b = e^(eps-e1). Exchanging the unit for a random one outside the cohort couples P1 with P0. So both P0 and P1' are
    at a distance of at most 2 C from P1, and by convexity H_eps <= q H_e1(N(2C, s^2) || N(0, s^2)). That is the pair
    of Zhu, Dong and Wang (2022, theorem 11), (1-q) N(0) + q N(2C) against N(0). Neighbors can be exchanged, so
    negative epsilons follow from delta(-e) = 1 - e^-e (1 - delta(e)).

    Args:
        noise_multiplier: Noise standard deviation divided by the norm bound (s/C), positive.
        q: Probability in (0, 1] that one unit is sampled.
        epsilon: The epsilons, each at least 0.
    """
    return q * gaussian_delta(2.0 / noise_multiplier, _amplified(q, epsilon))


def _amplified(q: float, epsilon: Floats) -> Floats:
    """ln(1 + (e^eps - 1)/q), without overflow."""
    inner: Floats = epsilon - math.log(q) + np.log1p(-(1.0 - q) * np.exp(-epsilon))
    return np.maximum(inner, 0.0)
