"""Asynchronous rounds in a simulation: FedBuff over any sum (Nguyen et al. 2022, algorithm 1).

A buffer of K arrivals is one sum over those K clients. The plan of the round lists the model that each of them trained
from, and the weight of its update, which falls with its age. Nothing else of a round changes: the same client's half,
server's half and sums.

Noise is refused. The members of a buffer follow from the speed of all clients. One client more or less changes the
members of every later buffer, and the accountants here have no theorem for that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfl.codec import Vector
from privfl.dp.unit import Everyone
from privfl.errors import ConfigError, PrivacyError
from privfl.fl.arrivals import Buffer, ClientTimes, buffers
from privfl.fl.bases import Base
from privfl.fl.chunks import EACH_ALONE, Chunking
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import NO_NOISE, RUN_NONCE_BYTES, RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule

ALL_OF_THEM: Final = SurvivorRule(1.0)


def polynomial(age: int) -> float:
    """1/sqrt(1 + age): the weight of an update that is `age` rounds old, as in Nguyen et al. 2022, section 5."""
    return float((1 + age) ** -0.5)


@dataclass(frozen=True, slots=True)
class BufferedRound:
    """The result of one asynchronous round.

    Attributes:
        round: The round, from 1.
        time: The virtual time at which its buffer was full, in seconds.
        state: The server's state after the round.
        ages: How many rounds old each update was, in the order of the clients.
        plan: The plan of the round.
        caveats: What the sum does not promise.
    """

    round: int
    time: float
    state: ServerState
    ages: tuple[int, ...]
    plan: RoundPlan
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferedRun:
    """A simulation of asynchronous rounds. Equal arguments give equal models, for any executor.

    Attributes:
        population: The number of clients that exist.
        parts: Training, sum, executor, optimizer and credentials.
        encoding: How an update becomes integers; its weights are uniform.
        times: The virtual clock.
        size: The arrivals that fill a buffer, K.
        concurrency: The clients that train at any time.
        seed: Keys training and the choice of clients.
        weight: Maps the age of an update, in rounds, to its weight in (0, 1].
        nonce: The run's nonce, 16 random bytes; None makes one.
        chunking: In which chunks clients are trained, and if at once.

    Raises:
        ConfigError: If the training keeps states, or clients are weighted by examples.
        PrivacyError: If the encoding is one of sums with noise.
    """

    population: int
    parts: Parts
    encoding: UpdateEncoding
    times: ClientTimes
    size: int
    concurrency: int
    seed: int
    weight: Callable[[int], float] = polynomial
    nonce: bytes | None = None
    chunking: Chunking = EACH_ALONE

    def __post_init__(self) -> None:
        if self.parts.contribution.stateful:
            raise ConfigError("asynchronous rounds keep no states of clients: use an algorithm without states")
        if self.encoding.weighting != "uniform":
            raise ConfigError("FedBuff weighs updates by their age, and clients alike: set weighting to 'uniform'")
        if self.encoding.examples is not None:
            raise PrivacyError(
                "asynchronous rounds have no noise: no accountant prices a cohort that is chosen by speed"
            )

    def run(self, initial: Vector, rounds: int) -> Iterator[BufferedRound]:
        """Yield the state after each of `rounds` rounds.

        Args:
            initial: The first model, flat.
            rounds: The number of rounds.

        Raises:
            TooFewSurvivors: If the sum does not open a buffer of this size.
        """
        nonce = self.nonce or os.urandom(RUN_NONCE_BYTES)
        state = ServerState(initial, shared=self.parts.aggregation.start())
        models = {0: state.sent}
        schedule = buffers(self.population, self.size, self.concurrency, self.times, seed=self.seed)
        for _, buffer in zip(range(rounds), schedule, strict=False):
            plan = self.plan(state, buffer, models, nonce)
            bases = {model_hash(model): model for model in models.values()}
            outcome = run_round(state, plan, self.parts, bases=bases).outcome
            state = outcome.state
            models = {round: model for round, model in models.items() if round >= buffer.oldest}
            models[buffer.round] = state.sent
            ages = tuple(buffer.round - 1 - arrival.base for arrival in buffer.arrivals)
            yield BufferedRound(buffer.round, buffer.time, state, ages, plan, outcome.caveats)

    def plan(self, state: ServerState, buffer: Buffer, models: dict[int, Vector], nonce: bytes) -> RoundPlan:
        """The plan of one buffer.

        Args:
            state: The server's state before the round.
            buffer: The arrivals.
            models: The models that clients trained from, by round.
            nonce: The run's nonce.
        """
        hashes = {arrival.base: model_hash(models[arrival.base]) for arrival in buffer.arrivals}
        return RoundPlan(
            run=nonce,
            round=buffer.round,
            model_hash=model_hash(state.sent),
            cohort=tuple(arrival.client for arrival in buffer.arrivals),
            bases=tuple(
                Base(hashes[arrival.base], self.weight(buffer.round - 1 - arrival.base)) for arrival in buffer.arrivals
            ),
            population=self.population,
            sampling=Everyone(),
            survivor_rule=ALL_OF_THEM,
            encoding=self.encoding,
            mechanism=NO_NOISE,
            scheme=self.parts.scheme.name,
            parameters=self.parts.scheme.parameters,
            seed=self.seed,
            chunking=self.chunking,
        )


def time_to(reached: Iterator[tuple[float, float]], goal: float) -> float:
    """The first virtual time at which a metric has reached a goal; infinity if it never does.

    Args:
        reached: Pairs of a time and the metric, in the order of time.
        goal: The value to reach.
    """
    return next((time for time, value in reached if value >= goal), float(np.inf))
