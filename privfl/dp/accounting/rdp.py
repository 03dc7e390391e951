"""Renyi accounting, for the integer mechanisms that have no privacy loss distribution in high dimension.

One release. Let |x|_1 <= L1 and |x|_2 <= L2 for a contribution x, and let m be the variance of the Skellam noise.
Agarwal, Kairouz and Liu (2021, corollary 3.6) bound the Renyi divergence of integer order a > 1 by

    R(a) = a L2^2/(2m) + min(((2a-1) L2^2 + 6 L1)/(4 m^2), 3 L1/(2m)).

The first term is the Gaussian's; a vector of integers has L1 <= min(sqrt(d) L2, L2^2).

For the discrete Gaussian of parameter s, Canonne, Kamath and Steinke (2020, theorem 4 and proposition 5) bound it by
a L2^2/(2 s^2), the Gaussian's own figure, coordinates adding up. (Its hockey-stick divergence is not bounded by the
Gaussian's: at z = 1 and delta 1e-5 the true epsilon is 4.4079 for s = 2, where the Gaussian's is 4.3772.)

Poisson sampling with probability q, for outsiders, under add_remove or zero_out. The full derivation is in
protocols/privacy-ledger, section 9, with its condition on the noise. The law of the noise must not depend on the
cohort, so nothing but the shift reveals whether a client was sampled. Let Q be the noise and Q' the noise shifted by
x. (1) exp((a-1) D_a) is jointly convex, so the random choice of the others costs nothing. (2) Writing out the a-th
power, E_Q[((1-q) + q Q'/Q)^a] = sum_k C(a,k) (1-q)^(a-k) q^k E_Q[(Q'/Q)^k], and E_Q[(Q'/Q)^k] <= exp((k-1) R(k)) for
k >= 2 (1 for k = 0, 1). (3) That is the direction "present against absent". The reflection v(y) = x - y maps the
integers to themselves and is its own inverse. It exchanges Q and Q' because Q is symmetric. Theorem 5 of Mironov,
Talwar and Zhang (2019) then states that "absent against present" is no larger. No constant is lost against the
sampled Gaussian: the excess over it is R's second term.

Conversion to (epsilon, delta): proposition 12 of Canonne, Kamath and Steinke (2020). A privacy loss distribution would
avoid this step, which costs the 10 to 15 % by which these figures exceed a Gaussian's. A tighter figure would need a
pair that dominates all integer shifts of given norms in d dimensions at once, and none is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.dp.accounting.events import Event, Look
from privfl.dp.unit import Everyone, Poisson
from privfl.errors import UnsupportedRelease

NAME: Final = "RDP of the integer mechanism (Agarwal et al. 2021)"

_ORDERS: Final = tuple(sorted({*range(2, 65), *(round(64 * 1.08**i) for i in range(46))}))
_UP: Final = 1 + 1e-12


def renyi(look: Look, order: int, factor: int) -> float:
    """Renyi divergence bound of one look.

    Args:
        look: The noise of the look, with its bounds.
        order: Order of the divergence, an integer above 1.
        factor: Sensitivity divided by the norm bound, at least 1.
    """
    z = look.noise_multiplier / factor
    gaussian = order / (2.0 * z * z)
    if look.law != "skellam":  # the discrete Gaussian's divergence is at most the Gaussian's, see above
        return gaussian
    l1, l2 = look.l1_bound * factor, look.norm_bound * factor
    variance = (z * l2) ** 2
    excess = min(((2 * order - 1) * l2 * l2 + 6 * l1) / (4 * variance * variance), 1.5 * l1 / variance)
    return gaussian + excess


def rdp_epsilon(events: Iterable[tuple[Event, int]], delta: float, *, factor: int) -> float:
    """The least epsilon over all integer orders for a composition of events, never below the truth.

    Args:
        events: The events, each with its count.
        delta: Probability in (0, 1) with which the promise may fail.
        factor: Sensitivity divided by the norm bound, at least 1.

    Raises:
        UnsupportedRelease: An event is sampled other than by Poisson sampling, or with a `factor` that is not 1.
    """
    total, orders = _total(events, factor), np.array(_ORDERS, np.float64)
    epsilons = total + np.log1p(-1.0 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1.0)
    return max(0.0, float(np.min(epsilons * _UP + 1e-12)))


def rdp_log_delta(events: Iterable[tuple[Event, int]], factor: int) -> Callable[[float], float]:
    """ln of the least delta over all integer orders, as a function of epsilon, never below the truth.

    Args:
        events: The events, each with its count.
        factor: Sensitivity divided by the norm bound, at least 1.

    Raises:
        UnsupportedRelease: An event is sampled other than by Poisson sampling, or with a `factor` that is not 1.
    """
    total, orders = _total(events, factor), np.array(_ORDERS, np.float64)
    curve = (total + np.log1p(-1.0 / orders)) * _UP + 1e-12
    return lambda epsilon: min(0.0, float(np.min((orders - 1.0) * (curve - epsilon) - np.log(orders))))


def _total(events: Iterable[tuple[Event, int]], factor: int) -> npt.NDArray[np.float64]:
    total = np.zeros(len(_ORDERS))
    for event, count in events:
        total += count * _curve(event, factor)
    return total


@lru_cache(maxsize=256)  # the rounds of a run mostly have one kind of event, and each of them asks
def _curve(event: Event, factor: int) -> npt.NDArray[np.float64]:
    """Divergence bounds of one event at all orders; nobody may change the array."""
    top = _ORDERS[-1]
    one = np.array([0.0, 0.0, *(math.fsum(renyi(n, a, factor) for n in event.looks) for a in range(2, top + 1))])
    if isinstance(event.sampling, Everyone):
        return one[list(_ORDERS)]
    if not isinstance(event.sampling, Poisson):
        raise UnsupportedRelease(
            f"integer noise is judged under Poisson sampling only, not: {event.sampling.describe()}"
        )
    if factor != 1:
        raise UnsupportedRelease("sampled integer noise is judged under add_remove and zero_out only")
    q = event.sampling.probability
    if q == 1.0:
        return one[list(_ORDERS)]
    k = np.arange(top + 1)
    log_factorial = np.array([math.lgamma(n + 1.0) for n in range(top + 1)])
    powers = k * math.log(q) + np.maximum(k - 1, 0) * one
    values = []
    for a in _ORDERS:
        terms = log_factorial[a] - log_factorial[: a + 1] - log_factorial[a::-1]
        terms = terms + powers[: a + 1] + (a - k[: a + 1]) * math.log1p(-q)
        largest = float(terms.max())
        values.append((largest + math.log(float(np.exp(terms - largest).sum()))) / (a - 1) * _UP)
    return np.array(values)
