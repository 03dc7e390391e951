"""Lower bounds on epsilon from experiments: the statistics of an audit, apart from what is audited.

An audit runs a training many times in each of two worlds that differ in one unit, and guesses the world from what an
observer saw. Guesses that are too good refute the stated epsilon. Three bounds are here. `gaussian_bound` assumes that
the errors of the guesses trade off as those of a Gaussian mechanism. `free_bound` assumes nothing, and needs many
trials at a small delta. `one_run_bound` reads many units, each included by a coin of its own, from few trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.checks import check_delta
from privfl.dp.accounting.gaussian import gaussian_epsilon
from privfl.errors import ConfigError

Floats = npt.NDArray[np.float64]

GAUSSIAN: Final = "assumes the Gaussian's shape"
FREE: Final = "assumes nothing about the shape"
ONE_RUN: Final = "many canaries in one training; assumes the Gaussian's shape"

_DOWN: Final = 1 - 4e-9  # `gaussian_epsilon` rounds up by 1e-9, a lower bound rounds down
_THRESHOLDS: Final = 256
_RIDGE: Final = 1e-9
_FLOOR: Final = 1e-6
_PRECISION: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Errors:
    """The guesses of a test in both worlds, at one threshold.

    Attributes:
        true_positives: The trials with the unit in which the test guessed "with".
        positives: The trials with the unit.
        false_positives: The trials without the unit in which the test guessed "with".
        negatives: The trials without the unit.

    Raises:
        ConfigError: If a count is negative, or exceeds its number of trials, or a world has no trial.
    """

    true_positives: int
    positives: int
    false_positives: int
    negatives: int

    def __post_init__(self) -> None:
        if not (0 <= self.true_positives <= self.positives and 0 <= self.false_positives <= self.negatives):
            raise ConfigError(f"more guesses than trials: {self}")
        if not self.positives or not self.negatives:
            raise ConfigError("an audit needs trials in both worlds: raise the number of trials")

    @property
    def rates(self) -> tuple[float, float]:
        """The false and the true positive rate."""
        return self.false_positives / self.negatives, self.true_positives / self.positives

    @property
    def reverse(self) -> Errors:
        """The same guesses for the test that looks for trials without the unit."""
        return Errors(
            self.negatives - self.false_positives, self.negatives, self.positives - self.true_positives, self.positives
        )


@dataclass(frozen=True, slots=True)
class LowerBound:
    """A lower bound on epsilon at one delta.

    Attributes:
        epsilon: The bound, at least 0, rounded down.
        assumption: What the bound assumes.
        confidence: The probability with which the bound holds.
        mu: The bound on mu of a Gaussian mechanism; None where no shape is assumed.
        errors: The guesses behind the bound; None for many canaries in one training.
    """

    epsilon: float
    assumption: str
    confidence: float
    mu: float | None = None
    errors: Errors | None = None


def clopper_pearson(successes: Any, trials: Any, alpha: float) -> tuple[Any, Any]:
    """Bounds of a probability, each one-sided at confidence 1 - alpha (Clopper and Pearson 1934).

    Args:
        successes: The number of successes, a number or an array.
        trials: The number of trials, of the same shape.
        alpha: The probability in (0, 1) with which one of the bounds may fail.

    Returns:
        The lower and the upper bound.
    """
    from privfl.dp.accounting.special import betaincinv

    wins, losses = np.asarray(successes, np.float64), np.asarray(trials, np.float64) - successes
    low = np.where(wins > 0, betaincinv(np.maximum(wins, 1.0), losses + 1.0, alpha), 0.0)
    high = np.where(losses > 0, betaincinv(wins + 1.0, np.maximum(losses, 1.0), 1.0 - alpha), 1.0)
    return low, high


def gaussian_bound(errors: Errors, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The epsilon of the Gaussian mechanism that the guesses show at least, at a threshold that was fixed beforehand.

    mu = Phi^-1(lower bound of the true positive rate) - Phi^-1(upper bound of the false positive rate).

    Args:
        errors: The guesses.
        delta: In (0, 1).
        alpha: The probability in (0, 1) with which the bound may fail.
    """
    from privfl.dp.accounting.special import ndtri

    check_delta(delta)
    low, high = _rates(errors, alpha)
    mu = max(0.0, float(ndtri(low) - ndtri(high))) if low > 0 and high < 1 else 0.0
    return LowerBound(mu_epsilon(mu, delta), GAUSSIAN, 1 - alpha, mu, errors)


def free_bound(errors: Errors, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """ln((lower bound of the true positive rate - delta) / upper bound of the false positive rate).

    The threshold must not depend on the trials that are counted.

    Args:
        errors: The guesses.
        delta: In (0, 1).
        alpha: The probability in (0, 1) with which the bound may fail.
    """
    check_delta(delta)
    low, high = _rates(errors, alpha)
    figure = max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
    return LowerBound(figure, FREE, 1 - alpha, None, errors)


def mu_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a Gaussian mechanism with signal `mu`, rounded down (Balle and Wang 2018, theorem 8).

    Args:
        mu: The sensitivity divided by the noise standard deviation, at least 0.
        delta: In (0, 1).
    """
    return gaussian_epsilon(1 / mu, delta) * _DOWN if mu > 1e-6 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of all trials: a large score means that the trial looks like one with the unit.

    Attributes:
        without: The scores without the unit, float64 `[n]`.
        present: The scores with the unit, float64 `[m]`.
    """

    without: Floats
    present: Floats

    def errors(self, threshold: float, *, above: bool = True) -> Errors:
        """The guesses of the test that compares a score with `threshold`.

        Args:
            threshold: The threshold.
            above: True to guess "with" above the threshold, False to look for trials without the unit below it.
        """
        found = Errors(
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


def _rates(errors: Errors, alpha: float) -> tuple[float, float]:
    """The lower bound of the true positive rate and the upper bound of the false one, jointly at 1 - alpha."""
    low = clopper_pearson(errors.true_positives, errors.positives, alpha / 2)[0]
    high = clopper_pearson(errors.false_positives, errors.negatives, alpha / 2)[1]
    return float(low), float(high)


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


def one_run_bound(correct: int, guesses: int, canaries: int, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The bound from many canaries, each included by a fair coin of its own (Mahloujifar et al. 2024, algorithm 3).

    Args:
        correct: The number of correct guesses.
        guesses: The number of guesses; the others are abstentions.
        canaries: The number of canaries, in one training or in several independent ones.
        delta: In (0, 1).
        alpha: The probability in (0, 1) with which the bound may fail.

    Raises:
        ConfigError: If there are more correct guesses than guesses, or more guesses than canaries.
    """
    check_delta(delta)
    if not 0 <= correct <= guesses <= canaries or not guesses:
        raise ConfigError(f"{correct} correct of {guesses} guesses of {canaries} canaries: no such outcome exists")
    low, high = 0.0, 1.0
    while _improbable(high, correct, guesses, canaries, alpha) and high < 64:
        low, high = high, 2 * high
    while high - low > _PRECISION:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _improbable(middle, correct, guesses, canaries, alpha) else (low, middle)
    return LowerBound(mu_epsilon(low, delta), ONE_RUN, 1 - alpha, low)


def _improbable(mu: float, correct: int, guesses: int, canaries: int, alpha: float) -> bool:
    """True if a mechanism with the trade-off curve of N(mu, 1) gets so many guesses right with probability < alpha.

    With q_j the probability of j correct guesses, and sums over j >= i: r_i = sum of j q_j / canaries, and
    h_i = sum of (guesses - j) q_j / canaries. Changing one coin shows r_(i+1) <= 1 - f(h_i).
    """
    right, wrong = alpha * correct / canaries, alpha * (guesses - correct) / canaries
    inverse = _error_inverse(mu)
    for i in range(correct - 1, -1, -1):
        below = max(wrong, inverse(right))
        right += i / (guesses - i) * (below - wrong)
        wrong = below
        if right + wrong > guesses / canaries:
            return True
    return False


def _error_inverse(mu: float) -> Callable[[float], float]:
    """The inverse of 1 - f for the trade-off curve f of N(mu, 1): Phi(Phi^-1(r) - mu)."""
    from privfl.dp.accounting.special import ndtr, ndtri

    def inverse(right: float) -> float:
        return float(ndtr(ndtri(min(right, 1.0)) - mu))

    return inverse
