"""The rates of a guess: the area under its curve, its power at a small false positive rate, and its advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.dp.accounting.audit import clopper_pearson
from privfl.dp.accounting.scores import Scores, StatedCurve
from privfl.experiment.attack.inversion import Floats

RATE: Final = 0.01
"""The false positive rate at which the true positive rate is given."""

_RESAMPLES: Final = 400
_GRID: Final = 4001


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure with an interval of 95 % confidence, and the most that the stated epsilon allows.

    Attributes:
        value: The figure.
        low: The lower end of the interval.
        high: The upper end of the interval.
        limit: The most that the stated epsilon allows; 1 without noise.
    """

    value: float
    low: float
    high: float
    limit: float

    def as_dict(self) -> dict[str, float]:
        """The estimate for `--json`."""
        return {"value": self.value, "low": self.low, "high": self.high, "limit": self.limit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The three figures of an attack.

    Attributes:
        auc: The probability that a trial with the candidate scores above one without it.
        tpr: The true positive rate at a false positive rate of 1 %.
        advantage: The true positive rate minus the false one, at a threshold from the other half of the trials.
    """

    auc: Estimate
    tpr: Estimate
    advantage: Estimate

    @classmethod
    def of(cls, training: Scores, test: Scores, curve: StatedCurve | None, seed: int) -> Rates:
        """The figures of all trials; the threshold of the advantage is chosen on the first half.

        Args:
            training: The scores of the first half of the trials.
            test: The scores of the second half.
            curve: What the stated epsilon allows; None without noise.
            seed: The seed of the bootstrap.
        """
        without = np.concatenate([training.without, test.without])
        present = np.concatenate([training.present, test.present])
        rng = np.random.default_rng(seed)
        areas, powers = np.empty(_RESAMPLES), np.empty(_RESAMPLES)
        for i in range(_RESAMPLES):
            a, b = rng.choice(without, len(without)), rng.choice(present, len(present))
            areas[i], powers[i] = area(a, b), power(a, b)
        limit = highest(curve)
        value, (low, high) = _advantage(training, test)
        return cls(
            auc=_estimate(area(without, present), areas, limit[0]),
            tpr=_estimate(power(without, present), powers, limit[1]),
            advantage=Estimate(value, low, high, limit[2]),
        )


def area(without: Floats, present: Floats) -> float:
    """The area under the curve: the probability that a score with the candidate exceeds one without it.

    Args:
        without: The scores without the candidate.
        present: The scores with it.
    """
    ordered = np.sort(without)
    below = np.searchsorted(ordered, present, side="left") + np.searchsorted(ordered, present, side="right")
    return float(below.mean()) / (2 * len(without))


def power(without: Floats, present: Floats, rate: float = RATE) -> float:
    """The true positive rate above the threshold that a fraction `rate` of the scores without the candidate exceeds.

    Args:
        without: The scores without the candidate.
        present: The scores with it.
        rate: The false positive rate.
    """
    allowed = int(rate * len(without))
    threshold = np.sort(without)[len(without) - 1 - allowed]
    return float(np.mean(present > threshold))


def highest(curve: StatedCurve | None) -> tuple[float, float, float]:
    """The most that a stated curve allows: area, true positive rate at 1 %, and advantage; ones without a curve.

    Args:
        curve: The stated curve.
    """
    if curve is None:
        return 1.0, 1.0, 1.0
    rates = np.linspace(0.0, 1.0, _GRID)
    tops = curve(rates)
    # The curve increases, so the right end of each interval bounds its area from above.
    return float(tops[1:].mean()), float(curve(np.array([RATE]))[0]), float((tops[1:] - rates[:-1]).max())


def _advantage(training: Scores, test: Scores) -> tuple[float, tuple[float, float]]:
    cuts = np.quantile(np.concatenate([training.without, training.present]), np.linspace(0.005, 0.995, 199))
    gains = [float(np.mean(training.present > cut) - np.mean(training.without > cut)) for cut in cuts]
    errors = test.errors(float(cuts[int(np.argmax(gains))]))
    true_low, true_high = clopper_pearson(errors.true_positives, errors.positives, 0.0125)
    false_low, false_high = clopper_pearson(errors.false_positives, errors.negatives, 0.0125)
    false, true = errors.rates
    return true - false, (float(true_low - false_high), float(true_high - false_low))


def _estimate(value: float, resampled: Floats, limit: float) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high), limit)
