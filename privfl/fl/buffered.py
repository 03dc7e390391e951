"""Asynchronous rounds in a simulation: FedBuff over any sum (Nguyen et al. 2022, algorithm 1).

A buffer of K arrivals is one sum over those K clients. The plan of the round lists the model that each of them trained
from, and the weight of its update, which falls with its age. Nothing else of a round changes. The arrivals are a
function of public numbers (`privfl/fl/arrivals.py`). So a run that goes on after a crash makes the schedule again, and
reads the models that clients still train from in its store.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from privfl.codec import Vector
from privfl.dp.unit import Everyone, PrivacyUnit
from privfl.errors import ConfigError
from privfl.fl.arrivals import ClientTimes, FullBuffer, buffers
from privfl.fl.bases import Base, check_neighbors
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import model_hash
from privfl.fl.store import ModelStore, Version
from privfl.wire import ClientId


class Schedule:
    """The buffers of one run, by round: a function of its arguments alone.

    Args:
        population: The number of clients that exist.
        size: The arrivals that fill a buffer, K.
        concurrency: The clients that train at any time, at most `population` less `size`.
        times: How long clients train, and when they can be asked.
        seed: Chooses who starts.

    Raises:
        ConfigError: If the numbers do not fit.
    """

    def __init__(self, population: int, size: int, concurrency: int, times: ClientTimes, *, seed: int) -> None:
        self.population, self.size = population, size
        self._coming = buffers(population, size, concurrency, times, seed=seed)
        self._filled: list[FullBuffer] = [next(self._coming)]

    def buffer(self, round: int) -> FullBuffer:
        """The buffer of a round, from 1."""
        while len(self._filled) < round:
            self._filled.append(next(self._coming))
        return self._filled[round - 1]


@dataclass(frozen=True, slots=True)
class ArrivalSampler:
    """The cohorts of asynchronous rounds: the clients whose updates fill a buffer. No coin is taken.

    `in_round` gives the sampler of a round.

    Attributes:
        schedule: The buffers of the run.
        age_exponent: An update that is a rounds old has the weight (1 + a)^-age_exponent; at least 0. By default it is
            1/sqrt(1 + a), as in Nguyen et al. 2022, section 5.
        round: The round that is sampled, from 1.
    """

    schedule: Schedule
    age_exponent: float = 0.5
    round: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.age_exponent) and self.age_exponent >= 0):
            raise ConfigError(f"age_exponent must be a number of at least 0, not {self.age_exponent!r}")

    def declare(self, population: int) -> Everyone:
        """Return the declaration without amplification: anybody may know who arrives."""
        return Everyone()

    def sample(self, population: int, uniforms: object) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`. Raises `ConfigError` for another population than that of the schedule."""
        if population != self.schedule.population:
            raise ConfigError(
                f"the schedule of arrivals is of {self.schedule.population} clients, and {population} exist: make it "
                "for these"
            )
        return tuple(arrival.client for arrival in self.buffer.arrivals)

    @property
    def buffer(self) -> FullBuffer:
        """The buffer of the round."""
        return self.schedule.buffer(self.round)

    @property
    def ages(self) -> tuple[int, ...]:
        """The age of each update in rounds, in the order of the clients."""
        return tuple(self.round - 1 - arrival.base for arrival in self.buffer.arrivals)

    def weight(self, age: int) -> float:
        """The weight of an update that is `age` rounds old, in (0, 1]."""
        return max(math.pow(1 + age, -self.age_exponent), sys.float_info.min)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A buffer, as a round needs it.

    Attributes:
        bases: The base and the weight of each client, for the plan; empty in a synchronous round.
        models: The models that they trained from, by their hashes.
        time: The virtual time at which the buffer was full, in seconds; None in a synchronous round.
        ages: How many rounds old each update is, in the order of the clients.
        oldest: The oldest round whose model is still needed after this round; None in a synchronous round.
    """

    bases: tuple[Base, ...] = ()
    models: Mapping[str, Vector] = field(default_factory=dict, repr=False)
    time: float | None = None
    ages: tuple[int, ...] = ()
    oldest: int | None = None


SYNCHRONOUS: Final = Arrived()
"""A round whose cohort trains from its own model."""


class BaseModels:
    """The models that clients train from, by round: those of this process, and those in the store after a restart.

    Args:
        store: The versions of the run's model.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[int, tuple[str, Vector]] = {}

    def arrived(self, sampler: object, latest: Version) -> Arrived:
        """The arrivals of a round; `SYNCHRONOUS` for a sampler of other rounds.

        Args:
            sampler: The sampler of the round.
            latest: The version before the round.
        """
        if not isinstance(sampler, ArrivalSampler):
            return SYNCHRONOUS
        buffer = sampler.buffer
        self._models[latest.round] = _sent(latest)
        known = {arrival.base: self._model(arrival.base) for arrival in buffer.arrivals}
        weights = map(sampler.weight, sampler.ages)
        bases = (Base(known[a.base][0], weight) for a, weight in zip(buffer.arrivals, weights, strict=True))
        self._models = {round: model for round, model in self._models.items() if round >= buffer.oldest}
        return Arrived(tuple(bases), dict(known.values()), buffer.time, sampler.ages, buffer.oldest)

    def _model(self, round: int) -> tuple[str, Vector]:
        if round not in self._models:
            self._models[round] = _sent(self._store.load(round))
        return self._models[round]


def _sent(version: Version) -> tuple[str, Vector]:
    """The vector that clients train from after a version, and its hash."""
    sent = version.state.sent
    return (model_hash(sent) if version.state.shared else version.hash), sent


def max_cohort(sampler: object, population: int) -> int:
    """The most clients that a round asks.

    Args:
        sampler: The sampler of the run.
        population: The number of clients that exist.
    """
    return sampler.schedule.size if isinstance(sampler, ArrivalSampler) else population


def check_asynchronous(sampler: object, encoding: UpdateEncoding, unit: PrivacyUnit | None, *, stateful: bool) -> None:
    """Refuse asynchronous rounds with training, weights or neighbors that they do not fit.

    Args:
        sampler: The sampler of the run; one of other rounds passes.
        encoding: How an update becomes integers.
        unit: The unit of the ledger that prices the noise; None without noise.
        stateful: Whether clients keep states.

    Raises:
        ConfigError: If clients keep states or are weighed by examples, or examples are summed.
        PrivacyError: If the unit is of add_remove.
    """
    if not isinstance(sampler, ArrivalSampler):
        return
    if stateful:
        raise ConfigError("asynchronous rounds keep no states of clients: use an algorithm without states")
    if encoding.weighting != "uniform":
        raise ConfigError("FedBuff weighs updates by their age, and clients alike: set weighting to 'uniform'")
    if encoding.examples is not None:
        raise ConfigError("asynchronous rounds sum updates of clients, and not examples: set the unit to 'client'")
    if unit is not None:
        check_neighbors(unit.adjacency)
