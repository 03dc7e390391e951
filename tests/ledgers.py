"""Ledgers for tests: the views of the three sums, and questions about releases that are put into a ledger first."""

from collections.abc import Iterable, Sequence
from typing import Any

from privfl.dp import Accountant, Budget, Draw, EpsilonReport, History, PrivacyUnit, Release
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
