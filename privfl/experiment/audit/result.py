"""The result of an audit: the stated epsilon, the lower bounds, and whether they contradict it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from privfl.dp import EpsilonReport, format_epsilon
from privfl.dp.accounting.audit import LowerBound

Points = tuple[tuple[float, float], ...]
"""(false positive rate, true positive rate) pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """The outcome of one audit.

    Attributes:
        stated: The stated epsilon, with all that it rests on.
        bounds: The lower bounds, each with its assumption.
        trials: The pairs of trials: as many trainings without the canary, and as many with it.
        rounds: The rounds of each training.
        dropouts: Who dropped out: "fewest" where as many did as the sum survives, "none" otherwise.
        canary: The kind of canary.
        checked: The trials that were run through the parties and through arrays, and agreed to the last bit.
        curve: The stated trade-off curve, as (false positive rate, highest true positive rate).
        points: The test's rates at many thresholds, on the trials that are counted.
        above_curve: True if a counted threshold lies above the stated curve at the confidence of a bound.
        confidence: The probability with which all bounds hold together.
        seconds: The time that the audit took.
        seed: The seed of the trials.
    """

    stated: EpsilonReport
    bounds: tuple[LowerBound, ...]
    trials: int
    rounds: int
    dropouts: str
    canary: str
    checked: int
    curve: Points = field(repr=False)
    points: Points = field(repr=False)
    above_curve: bool
    confidence: float
    seconds: float
    seed: int

    @property
    def lower(self) -> LowerBound:
        """The largest lower bound."""
        return max(self.bounds, key=lambda bound: bound.epsilon)

    @property
    def refuted(self) -> bool:
        """True if the trials contradict the stated epsilon."""
        return self.lower.epsilon > self.stated.epsilon or self.above_curve

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        lower, confidence = self.lower, f"{100 * self.confidence:.4g} %"
        stated, bound = format_epsilon(self.stated.epsilon), format_lower(lower.epsilon)
        if self.lower.epsilon > self.stated.epsilon:
            return (
                f"THE STATED EPSILON IS REFUTED: this pipeline reveals at least epsilon {bound} at "
                f"{confidence} confidence ({lower.assumption}), and {stated} is stated"
            )
        if self.above_curve:
            return (
                f"THE STATED EPSILON IS REFUTED: at {confidence} confidence a test lies above the trade-off curve that "
                f"epsilon {stated} states at other deltas"
            )
        return (
            f"{bound} <= epsilon <= {stated} at delta {self.stated.delta:g}: the lower "
            f"bound holds at {confidence} confidence ({lower.assumption}), the upper one is stated"
        )

    def as_dict(self) -> dict[str, Any]:
        """The result for `--json`."""
        return {
            "refuted": self.refuted,
            "sentence": self.sentence,
            "stated": self.stated.as_dict(),
            "lower": _record(self.lower),
            "bounds": [_record(bound) for bound in self.bounds],
            "above_curve": self.above_curve,
            "confidence": self.confidence,
            "trials": self.trials,
            "rounds": self.rounds,
            "dropouts": self.dropouts,
            "canary": self.canary,
            "checked": self.checked,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
            "curve": [list(point) for point in self.curve],
            "points": [list(point) for point in self.points],
        }


def format_lower(epsilon: float) -> str:
    """A lower bound in text, rounded down to four decimals."""
    return str(Decimal(epsilon).quantize(Decimal("0.0001"), rounding=ROUND_FLOOR))


def _record(bound: LowerBound) -> Mapping[str, Any]:
    errors = bound.errors
    return {
        "epsilon": bound.epsilon if math.isfinite(bound.epsilon) else "infinity",
        "assumption": bound.assumption,
        "confidence": bound.confidence,
        "mu": bound.mu,
        "false_positive_rate": None if errors is None else errors.rates[0],
        "true_positive_rate": None if errors is None else errors.rates[1],
    }
