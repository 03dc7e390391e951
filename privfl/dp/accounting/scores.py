"""Scores of trials: the linear test that an audit trains, its errors, and the stated curve that they may not exceed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.dp.accounting.audit import Floats, GuessCounts, LowerBound, clopper_pearson, free_bound, gaussian_bound
from privfl.errors import ConfigError

_THRESHOLDS: Final = 256
_RIDGE: Final = 1e-9
_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of all trials: a large score means that the trial looks like one with the unit.

    Attributes:
        without: The scores without the unit, float64 `[n]`.
        present: The scores with the unit, float64 `[m]`.
    """

    without: Floats
    present: Floats

    def errors(self, threshold: float, *, above: bool = True) -> GuessCounts:
        """The guesses of the test that compares a score with `threshold`.

        Args:
            threshold: The threshold.
            above: True to guess "with" above the threshold, False to look for trials without the unit below it.
        """
        found = GuessCounts(
            int(np.count_nonzero(self.present > threshold)),
            len(self.present),
            int(np.count_nonzero(self.without > threshold)),
            len(self.without),
        )
        return found if above else found.reverse

    def curve(self, points: int = 200) -> list[tuple[float, float]]:
        """(false positive rate, true positive rate) at up to `points` thresholds, from the strictest."""
        both = np.quantile(np.concatenate([self.without, self.present]), np.linspace(1.0, 0.0, points))
        rates = [(_above(self.without, both), _above(self.present, both))]
        return [(float(x), float(y)) for pair in rates for x, y in zip(*pair, strict=True)]


def score_bounds(
    training: Scores, test: Scores, *, delta: float, threshold: float = 0.5, alpha: float = 0.05
) -> tuple[LowerBound, LowerBound]:
    """The Gaussian's and the distribution-free bound of the scores of one audit.

    Args:
        training: Scores of the first half of the trials, in which the distribution-free threshold is chosen.
        test: Scores of the second half, which are counted.
        delta: In (0, 1).
        threshold: The Gaussian's threshold, fixed beforehand: halfway between the expected scores of both worlds.
        alpha: The probability with which each bound may fail.

    Returns:
        The Gaussian's bound and the distribution-free one.
    """
    cut, above = _best_threshold(training, delta, alpha)
    return (
        gaussian_bound(test.errors(threshold), delta=delta, alpha=alpha),
        free_bound(test.errors(cut, above=above), delta=delta, alpha=alpha),
    )


def _best_threshold(scores: Scores, delta: float, alpha: float) -> tuple[float, bool]:
    """The threshold and the direction whose distribution-free bound is largest on these trials."""
    grid = np.linspace(0.0, 1.0, _THRESHOLDS)
    # Half of the candidates lie in the tails, where a small false positive rate makes the bound large.
    grid = np.unique(np.concatenate([grid, 10.0 ** np.linspace(-5, -1, 64), 1 - 10.0 ** np.linspace(-5, -1, 64)]))
    cuts = np.unique(np.quantile(np.concatenate([scores.without, scores.present]), grid))
    without, present = _counts_above(scores.without, cuts), _counts_above(scores.present, cuts)
    n, m = len(scores.without), len(scores.present)
    best = (-math.inf, 0.5, True)
    for above, wins, trials, alarms, others in (
        (True, present, m, without, n),
        (False, n - without, n, m - present, m),
    ):
        low = clopper_pearson(wins, trials, alpha / 2)[0]
        high = clopper_pearson(alarms, others, alpha / 2)[1]
        figures = np.log(np.maximum(low - delta, 1e-300) / high)
        at = int(np.argmax(figures))
        best = max(best, (float(figures[at]), float(cuts[at]), above))
    return best[1], best[2]


def _above(scores: Floats, cuts: Floats) -> Floats:
    return _counts_above(scores, cuts) / len(scores)


def _counts_above(scores: Floats, cuts: Floats) -> Floats:
    return (len(scores) - np.searchsorted(np.sort(scores), cuts, side="right")).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Discriminant:
    """A linear score over features, scaled to a mean of 0 without the unit and of 1 with it (Fisher 1936).

    Attributes:
        weights: float64 `[features]`.
        offset: What is subtracted from the weighted sum.
    """

    weights: Floats
    offset: float

    def __call__(self, features: Floats) -> Floats:
        """The scores, float64 `[n]`, of features `[n, features]`."""
        scores: Floats = features @ self.weights - self.offset
        return scores

    @classmethod
    def fit(cls, without: Floats, present: Floats) -> Discriminant:
        """The discriminant of two samples.

        Args:
            without: Features without the unit, float64 `[n, features]`.
            present: Features with it, float64 `[m, features]`.

        Raises:
            ConfigError: If a sample has fewer than two trials.
        """
        if min(len(without), len(present)) < 2:
            raise ConfigError("a discriminant needs two trials in each world: raise the number of trials")
        gap = present.mean(0) - without.mean(0)
        variance = 0.5 * (without.var(0) + present.var(0))
        # A feature without noise separates the worlds perfectly, and keeps a finite weight here.
        scale = np.maximum(np.sqrt(variance), _FLOOR * np.abs(gap))
        scale[scale == 0] = 1.0
        centered = np.concatenate([without - without.mean(0), present - present.mean(0)]) / scale
        covariance = centered.T @ centered / len(centered)
        covariance[np.diag_indices_from(covariance)] += _RIDGE + (np.diag(covariance) == 0)
        weights = np.linalg.solve(covariance, gap / scale) / scale
        low, high = float(without.mean(0) @ weights), float(present.mean(0) @ weights)
        spread = high - low if high > low else 1.0
        return cls(weights / spread, low / spread)


@dataclass(frozen=True, slots=True)
class StatedCurve:
    """A stated trade-off curve, never below the promise: the highest true positive rate at each false positive rate.

    Attributes:
        epsilons: Epsilons at which the promise is known, float64 `[n]`.
        deltas: The stated delta at each, float64 `[n]`.
    """

    epsilons: Floats
    deltas: Floats

    @classmethod
    def of(cls, epsilon: Callable[[float], float]) -> StatedCurve:
        """The curve of a promise that is asked at several deltas.

        Args:
            epsilon: The stated epsilon at a delta in (0, 1).
        """
        deltas = np.concatenate([np.logspace(-5, -1, 17), np.linspace(0.15, 0.95, 17)])
        return cls(np.array([epsilon(float(delta)) for delta in deltas]), deltas)

    def __call__(self, rates: Floats) -> Floats:
        """The highest true positive rates, float64 `[m]`, at false positive rates `[m]` (Wasserman and Zhou 2010)."""
        alpha = np.asarray(rates, np.float64)[:, None]
        rest, epsilons = 1.0 - self.deltas, np.minimum(self.epsilons, 600.0)
        misses = np.maximum(rest - np.exp(epsilons) * alpha, np.exp(-epsilons) * (rest - alpha))
        highest: Floats = 1.0 - np.maximum(misses.max(axis=1), 0.0)
        return highest

    def points(self) -> list[tuple[float, float]]:
        """(false positive rate, highest true positive rate) pairs for a plot."""
        rates = np.concatenate([[0.0], np.logspace(-4, -1, 24), np.linspace(0.12, 1.0, 40)])
        return [(float(x), float(y)) for x, y in zip(rates, self(rates), strict=True)]


def lies_above(curve: StatedCurve, training: Scores, test: Scores, *, alpha: float = 0.05) -> bool:
    """True if a threshold that is chosen on the first half lies above the stated curve on the second half.

    Both rates are bounded jointly at confidence 1 - alpha, so a true curve is exceeded with probability alpha at most.

    Args:
        curve: The stated curve.
        training: The scores of the first half.
        test: The scores of the second half.
        alpha: The probability with which a true curve may seem to be exceeded.
    """
    grid = np.quantile(np.concatenate([training.without, training.present]), np.linspace(0.002, 0.998, 120))
    best = (-math.inf, 0.5, True)
    for cut in grid:
        for above in (True, False):
            low, high = training.errors(float(cut), above=above).bounds(alpha)
            best = max(best, (low - float(curve(np.array([high]))[0]), float(cut), above))
    low, high = test.errors(best[1], above=best[2]).bounds(alpha)
    return low > float(curve(np.array([high]))[0])
