"""Simulated dropouts: clients that fall silent at some step of a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.errors import ConfigError
from privfl.sums import Drop, never
from privfl.wire import ClientId

_STEPS: Final = 5  # a masked sum has five messages of a client; a later step never comes in a shorter sum

Dropouts = Callable[[int, int], Drop]
"""(round, attempt) -> the drop pattern of that sum."""


@dataclass(frozen=True, slots=True)
class RandomDropouts:
    """Each client falls silent with `probability`, from a uniformly random step on; the same for the same seed.

    A plain sum has one message only, so there `steps` = 1 keeps the meaning of `probability`.
    """

    probability: float
    seed: int
    steps: int = _STEPS

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ConfigError(f"probability must be in [0, 1), not {self.probability!r}")

    def __call__(self, round: int, attempt: int) -> Drop:
        """The pattern of one sum."""
        if not self.probability:
            return never

        def drop(client: ClientId, step: int) -> bool:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, round, client, attempt, 2**33]))
            return bool(rng.random() < self.probability) and step >= int(rng.integers(self.steps))

        return drop


def nobody(round: int, attempt: int) -> Drop:
    """Nobody drops out."""
    return never
