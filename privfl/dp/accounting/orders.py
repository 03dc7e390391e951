"""From events to the two orders of the neighbors whose losses are composed.

`profiles` derives the pairs. Under replace_one with Poisson sampling the pair is (1-q) N(0) + q N(C) against
(1-q) N(0) + q N(-C). For fixed size it is (1-q) N(0) + q N(2C) against N(0) at epsilon >= 0, in both orders alike.
Truncated Poisson sampling is dp-accounting's mixture: where the cap is reached, given that the unit was sampled, it
takes the place of another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from privfl.dp.accounting import special
from privfl.dp.accounting.losses import GaussianPair, Loss
from privfl.dp.accounting.tilted import Order
from privfl.dp.unit import (
    Adjacency,
    Everyone,
    FixedSize,
    Poisson,
    PoissonBySite,
    RandomAllocation,
    Sampling,
    TruncatedPoisson,
)
from privfl.errors import UnsupportedRelease

_UP = 1 + 1e-12


def orders_of(events: Iterable[tuple[float, Sampling, int]], adjacency: Adjacency, *, group: int = 1) -> list[Order]:
    """The composition in each order of the neighbors; one where both are the same.

    Args:
        events: Noise multiplier, sampling and count of each event.
        adjacency: What neighbors are. The sensitivity of replace_one is counted here, not in the noise multipliers.
        group: How many units change together, each sampled by a coin of its own.

    Raises:
        UnsupportedRelease: A group under replace_one, fixed-size or truncated sampling.
    """
    forward: list[tuple[Loss, int]] = []
    backward: list[tuple[Loss, int]] = []
    for noise_multiplier, sampling, count in events:
        pairs = _pairs(noise_multiplier, sampling, adjacency, group)
        folded = isinstance(sampling, FixedSize)
        there = Loss(pairs, folded=folded)
        alike = folded or all(pair.symmetric for _, pair in pairs) or _shift_only(pairs)
        forward.append((there, count))
        backward.append((there if alike else Loss(pairs, swapped=True), count))
    return [forward] if forward == backward else [forward, backward]


def _shift_only(pairs: tuple[tuple[float, GaussianPair], ...]) -> bool:
    return all(pair.p == (0.0, 1.0) for _, pair in pairs)


def _pairs(
    noise_multiplier: float, sampling: Sampling, adjacency: Adjacency, group: int
) -> tuple[tuple[float, GaussianPair], ...]:
    z = noise_multiplier
    if group > 1 and (adjacency == "replace_one" or isinstance(sampling, FixedSize | TruncatedPoisson)):
        raise UnsupportedRelease(
            "the epsilon of a group is known for add_remove and zero_out, with Poisson sampling or everyone; ask for a "
            "group of 1, or use privacy.adjacency = 'add_remove' and Poisson sampling"
        )
    if isinstance(sampling, Everyone):
        distance = 2.0 if adjacency == "replace_one" else float(group)
        return ((1.0, GaussianPair(z, (0.0, distance), (0.0, 1.0), (1.0, 0.0))),)
    if isinstance(sampling, Poisson | PoissonBySite):
        if adjacency == "replace_one":
            return ((1.0, _exchange(z, sampling.probability, 1.0)),)
        return ((1.0, _mixture(z, sampling.probability, group)),)
    if isinstance(sampling, FixedSize):
        q = sampling.size / sampling.population
        return ((1.0, GaussianPair(z, (0.0, 2.0), (1.0 - q, q), (1.0, 0.0))),)
    if isinstance(sampling, RandomAllocation):
        raise UnsupportedRelease(
            "the curve of random allocation is not known here, only its epsilon: leave --profile and --tradeoff out"
        )
    return _truncated(z, sampling)


def _truncated(z: float, sampling: TruncatedPoisson) -> tuple[tuple[float, GaussianPair], ...]:
    one = _mixture(z, sampling.probability, 1)
    reached = min(_UP * float(special.bdtrc(sampling.cap - 1, sampling.population - 1, sampling.probability)), 1.0)
    if sampling.cap >= sampling.population or reached == 0.0:
        return ((1.0, one),)
    above = float(special.bdtrc(sampling.cap, sampling.population, sampling.probability))
    q = min(_UP * above * sampling.cap / reached / sampling.population, 1.0)
    if q == 0.0:
        return ((1.0, one),)
    two = _exchange(z, q, 2.0)
    return ((1.0, two),) if reached == 1.0 else ((1.0 - reached, one), (reached, two))


def _mixture(z: float, q: float, group: int) -> GaussianPair:
    """Bin(group, q) units are in, or none."""
    weights = tuple(math.comb(group, j) * q**j * (1.0 - q) ** (group - j) for j in range(group + 1))
    shifts = tuple(float(j) for j in range(group + 1))
    return GaussianPair(z, shifts, weights, (1.0, *(0.0,) * group))


def _exchange(z: float, q: float, distance: float) -> GaussianPair:
    """A unit's data against other data as far away on the other side."""
    return GaussianPair(z, (-distance, 0.0, distance), (0.0, 1.0 - q, q), (q, 1.0 - q, 0.0))
