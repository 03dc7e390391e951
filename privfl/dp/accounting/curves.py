"""Curves over a whole history: delta over epsilon, and the trade-off between the errors of a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from privfl.checks import check_choice, check_count
from privfl.dp.accounting.accountant import Ledgers
from privfl.dp.accounting.comparison import SHARE, gap
from privfl.dp.accounting.compose import NO_GROUP, IntegerNoise, Items, check_events, combined, likened
from privfl.dp.accounting.events import Profile, as_seen, exposure, in_every_release
from privfl.dp.accounting.gaussian import log_delta
from privfl.dp.accounting.history import History
from privfl.dp.accounting.rdp import rdp_log_delta
from privfl.dp.unit import PrivacyUnit
from privfl.errors import ConfigError, UnsupportedRelease
from privfl.observers import OBSERVERS, Observer

Delta = Callable[[float], float]
"""An upper bound of delta at each epsilon >= 0, falling."""

SMALLEST_DELTA: Final = 1e-15
"""Curves are computed down to this delta; below it they stay upper bounds, but are not close."""

_UP: Final = 1 + 1e-9
_MIN_DELTA: Final = 1e-18
_STEPS: Final = 300
_GOLDEN: Final = 0.5 * (math.sqrt(5.0) - 1.0)


class PrivacyCurve:
    """The promise of one history at every epsilon, against one observer.

    Args:
        ledgers: One ledger or history, or several of one unit that are judged together.
        observer: Against whom the promise holds.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure.
        group: How many units change together.

    Raises:
        ConfigError: An argument is out of range.
        UnsupportedRelease: Something that no accountant here can judge.
    """

    def __init__(
        self,
        ledgers: Ledgers,
        *,
        observer: Observer = "outsider",
        assume_secure_noise: bool = False,
        group: int = 1,
    ) -> None:
        check_choice("observer", observer, OBSERVERS)
        check_count("group", group)
        history = History.of(ledgers)
        insecure = [r.round for r in history.releases if not r.secure and r.placement != "none"]
        if insecure and not assume_secure_noise:
            raise UnsupportedRelease(
                f"round {insecure[0]}: the noise was seeded or floating-point, and nothing can be claimed for it; ask "
                "for what would hold if the noise were secure"
            )
        self._choices = _choices(history, observer, group)

    def delta(self, epsilon: float) -> float:
        """The delta at `epsilon` >= 0, in both orders of the neighbors, rounded up.

        Raises:
            ConfigError: A negative epsilon.
        """
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise ConfigError(f"epsilon must be a finite number of at least 0, not {epsilon!r}")
        figures = [turn + max(delta(epsilon) for delta in deltas) for deltas, turn in self._choices]
        return min(1.0, *figures)

    @property
    def advantage(self) -> float:
        """The most by which a test's true positive rate exceeds its false positive rate: delta at epsilon 0."""
        return self.delta(0.0)

    def profile(self, epsilons: Iterable[float]) -> list[tuple[float, float]]:
        """(epsilon, delta) points."""
        return [(epsilon, self.delta(epsilon)) for epsilon in epsilons]

    def tradeoff(self, alphas: Iterable[float]) -> list[tuple[float, float]]:
        """(alpha, beta) points: a test of false positive rate alpha misses at least beta, rounded down.

        Every epsilon gives a bound that holds; the best of a fine grid of them is taken (Dong, Roth and Su 2022,
        proposition 6).

        Raises:
            ConfigError: An alpha outside [0, 1].
        """
        wanted = list(alphas)
        for alpha in wanted:
            if not 0 <= alpha <= 1:
                raise ConfigError(f"alpha must be in [0, 1], not {alpha!r}")
        grid = self._grid()
        deltas = np.array([self.delta(float(epsilon)) for epsilon in grid])
        return [(alpha, self._beta(alpha, grid, deltas)) for alpha in wanted]

    def _grid(self) -> np.ndarray:
        """Epsilons from 0 to one where little is left of delta."""
        high = 1.0
        while self.delta(high) > 1e-9 and high < 1e4:
            high *= 1.5
        return high * np.linspace(0.0, 1.0, _STEPS) ** 1.5

    def _beta(self, alpha: float, grid: np.ndarray, deltas: np.ndarray) -> float:
        bounds = [_bound(alpha, float(e), float(d)) for e, d in zip(grid, deltas, strict=True)]
        best = max(range(len(bounds)), key=lambda n: bounds[n])
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])

        def bound(epsilon: float) -> float:
            return _bound(alpha, epsilon, self.delta(epsilon))

        # Golden-section search; each point that it tries is a bound by itself.
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = bound(left), bound(right)
        found = max(bounds[best], at_left, at_right)
        for _ in range(6):
            if at_left >= at_right:
                high, right, at_right = right, left, at_left
                left = high - _GOLDEN * (high - low)
                at_left = bound(left)
            else:
                low, left, at_left = left, right, at_right
                right = low + _GOLDEN * (high - low)
                at_right = bound(right)
            found = max(found, at_left, at_right)
        return max(0.0, found - 1e-12)


def _bound(alpha: float, epsilon: float, delta: float) -> float:
    if epsilon > 600:
        return 0.0
    rest = 1.0 - delta
    return max(0.0, rest - math.exp(epsilon) * alpha, math.exp(-epsilon) * (rest - alpha))


def _choices(history: History, observer: Observer, group: int) -> list[tuple[list[Delta], float]]:
    """Ways to judge, of which each holds: curves of which the largest counts, and what skipped rounds add to delta."""
    unit = as_seen(history.unit, observer, (release.placement for release in history.releases))
    if group > 1 and unit.adjacency == "replace_one":
        raise UnsupportedRelease(NO_GROUP)
    seen = exposure(history, observer)
    if seen.unbounded:
        return [([lambda _: 1.0], 0.0)]
    if observer != "outsider":
        profiles = (in_every_release(history),) if group > 1 else seen.profiles
        return [([curve(profile, unit, group) for profile in profiles], 0.0)]
    known = PrivacyUnit(unit.level, "zero_out") if unit.adjacency == "add_remove" else unit
    counted = history.without_turns() if group > 1 and history.turn else history
    found: list[tuple[list[Delta], float]] = []
    bare = counted.without_turns()
    for part in [counted] if bare == counted else [counted, bare]:
        protected = known if part.unbounded else unit
        found.append(([curve(p, protected, group) for p in exposure(part, observer).profiles], part.turn))
    return [*found, ([curve(in_every_release(history), known, group)], 0.0)]


def curve(profile: Profile, unit: PrivacyUnit, group: int = 1) -> Delta:
    """delta over epsilon of one composition.

    Args:
        profile: Events and how often each happened.
        unit: Whose presence is hidden.
        group: How many units change together.

    Raises:
        UnsupportedRelease: An event that cannot be judged under this adjacency.
    """
    check_events(profile, unit, group)
    items = frozenset(profile.items())
    if all(event.gaussian for event, _ in items):
        return _gaussian(items, unit, group)
    return _integer(items, unit, group)


def _gaussian(items: Items, unit: PrivacyUnit, group: int) -> Delta:
    events, inverse = combined(items)
    if not events:
        return lambda _: 0.0
    if len(events) == 1 and inverse:
        z = 1 / (math.sqrt(inverse) * unit.factor * group)
        return lambda epsilon: min(1.0, math.exp(log_delta(z, epsilon)) * _UP)
    from privfl.dp.accounting.orders import orders_of
    from privfl.dp.accounting.tilted import TiltedProfile

    return TiltedProfile(orders_of(events, unit.adjacency, group=group), SMALLEST_DELTA).delta


def _integer(items: Items, unit: PrivacyUnit, group: int) -> Delta:
    """The smaller of the comparison with Gaussian noise and the Renyi bound."""
    same, noise = likened(items)
    gaussian = _gaussian(same, unit, group)
    try:
        log_renyi = rdp_log_delta(sorted(items, key=repr), unit.factor * group)
    except UnsupportedRelease:

        def log_renyi(_: float) -> float:
            return 0.0

    return lambda epsilon: min(_compared(gaussian, noise, epsilon), math.exp(log_renyi(epsilon)))


def _compared(gaussian: Delta, noise: IntegerNoise, epsilon: float) -> float:
    """delta at `epsilon` of the run with integer noise, as `comparison` states it."""
    there, delta = epsilon, max(gaussian(epsilon), _MIN_DELTA)
    figure = 1.0
    for _ in range(3):
        found = gap(noise.groups, there, delta, shares=noise.shares, cohort=noise.cohort)
        if found is None:
            return 1.0
        distance = found.g1 + found.g2
        there = max(epsilon, distance)
        delta = max(gaussian(there - distance), _MIN_DELTA)
        again = gap(noise.groups, there, delta, shares=noise.shares, cohort=noise.cohort)
        if again is None or again.g1 + again.g2 > there:
            continue
        rest = gaussian(there - again.g1 - again.g2)
        at = math.exp(again.g1) * (rest + SHARE * delta) + SHARE * delta + again.own
        # Below `there` the profile of an (epsilon, delta) bound goes on as that of randomized response.
        part = (math.exp(there) - math.exp(epsilon)) / (1 + math.exp(there)) if there < 600 else 1.0
        figure = min(figure, at + max(1 - at, 0.0) * part)
    return min(figure * _UP, 1.0)
