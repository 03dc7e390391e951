"""Simulated dropouts: clients that drop out at some step of a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.errors import ConfigError
from privfl.sums import Drop
from privfl.sums.driver import never
from privfl.wire import ClientId

_STEPS: Final = 5  # a masked sum has five messages of a client; a later step never comes in a shorter sum

Dropouts = Callable[[int, int], Drop]
"""(round, try) -> the drop pattern of that sum; tries of a round are counted from 0 in every start of a run.

A pattern may have an attribute `probability`, its maximum probability that a client drops out of a round, independently
of the data. From it the ledger bounds the probability that one client decides whether a round is skipped. Without it
there is no bound, and sampling is not counted.
"""


@dataclass(frozen=True, slots=True)
class RandomDropouts:
    """Each client drops out with `probability`, from a uniformly random step on; the same for the same seed.

    Attributes:
        probability: The probability of dropping out of a sum, in [0, 1).
        seed: Keys the pattern.
        steps: The number of a client's messages in the sum (`SecureSum.messages_per_client`).
    """

    probability: float
    seed: int
    steps: int = _STEPS

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ConfigError(f"probability must be in [0, 1), not {self.probability!r}")

    def __call__(self, round: int, number: int) -> Drop:
        """The pattern of one sum."""
        if not self.probability:
            return never

        def drop(client: ClientId, step: int) -> bool:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, round, client, number, 2**33]))
            return bool(rng.random() < self.probability) and step >= int(rng.integers(self.steps))

        return drop


nobody: Final = RandomDropouts(0.0, seed=0)
"""Nobody drops out."""
