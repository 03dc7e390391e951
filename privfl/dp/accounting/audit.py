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
_PRECISION: Final = 1e-6


@dataclass(frozen=True, slots=True)
class GuessCounts:
    """Counts of the guesses of a test in both worlds, at one threshold.

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

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The lower bound of the true positive rate and the upper one of the false, jointly at confidence 1 - alpha."""
        low = clopper_pearson(self.true_positives, self.positives, alpha / 2)[0]
        high = clopper_pearson(self.false_positives, self.negatives, alpha / 2)[1]
        return float(low), float(high)

    @property
    def reverse(self) -> GuessCounts:
        """The same guesses for the test that looks for trials without the unit."""
        return GuessCounts(
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
    errors: GuessCounts | None = None


def highest_rates(bound: LowerBound, delta: float, rates: Floats) -> Floats:
    """The highest true positive rates, float64 `[n]`, at false positive rates `[n]`, if `bound` were the epsilon.

    Args:
        bound: A lower bound: the curve of its Gaussian mechanism, or of its epsilon and `delta`.
        delta: The delta of the bound.
        rates: The false positive rates.
    """
    if bound.mu is not None:
        from privfl.dp.accounting.special import ndtr, ndtri

        gaussian: Floats = ndtr(ndtri(rates) + bound.mu)
        return gaussian
    growth = math.exp(min(bound.epsilon, 600.0))
    free: Floats = np.clip(np.minimum(growth * rates + delta, 1 - (1 - delta - rates) / growth), 0.0, 1.0)
    return free


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


def gaussian_bound(errors: GuessCounts, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """The epsilon of the Gaussian mechanism that the guesses show at least, at a threshold that was fixed beforehand.

    mu = Phi^-1(lower bound of the true positive rate) - Phi^-1(upper bound of the false positive rate).

    Args:
        errors: The guesses.
        delta: In (0, 1).
        alpha: The probability in (0, 1) with which the bound may fail.
    """
    from privfl.dp.accounting.special import ndtri

    check_delta(delta)
    low, high = errors.bounds(alpha)
    mu = max(0.0, float(ndtri(low) - ndtri(high))) if low > 0 and high < 1 else 0.0
    return LowerBound(mu_epsilon(mu, delta), GAUSSIAN, 1 - alpha, mu, errors)


def free_bound(errors: GuessCounts, *, delta: float, alpha: float = 0.05) -> LowerBound:
    """ln((lower bound of the true positive rate - delta) / upper bound of the false positive rate).

    The threshold must not depend on the trials that are counted.

    Args:
        errors: The guesses.
        delta: In (0, 1).
        alpha: The probability in (0, 1) with which the bound may fail.
    """
    check_delta(delta)
    low, high = errors.bounds(alpha)
    figure = max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
    return LowerBound(figure, FREE, 1 - alpha, None, errors)


def mu_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a Gaussian mechanism with signal `mu`, rounded down (Balle and Wang 2018, theorem 8).

    Args:
        mu: The sensitivity divided by the noise standard deviation, at least 0.
        delta: In (0, 1).
    """
    return gaussian_epsilon(1 / mu, delta) * _DOWN if mu > 1e-6 else 0.0


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
