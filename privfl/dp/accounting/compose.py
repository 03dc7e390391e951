"""Epsilon of composed events: closed forms where they exist, else privacy loss distributions.

Sampled Gaussian events are composed by tilted Fourier transforms (`tilted`), at any delta. Where those refuse,
dp-accounting's distributions take over. Their grid is refined until the next refinement would change little, and a
slack covers the rounding of the transforms. Integer noise gets the smaller of two bounds. One is the Gaussian's figure
plus the difference of the two noise laws (`comparison`), the other comes from Renyi divergences (`rdp`). All figures
are upper bounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_delta, check_positive
from privfl.dp.accounting.allocation import NAME as ALLOCATION
from privfl.dp.accounting.allocation import allocation_epsilon, check_allocation
from privfl.dp.accounting.comparison import NAME as COMPARED
from privfl.dp.accounting.comparison import Group, compared_epsilon
from privfl.dp.accounting.events import Event, Profile, gaussian_event
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.accounting.history import EVERYONE
from privfl.dp.accounting.profiles import fixed_size_delta, profile_reach
from privfl.dp.accounting.rdp import NAME as RDP
from privfl.dp.accounting.rdp import rdp_epsilon
from privfl.dp.unit import Everyone, FixedSize, Poisson, PrivacyUnit, RandomAllocation, Sampling, TruncatedPoisson
from privfl.errors import MissingExtra, UnsupportedRelease
from privfl.observers import Observer

Items = frozenset[tuple[Event, int]]

CLOSED_FORM: Final = "closed form (Balle and Wang 2018)"
TILTED: Final = "PLD (tilted Fourier transforms)"
PLD: Final = "PLD (dp-accounting, connect the dots)"

NO_GROUP: Final = (
    "the epsilon of a group is known for add_remove and zero_out only: set privacy.adjacency = 'add_remove', or ask "
    "for one unit"
)

_COARSE: Final = 4e-3
_FINE_GRID: Final = 1e-4
_CLOSE: Final = 1e-3  # stop refining here: with grids four times finer, the error left is about a fifteenth of it
_FFT_SLACK: Final = 1e-12
_FFT_SLACK_EACH: Final = 1e-15
_ORDERS: Final = (*range(2, 64), *range(64, 512, 16), 512, 1024)
_FINE: Final[dict[tuple[Items, PrivacyUnit, float, int], tuple[float, str]]] = {}
"""Figures that were computed finely: a quick question about the same releases gets these."""
_FEW_POINTS: Final = 300_000
_MAX_POINTS: Final = 2_000_000


def compose(
    profile: Mapping[Event, int],
    unit: PrivacyUnit,
    delta: float,
    *,
    observer: Observer = "outsider",
    quick: bool = False,
    group: int = 1,
) -> tuple[float, str]:
    """Epsilon of a composition of events, and the accountant's name.

    Args:
        profile: Events, and how often each.
        unit: The unit that is promised.
        delta: Probability in (0, 1) with which the promise may fail.
        observer: The observer against which epsilon is stated.
        quick: Compute on one coarse grid, an upper bound too.
        group: How many units change together.

    Raises:
        ConfigError: `delta` is out of range.
        UnsupportedRelease: No accountant here can judge an event under this adjacency or for a group, or an event
            counts on sampling against an observer who knows the cohorts.
    """
    check_delta(delta)
    for event in profile:
        if observer != "outsider" and unit.level == "client" and not isinstance(event.sampling, Everyone):
            raise UnsupportedRelease(f"the {observer} knows who took part: there is no amplification by sampling")
    check_events(profile, unit, group)
    items = frozenset(profile.items())
    asked = (items, unit, delta, group)
    if quick and asked in _FINE:
        return _FINE[asked]
    if any(isinstance(event.sampling, RandomAllocation) for event in profile):
        return _allocated(items, unit, delta, quick, group)
    judge = _gaussian if all(event.gaussian for event, _ in items) else _integer
    found = judge(items, unit, delta, quick, group)
    if not quick:
        _FINE[asked] = found
    return found


def _allocated(items: Items, unit: PrivacyUnit, delta: float, quick: bool, group: int) -> tuple[float, str]:
    """Whole blocks of one random allocation."""
    check_allocation(unit, group)
    if len(items) > 1 or not all(event.gaussian for event, _ in items):
        raise UnsupportedRelease(
            "random allocation is priced for Gaussian noise of one size, and not together with other releases: ask for "
            "the epsilon of each ledger by itself"
        )
    ((event, blocks),) = items
    if not isinstance(event.sampling, RandomAllocation):
        raise AssertionError
    return allocation_epsilon(event.noise_multiplier, event.sampling, blocks, delta, quick=quick), ALLOCATION


def _integer(items: Items, unit: PrivacyUnit, delta: float, quick: bool, group: int) -> tuple[float, str]:
    """The smaller of the comparison with Gaussian noise and the Renyi bound."""
    same, noise = likened(items)
    try:
        compared = compared_epsilon(
            lambda remaining: _gaussian(same, unit, remaining, quick, group)[0],
            noise.groups,
            delta,
            shares=noise.shares,
            cohort=noise.cohort,
        )
    except UnsupportedRelease:
        compared = math.inf
    try:
        renyi = rdp_epsilon(sorted(items, key=repr), delta, factor=unit.factor * group)
    except UnsupportedRelease as error:
        if math.isinf(compared):
            raise UnsupportedRelease(
                f"{error}; with a noise standard deviation of at least 32 integer units, and more in a long vector, it "
                "is judged by comparison with Gaussian noise: use a finer scale"
            ) from error
        renyi = math.inf
    return (compared, COMPARED) if compared < renyi else (renyi, RDP)


@lru_cache(maxsize=512)
def _gaussian(items: Items, unit: PrivacyUnit, delta: float, quick: bool, group: int) -> tuple[float, str]:
    events, inverse = combined(items)
    if len(events) == (1 if inverse else 0):
        return (
            gaussian_epsilon(1 / (math.sqrt(inverse) * unit.factor * group), delta) if inverse else 0.0
        ), CLOSED_FORM
    try:
        return _tilted(events, unit, delta, quick=quick, group=group), TILTED
    except UnsupportedRelease:
        if group > 1:
            raise
    sampled = [(event, count) for event, count in items if not isinstance(event.sampling, Everyone)]
    merged = 1 / (math.sqrt(inverse) * unit.factor) if inverse else math.inf
    return untilted(sorted(sampled, key=repr), merged, unit, delta, quick=quick), PLD


def combined(items: Items) -> tuple[list[tuple[float, Sampling, int]], float]:
    """Noise multiplier, sampling and count of each Gaussian event, and 1/z^2 of the unsampled ones, which are one."""
    sampled = sorted(((e, n) for e, n in items if not isinstance(e.sampling, Everyone)), key=repr)
    inverse = math.fsum(n * e.noise_multiplier**-2 for e, n in items if isinstance(e.sampling, Everyone))
    events = [(event.noise_multiplier, event.sampling, count) for event, count in sampled]
    if inverse:
        events.append((1 / math.sqrt(inverse), EVERYONE, 1))
    return events, inverse


@dataclass(frozen=True, slots=True)
class IntegerNoise:
    """The integer noise of a composition, for the comparison with Gaussian noise.

    Attributes:
        groups: The groups of equal looks.
        shares: Whether the noise is made of noise shares.
        cohort: The number of clients.
    """

    groups: tuple[Group, ...]
    shares: bool
    cohort: int


def likened(items: Items) -> tuple[Items, IntegerNoise]:
    """The composition with Gaussian noise in place of integer noise, and the integer noise."""
    gaussian: Counter[Event] = Counter()
    groups: list[Group] = []
    for event, count in items:
        gaussian[gaussian_event(event.noise_multiplier, event.sampling)] += count
        groups += [(count * look.length, look.variance) for look in event.looks if look.law != "rounded_gaussian"]
    shares = any(look.law == "skellam" for event, _ in items for look in event.looks)
    sizes = [getattr(event.sampling, "cap", 0) or getattr(event.sampling, "size", 0) for event, _ in items]
    return frozenset(gaussian.items()), IntegerNoise(tuple(groups), shares, max(sizes))


def untilted(
    sampled: Sequence[tuple[Event, int]], merged: float, unit: PrivacyUnit, delta: float, *, quick: bool
) -> float:
    """dp-accounting's composition, for deltas that it resolves.

    Args:
        sampled: The sampled events and how often each occurs.
        merged: The noise multiplier of all other events together; infinite where there are none.
        unit: The unit, with its adjacency.
        delta: In (0, 1).
        quick: Compute on one coarse grid.

    Raises:
        UnsupportedRelease: `delta` is too small for the rounding of its transforms.
    """
    # Powers of a transform amplify its rounding by the count: what that can hide is taken off delta.
    slack = _FFT_SLACK + _FFT_SLACK_EACH * sum(count for _, count in sampled)
    if delta < 100 * slack:
        raise UnsupportedRelease(
            f"no accountant here resolves a delta of {delta:g} for these releases: choose one above {100 * slack:g}, "
            "or a larger noise multiplier"
        )
    previous = math.inf
    for grid in _grids(sampled, merged, quick):
        epsilon = float(_on_grid(sampled, merged, unit, grid).get_epsilon_for_delta(delta - slack))
        if previous - epsilon < _CLOSE:
            return min(previous, epsilon)
        previous = min(previous, epsilon)
    return previous


def discrete_gaussian_epsilon(sigma: float, sensitivity: int, delta: float, *, count: int = 1) -> float:
    """Epsilon of discrete Gaussians of one coordinate, by their own distribution, never below the truth.

    In more dimensions other bounds hold; see `privfl.dp.accounting.rdp` and `privfl.dp.accounting.comparison`.

    Args:
        sigma: Parameter of the discrete Gaussian, in integer units.
        sensitivity: The most that one unit changes, in integer units.
        delta: Probability in (0, 1) with which the promise may fail.
        count: How many of them are released.
    """
    check_positive("sigma", sigma)
    check_count("sensitivity", sensitivity)
    check_count("count", count)
    check_delta(delta)
    pld = dp_accounting_library().pld.privacy_loss_distribution
    one = pld.from_discrete_gaussian_mechanism(sigma, sensitivity=sensitivity, value_discretization_interval=_FINE_GRID)
    return float(one.self_compose(count).get_epsilon_for_delta(delta - _FFT_SLACK))


def _on_grid(sampled: Iterable[tuple[Event, int]], merged: float, unit: PrivacyUnit, grid: float) -> Any:
    total = None
    for event, count in sampled:
        part = _distribution(event.noise_multiplier, event.sampling, unit.adjacency == "replace_one", grid)
        part = part.self_compose(count)
        total = part if total is None else total.compose(part)
    if math.isfinite(merged):
        rest = _distribution(merged, EVERYONE, False, grid)
        total = rest if total is None else rest.compose(total)
    return total


@lru_cache(maxsize=16)
def _distribution(z: float, sampling: Sampling, replace: bool, grid: float) -> Any:
    """The privacy loss distribution of one event on a grid, pessimistic."""
    pld = dp_accounting_library().pld.privacy_loss_distribution
    if isinstance(sampling, FixedSize):
        q = sampling.size / sampling.population
        return _from_profile(lambda e: fixed_size_delta(z, q, e), z, grid)
    if isinstance(sampling, TruncatedPoisson):
        return pld.from_truncated_subsampled_gaussian_mechanism(
            sampling.population, sampling.probability, sampling.cap, z, value_discretization_interval=grid
        )
    q = sampling.probability if isinstance(sampling, Poisson) else 1.0
    relation = dp_accounting_library().NeighboringRelation
    # Under replace_one: (1-q) N(0) + q N(-C) against (1-q) N(0) + q N(C); `profiles` proves that this pair dominates.
    adjacency = relation.REPLACE_ONE if replace else relation.ADD_OR_REMOVE_ONE
    return pld.from_gaussian_mechanism(
        z, sampling_prob=q, value_discretization_interval=grid, neighboring_relation=adjacency
    )


def _from_profile(delta: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], z: float, grid: float) -> Any:
    """The distribution whose hockey-stick divergence is `delta`, symmetric in the neighbors, by connecting the dots."""
    library = dp_accounting_library().pld
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
    return [grids[1]] if quick else [grid for grid in grids if 2 * max(reach) / grid <= _MAX_POINTS]


def check_events(profile: Iterable[Event], unit: PrivacyUnit, group: int) -> None:
    """Raise `UnsupportedRelease` for an event that no accountant can judge.

    Args:
        profile: The events.
        unit: The unit, with its adjacency.
        group: The number of units that change together.
    """
    if group > 1 and unit.adjacency == "replace_one":
        raise UnsupportedRelease(NO_GROUP)
    for event in profile:
        _check_event(event, unit)


def _check_event(event: Event, unit: PrivacyUnit) -> None:
    if isinstance(event.sampling, FixedSize) and unit.adjacency == "add_remove":
        raise UnsupportedRelease(
            "a cohort of fixed size out of a known population has no add_remove guarantee: one unit more would change "
            "the draw of all others; use replace_one or zero_out"
        )
    if isinstance(event.sampling, TruncatedPoisson) and unit.adjacency == "replace_one":
        raise UnsupportedRelease("truncated Poisson sampling is judged under add_remove and zero_out only")


def cross_figures(profile: Profile, unit: PrivacyUnit, delta: float) -> Mapping[str, float]:
    """Return Renyi figures: of the integer noise, or dp-accounting's, which cannot be trusted under replace_one.

    Args:
        profile: The events, and how often each occurs.
        unit: The unit, with its adjacency.
        delta: In (0, 1).
    """
    if unit.adjacency == "replace_one" or not profile:
        return {}
    if any(isinstance(e.sampling, FixedSize | TruncatedPoisson | RandomAllocation) for e in profile):
        return {}
    if not all(event.gaussian for event in profile):
        return {RDP: rdp_epsilon(sorted(profile.items(), key=repr), delta, factor=unit.factor)}
    library = dp_accounting_library()
    accountant = library.rdp.RdpAccountant(_ORDERS)
    for event, count in profile.items():
        one = library.GaussianDpEvent(event.noise_multiplier)
        if isinstance(event.sampling, Poisson):
            one = library.PoissonSampledDpEvent(event.sampling.probability, one)
        accountant.compose(one, count)
    return {"RDP (dp-accounting)": float(accountant.get_epsilon(delta))}


def _tilted(
    events: list[tuple[float, Sampling, int]], unit: PrivacyUnit, delta: float, *, quick: bool, group: int
) -> float:
    from privfl.dp.accounting.orders import orders_of
    from privfl.dp.accounting.tilted import tilted_epsilon

    return tilted_epsilon(orders_of(events, unit.adjacency, group=group), delta, quick=quick)


def dp_accounting_library() -> Any:
    """Return the package `dp_accounting`; raises `MissingExtra` without it."""
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.pld.pld_pmf
        import dp_accounting.rdp
    except ImportError as error:
        raise MissingExtra("dp_accounting", "dp") from error
    return dp_accounting
