"""The draws of a run: what its ledger notes before each cohort is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field

from privfl.dp.draws import Draw, Shortfall, mean_shortfall, plausible, round_turn
from privfl.dp.unit import Adjacency, Sampling


@dataclass(slots=True)
class DrawNotes:
    """Draws of one run, with a tally of its finished rounds.

    Once the finished rounds refute the declared sampling or dropout, every further draw is void.

    Attributes:
        sampling: How cohorts are sampled.
        population: Number of clients.
        shortfall: Cohort size -> bound on the probability that its sum opens nothing; None: not bounded.
        tries: Attempts of a round with one cohort.
        adjacency: What neighbors are, in the ledger's unit.
        rounds: Finished rounds that were tallied.
        skipped: Those of them that were skipped.
        participants: Clients sampled in them, summed over the rounds.
    """

    sampling: Sampling
    population: int
    shortfall: Shortfall
    tries: int
    adjacency: Adjacency
    rounds: int = 0
    skipped: int = 0
    participants: int = 0
    _turn: float | None = field(init=False)
    _chance: float | None = field(init=False)

    def __post_init__(self) -> None:
        self._turn = round_turn(
            self.sampling, self.population, self.shortfall, tries=self.tries, adjacency=self.adjacency
        )
        self._chance = None if self._turn is None else mean_shortfall(self.sampling, self.population, self.shortfall)

    def tally(self, *, skipped: bool, cohort: int) -> None:
        """Count one finished round.

        Args:
            skipped: Whether it was skipped.
            cohort: The size of its cohort.
        """
        self.rounds += 1
        self.skipped += skipped
        self.participants += cohort

    def next(self, round: int) -> Draw:
        """The draw of `round`, to be noted before its cohort is sampled."""
        void = self._turn is not None and not plausible(
            self.sampling,
            self.population,
            rounds=self.rounds,
            skipped=self.skipped,
            participants=self.participants,
            shortfall=1.0 if self._chance is None else self._chance,
        )
        return Draw(round, self.sampling, self._turn, void)
