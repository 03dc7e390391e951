"""Simulated dropouts: clients that drop out at some step of a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from privfl.errors import ConfigError, PrivflError, reason_of
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


def pattern_of(dropouts: Dropouts, round: int, number: int) -> Drop:
    """The drop pattern of one sum, from dropouts that may be a program's own.

    Args:
        dropouts: The simulated dropouts.
        round: The round.
        number: The try of the round, from 0.

    Returns:
        The pattern. It raises `ConfigError` where the program's own raises any other error than privfl's.

    Raises:
        ConfigError: `dropouts` raised an error, or returned no function.
    """
    drop = _called("`dropouts`", dropouts, round, number)
    if not callable(drop):
        raise ConfigError(
            f"`dropouts` returned a {type(drop).__name__} for round {round}: return a function of (client, step) that "
            "is true where the client drops out, or leave `dropouts` out for cohort.dropout"
        )
    if isinstance(dropouts, RandomDropouts):
        return cast("Drop", drop)
    return lambda client, step: bool(_called("the function that `dropouts` returned", drop, client, step))


def _called(what: str, function: Callable[[int, int], Any], *arguments: int) -> Any:
    try:
        return function(*arguments)
    except PrivflError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} failed for {arguments}: {reason_of(error)}. Correct it, or leave `dropouts` out for cohort.dropout"
        ) from error
