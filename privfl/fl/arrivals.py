"""The arrivals of asynchronous rounds on a virtual clock: who trains when, on which model, and which buffer it fills.

A seeded schedule, a function of its arguments alone: no training, data or machine has a part in it. As in FedBuff
(Nguyen et al. 2022, algorithm 1), so many clients train at any time, each from the newest model at its start.
Each client that finishes puts its update into the buffer, and another client starts. A full buffer is one round.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import numpy as np

from privfl.errors import ConfigError
from privfl.wire import ClientId

_SPEED: Final = 5
_CHOICE: Final = 6
_AWAY: Final = 7
"""Last words of the keys of the schedule's randomness, besides those of `privfl/fl/client.py`."""

_MANY: Final = 1 << 12
_TRIES: Final = 1 << 10
"""In a population of at least `_MANY`, a client that can start is looked for at random so often, and then in a list."""


class ClientTimes(Protocol):
    """The seconds that clients train, and the times at which they can be asked."""

    def seconds(self, client: ClientId, job: int) -> float:
        """The virtual seconds that one training takes, positive.

        Args:
            client: The client.
            job: The number of the training in the run, from 0.
        """
        ...

    def available(self, client: ClientId, time: float) -> bool:
        """True if the client can be asked at that virtual time.

        Args:
            client: The client.
            time: The virtual time, in seconds from 0.
        """
        ...


@dataclass(frozen=True, slots=True)
class SeededTimes:
    """Times from a seed: each client has a speed of its own, some are stragglers, and clients come and go.

    Attributes:
        seed: The seed.
        spread: The standard deviation of the logarithm of a client's mean time, at least 0.
        stragglers: The fraction of clients that are slower by `slowdown`, in [0, 1].
        slowdown: The factor of their times, at least 1.
        availability: The fraction of time in which a client can be asked, in (0, 1].
        period: The virtual seconds after which a client's availability is sampled again, positive.
    """

    seed: int
    spread: float = 0.3
    stragglers: float = 0.0
    slowdown: float = 10.0
    availability: float = 1.0
    period: float = 10.0

    def __post_init__(self) -> None:
        ranges = (
            ("spread", self.spread, 0.0, math.inf),
            ("stragglers", self.stragglers, 0.0, 1.0),
            ("slowdown", self.slowdown, 1.0, math.inf),
            ("availability", self.availability, 0.01, 1.0),
            ("period", self.period, 1e-9, math.inf),
        )
        for name, value, low, high in ranges:
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} must be in [{low:g}, {high:g}], not {value!r}")

    def seconds(self, client: ClientId, job: int) -> float:
        """See `ClientTimes.seconds`."""
        own = np.random.default_rng([self.seed, client, _SPEED])
        mean = math.exp(self.spread * own.standard_normal()) * (
            self.slowdown if own.random() < self.stragglers else 1.0
        )
        return float(mean * np.random.default_rng([self.seed, client, job, _SPEED]).uniform(0.9, 1.1))

    def available(self, client: ClientId, time: float) -> bool:
        """See `ClientTimes.available`."""
        if self.availability == 1.0:
            return True
        part = int(time // self.period)
        return bool(np.random.default_rng([self.seed, client, part, _AWAY]).random() < self.availability)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One update in a buffer.

    Attributes:
        client: The client.
        base: The round whose model it was trained from; 0 is the first model.
        time: The virtual time at which it arrived.
    """

    client: ClientId
    base: int
    time: float


@dataclass(frozen=True, slots=True)
class FullBuffer:
    """The arrivals that fill the buffer of one round.

    Attributes:
        round: The round, from 1.
        arrivals: By client, increasing; no client is in a buffer twice.
        time: The virtual time at which the buffer was full.
        oldest: The oldest round whose model is still being trained from after this round.
    """

    round: int
    arrivals: tuple[Arrival, ...]
    time: float
    oldest: int


def buffers(population: int, size: int, concurrency: int, times: ClientTimes, *, seed: int) -> Iterator[FullBuffer]:
    """The buffers of a run, without end.

    A client whose update is in the open buffer does not start again before the buffer is full: a buffer is a sum
    over different clients.

    Args:
        population: The number of clients that exist.
        size: The arrivals that fill a buffer, K.
        concurrency: The clients that train at any time, at most `population` less `size`.
        times: How long clients train, and when they can be asked.
        seed: Chooses who starts, uniformly among those that can be asked.

    Raises:
        ConfigError: If the numbers do not fit, or nobody can be asked and nobody trains.
    """
    if not (size >= 1 and concurrency >= 1 and size + concurrency <= population):
        raise ConfigError(
            f"a buffer of {size} and {concurrency} clients that train need a population of {size + concurrency}, and "
            f"{population} clients exist: lower the size of the buffer or the concurrency"
        )
    choice = np.random.default_rng([seed, _CHOICE])
    training: list[tuple[float, int, ClientId, int]] = []  # (end, number of the job, client, base)
    busy, filled = set[ClientId](), list[Arrival]()
    time, job, round = 0.0, 0, 1
    while True:
        wanted = concurrency - len(training)
        for client in islice(_starting(population, busy, times, time, choice), wanted):
            heapq.heappush(training, (time + times.seconds(client, job), job, client, round - 1))
            busy.add(client)
            job += 1
        if not training:
            raise ConfigError(
                f"no client can be asked at the virtual time {time:g}, and none trains: raise availability"
            )
        time, _, client, base = heapq.heappop(training)
        filled.append(Arrival(client, base, time))
        if len(filled) == size:
            oldest = min((entry[3] for entry in training), default=round)
            yield FullBuffer(round, tuple(sorted(filled, key=lambda a: a.client)), time, min(oldest, round))
            busy -= {arrival.client for arrival in filled}
            filled, round = [], round + 1


def _starting(
    population: int, busy: set[ClientId], times: ClientTimes, time: float, choice: np.random.Generator
) -> Iterator[ClientId]:
    """Clients that start now, each uniform among those that can be asked; the caller marks each as busy.

    In a large population a client is tried at random, and another one if it cannot be asked: no list of all is made.
    """
    tries = _TRIES if population >= _MANY else 0
    while tries:
        client = next(
            (
                client
                for client in (int(choice.integers(population)) for _ in range(tries))
                if client not in busy and times.available(client, time)
            ),
            None,
        )
        if client is None:
            break
        yield client
    idle = [client for client in range(population) if client not in busy and times.available(client, time)]
    while idle:
        yield idle.pop(int(choice.integers(len(idle))))
