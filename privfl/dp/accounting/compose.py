"""Epsilon of composed events: privacy loss distributions of dp-accounting, and closed forms where they exist.

The only module that imports dp_accounting, and only when a sampled event has to be composed. What it computes is an
upper bound: discretized losses are pessimistic (Doroshenko et al. 2022, "Connect the dots"), the grid is refined until
the next refinement would change little, and a slack for the rounding of the Fourier transforms is taken off delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_delta, check_positive
from privfl.dp.accounting.events import Event, Profile
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.accounting.history import EVERYONE
from privfl.dp.accounting.profiles import fixed_size_delta, profile_reach
from privfl.dp.accounting.rdp import NAME as RDP
from privfl.dp.accounting.rdp import rdp_epsilon
from privfl.dp.unit import Everyone, FixedSize, Poisson, PrivacyUnit, Sampling, TruncatedPoisson
from privfl.errors import MissingExtra, UnsupportedRelease
from privfl.observers import Observer

CLOSED_FORM: Final = "closed form (Balle and Wang 2018)"
PLD: Final = "PLD (dp-accounting, connect the dots)"

_COARSE: Final = 4e-3
_FINE_GRID: Final = 1e-4
_CLOSE: Final = 1e-3  # stop refining here: with grids four times finer, the error left is about a fifteenth of it
_FFT_SLACK: Final = 1e-12
_FFT_SLACK_EACH: Final = 1e-15
_ORDERS: Final = (*range(2, 64), *range(64, 512, 16), 512, 1024)
_FINE: Final[dict[tuple[frozenset[tuple[Event, int]], PrivacyUnit, float], tuple[float, str]]] = {}
"""Figures that were computed finely: a quick question about the same releases gets these."""
_FEW_POINTS: Final = 300_000
_MOST_POINTS: Final = 2_000_000


def compose(
    profile: Mapping[Event, int],
    unit: PrivacyUnit,
    delta: float,
    *,
    observer: Observer = "outsider",
    quick: bool = False,
) -> tuple[float, str]:
    """Epsilon at `delta` of a composition of events under `unit`, and the accountant's name.

    Raises `UnsupportedRelease` for an event that no accountant here can judge under this adjacency, and for
    amplification by sampling against an observer who knows the cohorts.
    """
    check_delta(delta)
    for event in profile:
        if observer != "outsider" and not isinstance(event.sampling, Everyone):
            raise UnsupportedRelease(f"the {observer} knows who took part: there is no amplification by sampling")
        _check_event(event, unit)
    items = frozenset(profile.items())
    if quick and (items, unit, delta) in _FINE:
        return _FINE[items, unit, delta]
    found = _compose(items, unit, delta, quick)
    if not quick:
        _FINE[items, unit, delta] = found
    return found


@lru_cache(maxsize=512)
def _compose(items: frozenset[tuple[Event, int]], unit: PrivacyUnit, delta: float, quick: bool) -> tuple[float, str]:
    if not all(event.gaussian for event, _ in items):
        return rdp_epsilon(sorted(items, key=repr), delta, factor=unit.factor), RDP
    whole = [(event, count) for event, count in items if isinstance(event.sampling, Everyone)]
    sampled = sorted(((e, n) for e, n in items if not isinstance(e.sampling, Everyone)), key=repr)
    # All unsampled Gaussian releases together are one: 1/z^2 adds up.
    inverse = math.fsum(count * event.noise_multiplier**-2 for event, count in whole)
    merged = unit.factor**-1 / math.sqrt(inverse) if inverse else math.inf
    if not sampled:
        return (gaussian_epsilon(merged, delta) if inverse else 0.0), CLOSED_FORM
    # Powers of a transform amplify its rounding by the count: what that can hide is taken off delta.
    slack = _FFT_SLACK + _FFT_SLACK_EACH * sum(count for _, count in sampled)
    if delta < 100 * slack:
        raise UnsupportedRelease(f"the PLD accountant does not resolve a delta of {delta:g}, below {100 * slack:g}")
    previous = math.inf
    for grid in _grids(sampled, merged, quick):
        epsilon = _on_grid(sampled, merged, unit, grid).get_epsilon_for_delta(delta - slack)
        if previous - epsilon < _CLOSE:
            return float(min(previous, epsilon)), PLD
        previous = min(previous, float(epsilon))
    return previous, PLD


def discrete_gaussian_epsilon(sigma: float, sensitivity: int, delta: float, *, count: int = 1) -> float:
    """Epsilon of `count` discrete Gaussians of one coordinate, integer `sensitivity`, by their own distribution.

    Never below the truth. In more dimensions only the Renyi bound holds; see `privfl.dp.accounting.rdp`.
    """
    check_positive("sigma", sigma)
    check_count("sensitivity", sensitivity)
    check_count("count", count)
    check_delta(delta)
    pld = _library().pld.privacy_loss_distribution
    one = pld.from_discrete_gaussian_mechanism(sigma, sensitivity=sensitivity, value_discretization_interval=_FINE_GRID)
    return float(one.self_compose(count).get_epsilon_for_delta(delta - _FFT_SLACK))


def _on_grid(sampled: Iterable[tuple[Event, int]], merged: float, unit: PrivacyUnit, grid: float) -> Any:
    total = None
    for event, count in sampled:
        part = _distribution(event.noise_multiplier, event.sampling, unit.adjacency == "replace_one", grid)
        part = part.self_compose(count)
        total = part if total is None else total.compose(part)
    if math.isfinite(merged):
        total = _distribution(merged, EVERYONE, False, grid).compose(total)
    return total


@lru_cache(maxsize=16)
def _distribution(z: float, sampling: Sampling, replace: bool, grid: float) -> Any:
    """The privacy loss distribution of one event on a grid, pessimistic."""
    pld = _library().pld.privacy_loss_distribution
    if isinstance(sampling, FixedSize):
        q = sampling.size / sampling.population
        return _from_profile(lambda e: fixed_size_delta(z, q, e), z, grid)
    if isinstance(sampling, TruncatedPoisson):
        return pld.from_truncated_subsampled_gaussian_mechanism(
            sampling.population, sampling.probability, sampling.cap, z, value_discretization_interval=grid
        )
    q = sampling.probability if isinstance(sampling, Poisson) else 1.0
    relation = _library().NeighboringRelation
    # Under replace_one: (1-q) N(0) + q N(-C) against (1-q) N(0) + q N(C); `profiles` proves that this pair dominates.
    adjacency = relation.REPLACE_ONE if replace else relation.ADD_OR_REMOVE_ONE
    return pld.from_gaussian_mechanism(
        z, sampling_prob=q, value_discretization_interval=grid, neighboring_relation=adjacency
    )


def _from_profile(delta: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], z: float, grid: float) -> Any:
    """The distribution whose hockey-stick divergence is `delta`, symmetric in the neighbors, by connecting the dots."""
    library = _library().pld
    top = math.ceil(profile_reach(z) / grid)
    epsilons = np.arange(0, top + 1) * grid
    upper = np.minimum.accumulate(np.clip(delta(epsilons.astype(np.float64)), 0.0, 1.0))
    # delta(-e) = 1 - e^-e (1 - delta(e)) for a pair that is dominated in both orders alike.
    lower = 1.0 - np.exp(-epsilons[:0:-1]) * (1.0 - upper[:0:-1])
    pmf = library.pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(
        grid, -top, top, np.minimum.accumulate(np.concatenate([lower, upper]))
    )
    return library.privacy_loss_distribution.PrivacyLossDistribution(pmf)


def _grids(sampled: Iterable[tuple[Event, int]], merged: float, quick: bool) -> list[float]:
    """Discretizations to try, each four times finer than the one before, from coarse and cheap to fine and slow.

    Little noise spreads the losses over thousands, where a coarser grid is as good for all purposes.
    """
    reach = [
        profile_reach(e.noise_multiplier / (2 if isinstance(e.sampling, TruncatedPoisson) else 1)) for e, _ in sampled
    ]
    reach.append(profile_reach(merged) if math.isfinite(merged) else 0.0)
    first = _COARSE
    while 2 * max(reach) / first > _FEW_POINTS:
        first *= 4
    grids = [first / 4**i for i in range(4)]
    return [grids[1]] if quick else [grid for grid in grids if 2 * max(reach) / grid <= _MOST_POINTS]


def _check_event(event: Event, unit: PrivacyUnit) -> None:
    if isinstance(event.sampling, FixedSize) and unit.adjacency == "add_remove":
        raise UnsupportedRelease(
            "a cohort of fixed size out of a known population has no add_remove guarantee: one unit more would change "
            "the draw of all others; use replace_one or zero_out"
        )
    if isinstance(event.sampling, TruncatedPoisson) and unit.adjacency == "replace_one":
        raise UnsupportedRelease("truncated Poisson sampling is judged under add_remove and zero_out only")


def cross_figures(profile: Profile, unit: PrivacyUnit, delta: float) -> Mapping[str, float]:
    """RDP's figure where dp-accounting's RDP accountant can be trusted: never under replace_one."""
    if unit.adjacency == "replace_one" or not profile:
        return {}
    if any(isinstance(e.sampling, FixedSize | TruncatedPoisson) or not e.gaussian for e in profile):
        return {}
    library = _library()
    accountant = library.rdp.RdpAccountant(_ORDERS)
    for event, count in profile.items():
        one = library.GaussianDpEvent(event.noise_multiplier)
        if isinstance(event.sampling, Poisson):
            one = library.PoissonSampledDpEvent(event.sampling.probability, one)
        accountant.compose(one, count)
    return {"RDP (dp-accounting)": float(accountant.get_epsilon(delta))}


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.pld.pld_pmf
        import dp_accounting.rdp
    except ImportError as error:
        raise MissingExtra("dp_accounting", "dp") from error
    return dp_accounting
