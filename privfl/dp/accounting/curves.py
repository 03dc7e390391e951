"""Curves over a whole history: delta over epsilon, and the trade-off between the errors of a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from privfl.checks import check_choice, check_count, check_delta
from privfl.dp.accounting.accountant import Ledgers
from privfl.dp.accounting.comparison import SHARE, gap
from privfl.dp.accounting.compose import NO_GROUP, IntegerNoise, Items, check_events, combined, likened
from privfl.dp.accounting.events import Profile, as_seen, drawn_at_sites, exposure, in_every_release
from privfl.dp.accounting.gaussian import log_delta, probability
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
_MAX_EPSILON: Final = 600.0
_STEPS: Final = 240
_REFINED: Final = 4  # parabolas for each point of a trade-off curve
_ODDS_STEPS: Final = 60


class PrivacyCurve:
    """The promise of one history at every epsilon, against one observer.

    Args:
        ledgers: One ledger or history, or several of one unit that are judged together.
        observer: The observer against which the promise holds.
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
        self._known: dict[float, float] = {}

    def delta(self, epsilon: float) -> float:
        """The delta at `epsilon` >= 0, rounded up: the larger one of the two orders of the neighbors.

        Raises:
            ConfigError: A negative epsilon.
        """
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise ConfigError(f"epsilon must be a finite number of at least 0, not {epsilon!r}")
        if epsilon not in self._known:
            figures = [turn + max(delta(epsilon) for delta in deltas) for deltas, turn in self._choices]
            self._known[epsilon] = min(1.0, *figures)
        return self._known[epsilon]

    @property
    def advantage(self) -> float:
        """The most by which a test's true positive rate exceeds its false positive rate: delta at epsilon 0."""
        return self.delta(0.0)

    def bayes_risk(self, prior: float = 0.5) -> float:
        """The least probability of error of any guess whether the unit is present, rounded down.

        It is min(p, 1 - p) (1 - delta(|ln((1 - p)/p)|)), the least error of any test between the two neighbors.

        Args:
            prior: The probability p in (0, 1), before the release, that the unit is present.

        Raises:
            ConfigError: The prior is outside (0, 1).
        """
        odds = prior_odds(prior)
        return max(0.0, min(prior, 1 - prior) * (1 - self.delta(abs(math.log(odds)))) * (1 - 1e-12))

    def log_odds(self, delta: float) -> float:
        """The most by which the logarithm of the odds of presence rises, except with probability `delta`, rounded up.

        This is a bound t of the privacy loss itself, and above epsilon. It rests on an inequality for every e < t:
        delta(e) >= P[loss > t] (1 - exp(e - t)). The fall of the odds is bounded alike. Infinite where nothing is
        promised.

        Args:
            delta: The probability in (0, 1).

        Raises:
            ConfigError: `delta` is outside (0, 1).
        """
        check_delta(delta)
        high = 1.0
        while self.delta(high) > delta / 4:
            high *= 1.5
            if high > _MAX_EPSILON:
                return math.inf
        grid = high * np.linspace(0.0, 1.0, _ODDS_STEPS)
        best = math.inf
        for _ in range(2):
            # 1 - exp(e - t) >= delta(e)/delta, so t >= e - ln(1 - delta(e)/delta)
            found = [
                (e - math.log1p(-d / delta), e) for e in map(float, grid) if (d := self.delta(e)) < delta * (1 - 1e-9)
            ]
            bound, at = min(found)
            best = min(best, bound)
            step = float(grid[1] - grid[0])
            grid = np.linspace(max(at - step, 0.0), at + step, _ODDS_STEPS // 2)
        return best * _UP

    def posterior_odds(self, prior: float, delta: float) -> tuple[float, float]:
        """The least and the greatest odds of presence after the release, each except with probability `delta`.

        Args:
            prior: The probability in (0, 1), before the release, that the unit is present.
            delta: The probability in (0, 1) with which each of the two may fail.

        Raises:
            ConfigError: The prior or `delta` is outside (0, 1).
        """
        odds, bound = prior_odds(prior), self.log_odds(delta)
        return (0.0, math.inf) if bound > _MAX_EPSILON else (odds * math.exp(-bound), odds * math.exp(bound))

    def profile(self, epsilons: Iterable[float]) -> list[tuple[float, float]]:
        """(epsilon, delta) points."""
        return [(epsilon, self.delta(epsilon)) for epsilon in epsilons]

    def tradeoff(self, alphas: Iterable[float]) -> list[tuple[float, float]]:
        """(alpha, beta) points: a test of false positive rate alpha misses at least beta, rounded down.

        Every epsilon gives a bound that holds (Dong, Roth and Su 2022, proposition 6). The best of a fine grid of them
        is taken, and parabolas search its neighborhood.

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
        best = min(max(range(len(bounds)), key=lambda n: bounds[n]), len(bounds) - 2)
        points = [(float(grid[n]), bounds[n]) for n in range(max(best - 1, 0), max(best - 1, 0) + 3)]
        found = max(bounds)
        for _ in range(_REFINED):  # each point that is tried is a bound by itself
            at = _vertex(points)
            if at is None or at in self._known:
                break
            points.append((at, _bound(alpha, at, self.delta(at))))
            points.remove(min(points, key=lambda point: point[1]))
            points.sort()
            before, found = found, max(found, *(value for _, value in points))
            if found - before < 1e-9:
                break
        return max(0.0, found - 1e-12)


def prior_odds(prior: float) -> float:
    """p/(1 - p); raises `ConfigError` for a prior outside (0, 1)."""
    if not 0 < prior < 1:
        raise ConfigError(f"prior must be a probability in (0, 1), not {prior!r}")
    return prior / (1 - prior)


def _vertex(points: list[tuple[float, float]]) -> float | None:
    """The place of the maximum of the parabola through three points, if it has one between them."""
    (a, fa), (b, fb), (c, fc) = points
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left == right:
        return None
    at = b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right)
    return at if a < at < c else None


def _bound(alpha: float, epsilon: float, delta: float) -> float:
    if epsilon > _MAX_EPSILON:
        return 0.0
    rest = 1.0 - delta
    return max(0.0, rest - math.exp(epsilon) * alpha, math.exp(-epsilon) * (rest - alpha))


def _choices(history: History, observer: Observer, group: int) -> list[tuple[list[Delta], float]]:
    """Ways to judge, of which each holds: curves of which the largest counts, and what skipped rounds add to delta."""
    releases = history.releases
    unit = as_seen(history.unit, observer, (r.placement for r in releases), at_sites=drawn_at_sites(releases))
    if group > 1 and unit.adjacency == "replace_one":
        raise UnsupportedRelease(NO_GROUP)
    seen = exposure(history, observer)
    if seen.unbounded:
        return [([lambda _: 1.0], 0.0)]
    if observer != "outsider":
        of_clients = group > 1 and history.unit.level == "client"
        profiles = in_every_release(history) if of_clients else seen.profiles
        return [([curve(profile, unit, group) for profile in profiles], 0.0)]
    known = PrivacyUnit(unit.level, "zero_out") if unit.adjacency == "add_remove" else unit
    counted = history.without_turns() if group > 1 and history.turn else history
    found: list[tuple[list[Delta], float]] = []
    bare = counted.without_turns()
    for part in [counted] if bare == counted else [counted, bare]:
        protected = known if part.unbounded else unit
        found.append(([curve(p, protected, group) for p in exposure(part, observer).profiles], part.turn))
    return [*found, ([curve(profile, known, group) for profile in in_every_release(history)], 0.0)]


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
        return lambda epsilon: probability(log_delta(z, epsilon))
    from privfl.dp.accounting.orders import orders_of
    from privfl.dp.accounting.tilted_profile import TiltedProfile

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

    return lambda epsilon: min(_compared(gaussian, noise, epsilon), probability(log_renyi(epsilon)))


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
        part = (math.exp(there) - math.exp(epsilon)) / (1 + math.exp(there)) if there < _MAX_EPSILON else 1.0
        before, figure = figure, min(figure, at + max(1 - at, 0.0) * part)
        if figure > before * (1 - 1e-4):
            break
    return min(figure * _UP, 1.0)
