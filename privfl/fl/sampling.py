"""Samplers of cohorts. Every sampler declares to the accountant how it samples.

A sampler of your own is a small class with `declare` and `sample`; the accountant believes what it declares.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt

from privfl.crypto import add_keystreams
from privfl.crypto.kdf import derive
from privfl.dp.unit import Everyone, FixedSize, OnePass, Poisson, RandomAllocation, Sampling, TruncatedPoisson
from privfl.errors import ConfigError, PrivacyError, PrivflError, reason_of
from privfl.fl.buffered import ArrivalSampler
from privfl.fl.sparse_sampling import Coins, sparse_subset, uniform_subset
from privfl.wire import ClientId

Uniforms = Callable[[int], npt.NDArray[np.float64]]
"""n -> n independent uniforms in [0, 1), multiples of 2^-53; a second call continues after the first."""


class CohortSampler(Protocol):
    """Samples cohorts, and declares how. The attribute `clients` lists clients other than 0 to population - 1."""

    def declare(self, population: int) -> Sampling:
        """Return how this sampler samples clients 0 .. population-1, in the accountant's terms."""
        ...

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """Return one cohort, increasing; it may be empty under Poisson sampling.

        Args:
            population: The number of clients.
            uniforms: n -> n independent uniforms in [0, 1), the only randomness.
        """
        ...


def declared(sampler: CohortSampler, population: int) -> Sampling:
    """The declaration of a sampler; raises `ConfigError` for anything but one of the declarations of `privfl.dp`, and
    for an error in `declare`.

    Args:
        sampler: The sampler.
        population: The number of clients.
    """
    sampling: Sampling = _answer_of(sampler, "declare", population)
    if type(sampling) not in get_args(Sampling):
        allowed = ", ".join(kind.__name__ for kind in get_args(Sampling))
        raise ConfigError(f"declare() of a sampler returns one of {allowed}, not a {type(sampling).__name__}")
    return sampling


def sampled(sampler: CohortSampler, population: int, uniforms: Uniforms, *, private: bool = False) -> tuple[int, ...]:
    """One cohort of a sampler, checked: by `sample_by_index` where the sampler has it, else by `sample`.

    Args:
        sampler: The sampler.
        population: The number of clients.
        uniforms: n -> n independent uniforms in [0, 1).
        private: Whether a claim rests on the cohort, which then must have been sampled with these coins.

    Raises:
        ConfigError: The cohort is not an increasing sequence of clients from 0 to population - 1, or the sampler raised
            an error.
        PrivacyError: The sampler declares that it samples, and took no coin.
    """
    taken = 0

    def counted(count: int) -> npt.NDArray[np.float64]:
        nonlocal taken
        taken += count
        return uniforms(count)

    name = "sample_by_index" if hasattr(sampler, "sample_by_index") else "sample"
    found = _answer_of(sampler, name, population, counted)
    try:
        cohort = tuple(operator.index(client) for client in found)
    except TypeError as error:
        raise ConfigError("a cohort is a tuple of integers, the clients in increasing order") from error
    clients = getattr(sampler, "clients", None)
    known = range(population) if clients is None else frozenset(clients)
    if list(cohort) != sorted(set(cohort)) or any(client not in known for client in cohort):
        raise ConfigError(f"a cohort must hold some of the {population} clients, each once and in increasing order")
    sampling = declared(sampler, population)
    if private and not taken and not isinstance(sampling, Everyone):
        raise PrivacyError(
            f"the sampler declares {type(sampling).__name__}, and took none of the coins that it was given: no epsilon "
            "can count on it; take the coins from `uniforms`, or declare Everyone()"
        )
    return cohort


def _answer_of(sampler: CohortSampler, method: str, *arguments: Any) -> Any:
    """The result of a sampler's method; an error of a program's own sampler is a `ConfigError` that names it."""
    try:
        return getattr(sampler, method)(*arguments)
    except PrivflError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{method}() of the sampler {type(sampler).__name__} failed: {reason_of(error)}. Correct it, or leave "
            "`sampler` out for cohort.sampling"
        ) from error


@dataclass(frozen=True, slots=True)
class EveryoneSampler:
    """All clients in every round."""

    def declare(self, population: int) -> Sampling:
        """Return the declaration without amplification."""
        return Everyone()

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`."""
        return tuple(range(population))


@dataclass(frozen=True, slots=True)
class PoissonSampler:
    """Each client independently with `probability`; a cohort is never sampled again, not even an empty one."""

    probability: float

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def declare(self, population: int) -> Sampling:
        """Return the declaration of Poisson sampling."""
        return Poisson(self.probability)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`: one coin for each client."""
        return tuple(np.flatnonzero(uniforms(population) < self.probability).tolist())

    def sample_by_index(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """Return a cohort of the same law as that of `sample`, for which a large population costs no coins.

        A small probability in a large population takes a few coins for each client of the cohort; every other cohort
        is that of `sample`.

        Args:
            population: The number of clients.
            uniforms: n -> n independent uniforms in [0, 1).
        """
        if population < _LARGE or self.probability > _SPARSE:
            return self.sample(population, uniforms)
        return tuple(sparse_subset(population, self.probability, Coins(uniforms)))


@dataclass(frozen=True, slots=True)
class TruncatedPoissonSampler:
    """Poisson sampling, and of a cohort above `cap` a uniform subset of `cap` clients.

    Attributes:
        probability: The probability of each client, in (0, 1].
        cap: The maximum cohort, at least 1.
    """

    probability: float
    cap: int

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        if self.cap < 1:
            raise ConfigError(f"cap must be at least 1, not {self.cap}")

    def declare(self, population: int) -> Sampling:
        """Return the declaration of truncated Poisson sampling."""
        return TruncatedPoisson(self.probability, self.cap, population)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`: of a cohort that is too large, the clients with the `cap` smallest coins."""
        coins = uniforms(population)
        chosen = np.flatnonzero(coins < self.probability)
        if len(chosen) > self.cap:
            # Given that a coin is below the probability its value is uniform, so the order of the coins is a shuffle.
            chosen = chosen[_smallest(coins[chosen], self.cap)]
        return tuple(chosen.tolist())

    def sample_by_index(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """Return a cohort of the same law as that of `sample`, for which a large population costs no coins.

        A small probability in a large population takes a few coins for each client of the cohort; every other cohort
        is that of `sample`.

        Args:
            population: The number of clients.
            uniforms: n -> n independent uniforms in [0, 1).
        """
        if population < _LARGE or self.probability > _SPARSE:
            return self.sample(population, uniforms)
        coins = Coins(uniforms)
        chosen = tuple(sparse_subset(population, self.probability, coins))
        return chosen if len(chosen) <= self.cap else uniform_subset(chosen, self.cap, coins)


@dataclass(frozen=True, slots=True)
class FixedSizeSampler:
    """A uniform subset of exactly `size` clients, without replacement."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size must be at least 1, not {self.size}")

    def declare(self, population: int) -> Sampling:
        """Return the declaration of sampling without replacement."""
        return FixedSize(self.size, population)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`: the clients with the smallest coins.

        Raises:
            ConfigError: There are fewer clients than `size`.
        """
        self._check_population(population)
        return tuple(_smallest(uniforms(population), self.size).tolist())

    def sample_by_index(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """Return a cohort of the same law as that of `sample`, for which a large population costs no coins.

        A small cohort of a large population takes about a coin for each place in the cohort; every other cohort is that
        of `sample`.

        Args:
            population: The number of clients.
            uniforms: n -> n independent uniforms in [0, 1).

        Raises:
            ConfigError: There are fewer clients than `size`.
        """
        self._check_population(population)
        if population < _LARGE or self.size > population // 16:
            return self.sample(population, uniforms)
        return uniform_subset(range(population), self.size, Coins(uniforms))

    def _check_population(self, population: int) -> None:
        if self.size > population:
            raise ConfigError(f"a cohort of {self.size} cannot be sampled from {population} clients")


@dataclass(frozen=True, slots=True)
class AllocationSampler:
    """Each client in exactly `selected` rounds of every block of `rounds` rounds, chosen uniformly at random.

    The coins of a block's first round choose all its rounds, so every round of a block is sampled with those coins.
    `in_round` gives the sampler of a round, and the round whose coins it takes.

    Attributes:
        selected: The rounds of a block in which a client takes part.
        rounds: The rounds of a block.
        place: The place of the round that is sampled in its block, from 0.
    """

    selected: int
    rounds: int
    place: int = 0

    def __post_init__(self) -> None:
        RandomAllocation(self.selected, self.rounds)
        if not 0 <= self.place < self.rounds:
            raise ConfigError(f"place must be in [0, {self.rounds}), not {self.place}")

    def declare(self, population: int) -> Sampling:
        """Return the declaration of random allocation."""
        return RandomAllocation(self.selected, self.rounds)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`: the clients whose coin of this round is one of their `selected` smallest."""
        coins = uniforms(population * self.rounds).reshape(population, self.rounds)
        order = np.argsort(coins, axis=1, kind="stable")[:, : self.selected]
        return tuple(np.flatnonzero((order == self.place).any(axis=1)).tolist())


@dataclass(frozen=True, slots=True)
class OnePassSampler:
    """Each client in one round: the next `size` clients in the order of their numbers, as in a stream.

    `in_round` gives the sampler of a round. No coin is taken, because the order is public.

    Attributes:
        size: The clients of a round; the last round may have fewer.
        round: The round that is sampled, from 1.
    """

    size: int
    round: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.round < 1:
            raise ConfigError(f"size and round must be at least 1, not {self.size} and {self.round}")

    def declare(self, population: int) -> Sampling:
        """Return the declaration of one pass."""
        return OnePass(self.size)

    def max_rounds(self, population: int) -> int:
        """The rounds until every one of `population` clients was asked."""
        return -(-population // self.size)

    def sample(self, population: int, uniforms: Uniforms) -> tuple[ClientId, ...]:
        """See `CohortSampler.sample`. Raises `ConfigError` once every client was asked."""
        if self.round > self.max_rounds(population):
            raise ConfigError(
                f"{self.max_rounds(population)} rounds of {self.size} ask all {population} clients, and round "
                f"{self.round} has nobody left: run fewer rounds, or set cohort.size lower"
            )
        start = (self.round - 1) * self.size
        return tuple(range(start, min(start + self.size, population)))


def in_round(sampler: CohortSampler, round: int) -> tuple[CohortSampler, int]:
    """The sampler of one round, and the round whose coins it takes.

    Args:
        sampler: The sampler of a run.
        round: The round, from 1.
    """
    inner = getattr(sampler, "inner", None)
    if inner is not None:  # a sampler that renames the clients of another one
        placed, coins = in_round(inner, round)
        return (sampler if placed is inner else replace(cast(Any, sampler), inner=placed)), coins
    if isinstance(sampler, OnePassSampler | ArrivalSampler):
        return replace(sampler, round=max(round, 1)), round
    if not isinstance(sampler, AllocationSampler):
        return sampler, round
    place = max(round - 1, 0) % sampler.rounds
    return replace(sampler, place=place), round - place


def seeded_uniforms(seed: int, round: int) -> Uniforms:
    """Return the coins of one round of a simulation. Equal seeds give equal coins, so they are no secret.

    Args:
        seed: The seed of the run.
        round: The round.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, round, 2**32])).random


def secret_uniforms(secret: bytes, round: int) -> Uniforms:
    """Return the coins of one round from a cryptographic stream: amplification by sampling needs coins that nobody
    knows.

    Args:
        secret: 32 bytes of full entropy that only the sampling party holds; an equal secret repeats the coins.
        round: The round.
    """

    calls = itertools.count()

    def uniforms(count: int) -> npt.NDArray[np.float64]:
        words, call = np.zeros(count, "<u8"), next(calls)
        context = round.to_bytes(8, "little") + (call.to_bytes(8, "little") if call else b"")
        add_keystreams(words, [derive(secret, "cohort", context)])
        return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)

    return uniforms


_LARGE: Final = 1 << 16
_SPARSE: Final = 2.0**-9
"""From this population on, cohorts of at most this fraction are sampled in a time that follows the cohort."""


def _smallest(coins: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.intp]:
    """The indices of the `size` smallest coins, increasing; of equal coins the first count as smaller.

    Finding the one coin at the border takes linear time, where sorting a large population takes most of a round.
    """
    border = np.partition(coins, size - 1)[size - 1]
    chosen = np.flatnonzero(coins <= border)
    if len(chosen) == size:
        return chosen
    at_border = np.flatnonzero(coins[chosen] == border)
    return np.delete(chosen, at_border[size - len(chosen) :])


def _check_probability(value: float) -> None:
    if not (0 < value <= 1 and math.isfinite(value)):
        raise ConfigError(f"probability must be in (0, 1], not {value!r}")
