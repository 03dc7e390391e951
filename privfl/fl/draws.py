"""The draws of a run: what its ledger notes before each cohort is sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from privfl.dp import Ledger
from privfl.dp.draws import Draw, Shortfall, mean_shortfall, plausible, round_turn, rounded_up
from privfl.dp.unit import Adjacency, Sampling
from privfl.wire import ClientId


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
        times: The number of these cohorts that each client was in.
    """

    sampling: Sampling
    population: int
    shortfall: Shortfall
    tries: int
    adjacency: Adjacency
    rounds: int = 0
    skipped: int = 0
    participants: int = 0
    times: Counter[ClientId] = field(default_factory=Counter)
    _turn: float | None = field(init=False)
    _chance: float | None = field(init=False)

    def __post_init__(self) -> None:
        self._turn = round_turn(
            self.sampling, self.population, self.shortfall, tries=self.tries, adjacency=self.adjacency
        )
        self._chance = None if self._turn is None else mean_shortfall(self.sampling, self.population, self.shortfall)

    def tally(self, *, skipped: bool, cohort: int, clients: Iterable[ClientId] = ()) -> None:
        """Count one finished round.

        Args:
            skipped: Whether it was skipped.
            cohort: The size of its cohort.
            clients: The clients of the cohort, as far as they are known.
        """
        self.rounds += 1
        self.skipped += skipped
        self.participants += cohort
        self.times.update(clients)

    def next(self, round: int) -> Draw:
        """The draw of `round`, to be noted before its cohort is sampled."""
        void = self._turn is not None and not plausible(
            self.sampling,
            self.population,
            rounds=self.rounds,
            skipped=self.skipped,
            participants=self.participants,
            max_times=max(self.times.values(), default=0),
            shortfall=1.0 if self._chance is None else self._chance,
        )
        return Draw(round, self.sampling, self._turn, void)

    def finish(self, ledger: Ledger, round: int, *, skipped: bool, cohort: tuple[ClientId, ...]) -> None:
        """Count a finished round. If it refutes what was declared, the ledger records the next draw at once, as void.

        The run may end before that draw, so the record cannot wait for it.

        Args:
            ledger: The ledger of the run.
            round: The round.
            skipped: Whether it was skipped.
            cohort: Its cohort.
        """
        self.tally(skipped=skipped, cohort=len(cohort), clients=cohort)
        draw = self.next(ledger.first_undrawn(round + 1))
        if draw.void and not any(noted.void for noted in ledger.draws):
            ledger.draw(draw.round, draw.sampling, draw.turn, void=True)

    def note_interrupted(self, ledger: Ledger, round: int) -> None:
        """Record the tries that a round gets again after a kill: its own draw counted those of one start only.

        The next draw that is not noted yet counts them too; where both together exceed 1, it is void. The record
        depends on the kill alone, and not on how many tries failed before it.

        Args:
            ledger: The ledger of the run.
            round: The first round that is not finished.
        """
        draw = self.next(ledger.first_undrawn(round + 1))
        if ledger.draw_of(round) is not None and draw.turn:
            both = 2 * draw.turn
            ledger.draw(draw.round, draw.sampling, rounded_up(min(1.0, both)), void=draw.void or both > 1)
