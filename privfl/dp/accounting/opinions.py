"""The same releases judged by every accountant there is, with the time that each one takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from privfl.dp.accounting.accountant import Accountant, Judgment, Ledgers
from privfl.dp.accounting.comparison import NAME as COMPARED
from privfl.dp.accounting.comparison import compared_epsilon
from privfl.dp.accounting.compose import (
    CLOSED_FORM,
    PLD,
    TILTED,
    combined,
    compose,
    cross_figures,
    dp_accounting_library,
    likened,
    untilted,
)
from privfl.dp.accounting.events import Profile
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.dp.accounting.history import History
from privfl.dp.accounting.report import json_figure
from privfl.dp.unit import Everyone, Poisson, PrivacyUnit, RandomAllocation, Sampling
from privfl.errors import ConfigError, MissingExtra, UnsupportedRelease
from privfl.observers import Observer

Bound = Literal["upper bound", "lower bound", "limit, no bound"]
GaussianEvents = list[tuple[float, Sampling, int]]
"""Noise multiplier, sampling and count of each Gaussian event."""
Bounds = Callable[[GaussianEvents, PrivacyUnit, float], tuple[float, float]]
"""Another accountant: the lower and the upper bound of epsilon for events under a unit at a delta."""

RENYI: Final = "Renyi"
UNSAMPLED: Final = f"{CLOSED_FORM}, sampling not counted"
GDP: Final = "Gaussian DP, central limit (Bu et al. 2020)"


@dataclass(frozen=True, slots=True)
class Opinion:
    """The figure of one accountant.

    Attributes:
        accountant: The name of the accountant.
        bound: The side on which the figure lies, or that it is no bound at all.
        epsilon: The figure; None where the accountant does not apply.
        seconds: The time that it took.
        note: The reason why there is no figure; empty where there is one.
    """

    accountant: str
    bound: Bound
    epsilon: float | None
    seconds: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The opinion for `--json`."""
        return {
            "accountant": self.accountant,
            "bound": self.bound,
            "epsilon": None if self.epsilon is None else json_figure(self.epsilon),
            "seconds": round(self.seconds, 4),
            "note": self.note,
        }


def opinions(
    ledgers: Ledgers,
    delta: float,
    *,
    observer: Observer = "outsider",
    assume_secure_noise: bool = False,
    others: Mapping[str, Bounds] | None = None,
) -> list[Opinion]:
    """The figures of all accountants for the same releases, the same unit and the same rest of delta.

    Nothing is taken from a cache, so the seconds are those of the computation.

    Args:
        ledgers: One ledger, or several of one unit that are judged together.
        delta: Probability in (0, 1) with which the promise may fail.
        observer: The observer against which the promise holds.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure.
        others: Accountants of other packages, by name.

    Raises:
        ConfigError: `delta` or `observer` is out of range.
        UnsupportedRelease: No accountant here can judge a release.
    """
    dp_accounting_library()  # whose import is not the time of an accountant
    accountant = Accountant(delta, observer=observer, assume_secure_noise=assume_secure_noise)
    judgment = accountant.judge(History.of(ledgers), quick=True)
    if judgment.profile is None:
        return [Opinion("all", "upper bound", judgment.epsilon, 0.0, judgment.reason)]
    if any(isinstance(event.sampling, RandomAllocation) for event in judgment.profile):
        return [_opinion(judgment.accountant, lambda: judgment.epsilon)]
    if all(event.gaussian for event in judgment.profile):
        return _of_gaussian(judgment, others or {})
    return _of_integers(judgment)


def _of_gaussian(judgment: Judgment, others: Mapping[str, Bounds]) -> list[Opinion]:
    profile, unit, delta = _events(judgment), judgment.unit, judgment.delta
    items = frozenset(profile.items())
    events, inverse = combined(items)
    if not events:
        return [Opinion(CLOSED_FORM, "upper bound", 0.0, 0.0)]
    sampled = any(not isinstance(sampling, Everyone) for _, sampling, _ in events)
    merged = 1 / (math.sqrt(inverse) * unit.factor) if inverse else math.inf
    rest = sorted(((e, n) for e, n in items if not isinstance(e.sampling, Everyone)), key=repr)
    found = [
        _opinion(TILTED, lambda: _tilted(events, unit, delta)),
        _opinion(PLD, lambda: untilted(rest, merged, unit, delta, quick=False)),
        _opinion(RENYI, lambda: _renyi(judgment)),
        _opinion(UNSAMPLED if sampled else CLOSED_FORM, lambda: _closed(events, unit, delta)),
    ]
    for name, bounds in others.items():
        found += _both(name, lambda bounds=bounds: bounds(events, unit, delta))  # type: ignore[misc]
    return [*found, _opinion(GDP, lambda: _limit(events, unit, delta), "limit, no bound")]


def _of_integers(judgment: Judgment) -> list[Opinion]:
    profile, unit, delta = _events(judgment), judgment.unit, judgment.delta
    same, noise = likened(frozenset(profile.items()))

    def compared() -> float:
        gaussian = dict(same)
        figure = compared_epsilon(
            lambda rest: compose(gaussian, unit, rest, observer="outsider")[0],
            noise.groups,
            delta,
            shares=noise.shares,
            cohort=noise.cohort,
        )
        if math.isinf(figure):
            raise UnsupportedRelease("the noise is too small, in integer units, to be compared with Gaussian noise")
        return figure

    return [_opinion(COMPARED, compared), _opinion(RENYI, lambda: _renyi(judgment))]


def _events(judgment: Judgment) -> Profile:
    return Counter() if judgment.profile is None else judgment.profile


def _opinion(name: str, figure: Callable[[], float], bound: Bound = "upper bound") -> Opinion:
    started = time.perf_counter()
    try:
        value: float | None = figure()
        note = ""
    except (UnsupportedRelease, ConfigError, MissingExtra) as error:
        value, note = None, str(error)
    return Opinion(name, bound, value, time.perf_counter() - started, note)


def _both(name: str, bounds: Callable[[], tuple[float, float]]) -> list[Opinion]:
    started = time.perf_counter()
    try:
        lower, upper = bounds()
    except (UnsupportedRelease, ConfigError, MissingExtra) as error:
        return [Opinion(name, "upper bound", None, time.perf_counter() - started, str(error))]
    seconds = time.perf_counter() - started
    return [Opinion(name, "lower bound", lower, seconds), Opinion(name, "upper bound", upper, seconds)]


def _tilted(events: GaussianEvents, unit: PrivacyUnit, delta: float) -> float:
    from privfl.dp.accounting.orders import orders_of
    from privfl.dp.accounting.tilted import tilted_epsilon

    return tilted_epsilon(orders_of(events, unit.adjacency), delta)


def _renyi(judgment: Judgment) -> float:
    figures = cross_figures(_events(judgment), judgment.unit, judgment.delta)
    if not figures:
        raise UnsupportedRelease("no Renyi bound is known for this sampling and adjacency")
    return next(iter(figures.values()))


def _closed(events: GaussianEvents, unit: PrivacyUnit, delta: float) -> float:
    """The figure of a unit that is in every release, which sampling only lowers."""
    inverse = math.fsum(count / z**2 for z, _, count in events)
    return gaussian_epsilon(1 / (math.sqrt(inverse) * unit.factor), delta)


def _limit(events: GaussianEvents, unit: PrivacyUnit, delta: float) -> float:
    """mu^2 = sum of n q^2 (exp(1/z^2) - 1), and n/z^2 where q = 1, which is exact."""
    if unit.adjacency == "replace_one" or any(not isinstance(s, Everyone | Poisson) for _, s, _ in events):
        raise UnsupportedRelease("the limit is known for Poisson sampling under add_remove and zero_out")
    total = 0.0
    for z, sampling, count in events:
        if isinstance(sampling, Poisson) and sampling.probability < 1:
            if z < 0.04:  # exp would overflow
                raise UnsupportedRelease("the limit needs a noise multiplier of at least 0.04")
            total += count * sampling.probability**2 * math.expm1(z**-2)
        else:
            total += count / z**2
    return gaussian_epsilon(1 / math.sqrt(total), delta)
