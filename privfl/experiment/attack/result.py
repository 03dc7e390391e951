"""The results of attacks: what the server got in each case, and what was assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from privfl.dp import EpsilonReport
from privfl.experiment.attack.inversion import Floats
from privfl.experiment.attack.rates import Rates
from privfl.experiment.audit.result import Points

RECOVERED: Final = 0.95
"""A reconstruction counts as recovered from this correlation with the true example on."""

NO_PROOF: Final = "An attack that fails proves nothing: a better attack may succeed, and only epsilon bounds them all."


@dataclass(frozen=True, slots=True, kw_only=True)
class InvertedCase:
    """The reconstructions of one case.

    Attributes:
        name: The name of the case.
        sees: What the server sees, in words.
        report: What is promised against the server; None without noise, and where the server was given no update.
        images: The reconstructions, float64 `[images, pixels]`.
        correlations: The correlation of each with the true example, float64 `[images]`.
        psnrs: The peak signal-to-noise ratio of each, in decibels, float64 `[images]`.
    """

    name: str
    sees: str
    report: EpsilonReport | None
    images: Floats = field(repr=False)
    correlations: Floats
    psnrs: Floats

    @property
    def recovered(self) -> int:
        """The number of examples that were recovered."""
        return int(np.count_nonzero(self.correlations >= RECOVERED))

    def as_dict(self) -> dict[str, Any]:
        """The case for `--json`, without images."""
        return {
            "case": self.name,
            "sees": self.sees,
            "epsilon": stated(self.report),
            "correlations": self.correlations.tolist(),
            "psnrs": self.psnrs.tolist(),
            "recovered": self.recovered,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionResult:
    """The result of an inversion.

    Attributes:
        cases: The cases; the last one is a guess from the attacker's own examples, without any update.
        truths: The true examples, float64 `[images, pixels]`.
        side: The side of an image; None where examples are no square images.
        low: The smallest value of a pixel.
        high: The largest value of a pixel.
        clients: The clients of the attacked round.
        examples: The number of examples of each client.
        assumptions: What the server is assumed to know, and how the trials differ from the run.
        seconds: The time that the attack took.
        seed: The seed of the trials.
    """

    cases: tuple[InvertedCase, ...]
    truths: Floats = field(repr=False)
    side: int | None
    low: float
    high: float
    clients: int
    examples: int
    assumptions: tuple[str, ...]
    seconds: float
    seed: int

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        counts = [f"{case.name} {case.recovered}" for case in self.cases[:-1]]
        return (
            f"Of {len(self.truths)} examples, the server recovered (correlation of at least {RECOVERED:g}): "
            f"{', '.join(counts)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The result for `--json`, without the examples and their reconstructions."""
        return {
            "kind": "inversion",
            "sentence": self.sentence,
            "cases": [case.as_dict() for case in self.cases],
            "clients": self.clients,
            "examples": self.examples,
            "assumptions": list(self.assumptions),
            "limits": NO_PROOF,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipCase:
    """The guesses of one case.

    Attributes:
        name: The name of the case.
        sees: What the server sees, in words.
        report: What is promised against the server; None without noise.
        rates: The rates of the guesses, next to the most that the stated epsilon allows.
        above_curve: True if a threshold lies above the stated curve, at 95 % confidence.
        points: (false positive rate, true positive rate) at many thresholds.
        curve: (false positive rate, highest true positive rate) of the stated epsilon; empty without noise.
    """

    name: str
    sees: str
    report: EpsilonReport | None
    rates: Rates
    above_curve: bool
    points: Points = field(repr=False)
    curve: Points = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The case for `--json`."""
        return {
            "case": self.name,
            "sees": self.sees,
            "epsilon": stated(self.report),
            "auc": self.rates.auc.as_dict(),
            "tpr_at_1_percent": self.rates.tpr.as_dict(),
            "advantage": self.rates.advantage.as_dict(),
            "above_curve": self.above_curve,
            "points": [list(point) for point in self.points],
            "curve": [list(point) for point in self.curve],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipResult:
    """The result of a membership attack.

    Attributes:
        cases: The cases.
        trials: The pairs of trials: as many without the candidate as with it.
        rounds: The rounds that the server saw.
        clients: The clients of a round.
        examples: The number of examples of each client.
        checked: The rounds that were run through the parties and over arrays, and agreed to the last bit.
        assumptions: What the server is assumed to know, and how the trials differ from the run.
        seconds: The time that the attack took.
        seed: The seed of the trials.
    """

    cases: tuple[MembershipCase, ...]
    trials: int
    rounds: int
    clients: int
    examples: int
    checked: int
    assumptions: tuple[str, ...]
    seconds: float
    seed: int

    @property
    def refuted(self) -> bool:
        """True if the trials contradict a stated epsilon."""
        return any(case.above_curve for case in self.cases)

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        if self.refuted:
            names = ", ".join(case.name for case in self.cases if case.above_curve)
            return f"A STATED EPSILON IS REFUTED at 95 % confidence: guesses lie above the curve of {names}"
        areas = ", ".join(f"{case.name} {case.rates.auc.value:.3f}" for case in self.cases)
        return f"Area under the curve, where .5 is guessing: {areas}"

    def as_dict(self) -> dict[str, Any]:
        """The result for `--json`."""
        return {
            "kind": "membership",
            "sentence": self.sentence,
            "refuted": self.refuted,
            "cases": [case.as_dict() for case in self.cases],
            "trials": self.trials,
            "rounds": self.rounds,
            "clients": self.clients,
            "examples": self.examples,
            "checked": self.checked,
            "assumptions": list(self.assumptions),
            "limits": NO_PROOF,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
        }


def stated(report: EpsilonReport | None) -> Mapping[str, Any] | None:
    """The promise as a record; None without noise."""
    if report is None or not math.isfinite(report.epsilon):
        return None
    return report.as_dict()
