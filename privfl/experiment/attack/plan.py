"""The size of an attack, and the kinds of attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from privfl.checks import check_count
from privfl.errors import ConfigError

AttackKind = Literal["membership", "inversion"]
KINDS: Final[tuple[AttackKind, ...]] = get_args(AttackKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackPlan:
    """The size of an attack.

    Attributes:
        epsilons: The epsilons of the cases with noise, each against the server over the attacked rounds.
        rounds: The rounds that the server sees. An inversion reads the first one only.
        trials: The pairs of trainings of a membership attack, with and without the candidate.
        images: The number of examples that an inversion reconstructs.
        examples: The number of examples of each client. By default 1 for an inversion, and for a membership attack as
            many as a client of the run holds on average.
        check: The trials of each case that are also run through the parties, and compared to the last bit.
        seed: The seed of the trials.

    Raises:
        ConfigError: If a number is out of range.
    """

    epsilons: tuple[float, ...] = (8.0, 3.0, 1.0)
    rounds: int = 1
    trials: int = 500
    images: int = 6
    examples: int | None = None
    check: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_count("images", self.images)
        if self.examples is not None:
            check_count("examples", self.examples)
        if self.trials < 20:
            raise ConfigError(
                f"a membership attack needs at least 20 pairs of trials, not {self.trials}: raise --trials"
            )
        if self.check < 0 or self.seed < 0:
            raise ConfigError(f"check and seed are at least 0, not {self.check} and {self.seed}: leave them out")
        if len(set(self.epsilons)) < len(self.epsilons) or not all(e > 0 and math.isfinite(e) for e in self.epsilons):
            raise ConfigError(
                f"epsilons are different positive numbers, not {', '.join(f'{e:g}' for e in self.epsilons)}: give for "
                "example --epsilon 8 --epsilon 1"
            )
