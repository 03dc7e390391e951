"""Ledgers for tests: the views of the three sums, and questions about releases that are put into a ledger first."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from privfl.dp import (
    Accountant,
    Budget,
    Draw,
    EpsilonReport,
    History,
    Mechanism,
    PrivacyUnit,
    Release,
    RoundNoise,
    Slot,
)
from privfl.observers import Views

PLAIN: Views = {"outsider": "release", "participant": "release", "server": "vectors"}
MASKED: Views = {"outsider": "release", "participant": "release", "server": "sum"}
CKKS: Views = {"outsider": "release", "participant": "sum", "server": "release", "key_holder": "sum"}
SUMS: dict[str, Views] = {"plain": PLAIN, "masked": MASKED, "ckks": CKKS}


class Judge:
    """An accountant of releases: each round is drawn as its releases state, and turns with probability `turn`."""

    def __init__(self, unit: PrivacyUnit, delta: float, *, turn: float | None = 0.0, **settings: Any) -> None:
        self.unit, self.turn = unit, turn
        self.accountant = Accountant(delta, **settings)

    def history(self, releases: Iterable[Release]) -> History:
        return History.hypothetical(self.unit, releases, turn=self.turn)

    def spent(self, releases: Iterable[Release]) -> float:
        return self.accountant.spent(self.history(releases))

    def report(self, releases: Iterable[Release], **settings: Any) -> EpsilonReport:
        return self.accountant.report(self.history(releases), **settings)


class Purse(Judge):
    """A budget over releases, all of which are drawn as they state."""

    def __init__(self, epsilon: float, delta: float, unit: PrivacyUnit, **settings: Any) -> None:
        super().__init__(unit, delta, **settings)
        self.budget = Budget(epsilon, delta)

    def check(self, releases: Sequence[Release], worst: Release) -> float:
        draw = Draw(worst.round, worst.sampling, self.turn)
        return self.budget.check(self.history(releases), draw, worst)


def noise_of(
    mechanism: Mechanism, slots: Sequence[Slot], *, cohort: int, min_survivors: int, fraction: float | None = None
) -> RoundNoise:
    """The noise of a round of `cohort` clients, in a run whose cohorts have up to as many.

    Of k clients max(`min_survivors`, ceil(`fraction` k)) must survive; the fraction is by default min_survivors/cohort.
    """
    part = min_survivors / cohort if fraction is None else fraction
    spread = mechanism.spread(range(1, cohort + 1), lambda size: max(min_survivors, math.ceil(part * size)))
    return RoundNoise(mechanism, tuple(slots), cohort, spread)


def worst_case(noise: RoundNoise, *, cohort: Iterable[int], attempt: int = 0, **terms: Any) -> Release:
    """What is reserved before a client is asked."""
    return noise.release(attempt=attempt, participants=cohort, worst_case=True, **terms)


def realized(noise: RoundNoise, *, survivors: Iterable[int], attempt: int = 0, **terms: Any) -> Release:
    """What is settled after the opening."""
    return noise.release(attempt=attempt, participants=survivors, worst_case=False, **terms)
