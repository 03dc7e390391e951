"""Integer noise judged as the Gaussian that it resembles: the two noise laws are compared once for a whole run.

*Statement.* Let M be Skellam noise of variance m >= 1024 (integer units squared), and G a Gaussian of variance m that
is rounded to integers. Let l(k) = ln M(k)/G(k), summed over the n noise coordinates of a set of releases. If (eps,
delta_G) holds for the run with Gaussian noise of the same standard deviations, then for the run with Skellam noise

    (eps + g1 + g2,  e^g1 (delta_G + t2 e^eps) + t1)   holds,   t1 >= P_M[sum l > g1],   t2 >= P_G[-sum l > g2].

*Proof.* Write the transcript as F(D, W, N). D is the data and W holds all coins (cohorts, dropouts, training). N,
independent of D and W, holds the n noise values. Inside F, releases may depend on earlier ones. For fixed W and every
event S, M^n(F^-1 S) <= e^g1 G^n(F^-1 S) + t1 and G^n(F^-1 S) <= e^g2 M^n(F^-1 S) + t2. The mean over W keeps both
bounds. So for neighbors P, Q: P_M <= e^g1 P_G + t1 <= e^g1 (e^eps Q_G + delta_G) + t1 <= e^g1 (e^eps (e^g2 Q_M + t2)
+ delta_G) + t1. W holds every client's coin, so any sampling and adjacency that the Gaussian has is covered. Rounded
Gaussian noise on integers is post-processing of Gaussian noise. A round that was skipped counts with its noise
imagined.

*Facts*, for m >= 1024 and x = k/sqrt(m), x^2 <= m/4:

    (x^4 - 7x^2 + 4)/(24 m) - (x^6/80 + .29 x^2 + .05)/m^2 <= l <= (x^4 - 7x^2 + 4)/(24 m) + (.127 x^4 + .075)/m^2.

Hence the root of the second moment of l is at most .22/m under both laws (the limit is sqrt(26)/24 = .2125). The
mean of l is at most the second moment. On all integers -l <= 3/(8m), and where |x| <= X, |l| is at most X^4/(24 m).
M/G itself is not bounded, so the sum above is cut at |x| <= X, and Bernstein's inequality bounds both sums. Binary64
rounds the variances of shares, so Skellam noise may be a relative 2^-49 off: the terms with `uneven`, which is 0 for
noise that one party draws. The discrete Gaussian keeps the same facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

NAME: Final = "comparison with Gaussian noise"
MIN_VARIANCE: Final = 1024.0
MAX_COHORT: Final = 1 << 18

_UNEVEN: Final = 2.0**-49
SHARE: Final = 2.0**-20  # what each of t1 and t2 e^eps takes of delta
_MOMENT: Final = 0.22
_PER_DRAW: Final = 2.0**-98  # a sampler is 2^-100 from its law; times the size of a cohort
_MAX_EPSILON: Final = 600.0
_UP: Final = 1 + 1e-12

Group = tuple[int, float]
"""Number of noise coordinates (count times length of a release), and their variance in integer units squared."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bounds of the distance of integer noise M from Gaussian noise G.

    Attributes:
        g1: The sum of ln(M/G) over all coordinates exceeds g1 with probability at most `SHARE` times delta.
        g2: The sum of ln(G/M) exceeds g2 with probability at most `SHARE` times delta times e^-epsilon.
        own: The part of delta that the samplers of the noise may add.
    """

    g1: float
    g2: float
    own: float


def gap(
    groups: Sequence[Group], epsilon: float, delta: float, *, shares: bool = True, cohort: int = MAX_COHORT
) -> Gap | None:
    """The distance of the noise laws for a target of about (`epsilon`, `delta`), or None where no bound is known.

    Args:
        groups: Noise coordinates and variances.
        epsilon: An epsilon of the Gaussian run that is at least the one at delta.
        delta: In (0, 1).
        shares: The noise is a sum of shares (Skellam noise), whose variances add up with rounding.
        cohort: The largest cohort.
    """
    low, high = min(m for _, m in groups), max(m for _, m in groups)
    if low < MIN_VARIANCE or epsilon > _MAX_EPSILON:
        return None
    uneven = _UNEVEN if shares else 0.0
    count = sum(n for n, _ in groups)
    second = math.fsum(n * (_MOMENT / m + uneven) ** 2 for n, m in groups)
    log_t1 = math.log(SHARE) + math.log(delta)
    log_t2 = log_t1 - epsilon
    cut = 2.1 * (math.log(4 * count) - log_t1)
    if cut > low / 4:
        return None
    b1 = cut**2 / (24 * low) + uneven * cut
    b2 = 3 / (8 * low) + 2 * uneven + 2048 * high * uneven**2
    g1 = second + math.exp(log_t1) + _bernstein(b1, math.log(2.0) - log_t1, second)
    g2 = second + _bernstein(b2, -log_t2, second)
    return Gap(g1, g2, count * _PER_DRAW * max(cohort, MAX_COHORT) * (1 + math.exp(epsilon)))


def compared_epsilon(
    gaussian: Callable[[float], float],
    groups: Sequence[Group],
    delta: float,
    *,
    shares: bool = True,
    cohort: int = MAX_COHORT,
) -> float:
    """Epsilon at `delta` of a run with integer noise, or infinity where the comparison cannot be used.

    Args:
        gaussian: Epsilon, as a function of delta, of the same run with Gaussian noise in place of all integer noise.
        groups: Noise coordinates and variances of the releases with integer noise.
        delta: In (0, 1).
        shares: The noise is a sum of shares (Skellam noise), whose variances add up with rounding.
        cohort: The largest cohort, where that is known.
    """
    if min(m for _, m in groups) < MIN_VARIANCE:
        return math.inf
    first = gaussian(delta / 2)
    found = gap(groups, first, delta, shares=shares, cohort=cohort)
    if found is None:
        return math.inf
    left = (delta * (1 - SHARE) - found.own) * math.exp(-found.g1) - delta * SHARE
    if left < delta / 2:
        return math.inf
    return (gaussian(left) + found.g1 + found.g2) * _UP


def _bernstein(bound: float, log_inverse: float, second: float) -> float:
    """The excess, of probability e^-log_inverse, of a sum of terms below `bound` with second moments `second`."""
    linear = bound * log_inverse / 3
    return linear + math.sqrt(linear**2 + 2 * second * log_inverse)
