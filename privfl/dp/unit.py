"""The privacy unit and the sampling of cohorts: an epsilon means nothing without both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from privfl.checks import check_choice, check_count, check_probability, unwrap_numpy
from privfl.errors import ConfigError
from privfl.wire import SERVER, ClientId

Level = Literal["client", "example"]
Adjacency = Literal["add_remove", "replace_one", "zero_out"]

ADJACENCIES: Final[tuple[Adjacency, ...]] = get_args(Adjacency)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)


@dataclass(frozen=True, slots=True)
class PrivacyUnit:
    """The unit whose presence is hidden, and what presence means.

    Attributes:
        level: "client" for a client with all its examples, "example" for one example.
        adjacency: The relation of neighboring data sets: one has one more unit ("add_remove"), one unit's data were
            exchanged for other data ("replace_one"), or one unit's contribution became zero ("zero_out").

    Raises:
        ConfigError: Another level or adjacency.
    """

    level: Level = "client"
    adjacency: Adjacency = "add_remove"

    def __post_init__(self) -> None:
        check_choice("level", self.level, LEVELS)
        check_choice("adjacency", self.adjacency, ADJACENCIES)

    @property
    def factor(self) -> int:
        """Sensitivity divided by the norm bound of one contribution: 2 under `replace_one`, else 1."""
        return 2 if self.adjacency == "replace_one" else 1


@dataclass(frozen=True, slots=True)
class Everyone:
    """Each unit may take part in each round: nothing is claimed from how cohorts are chosen, and anybody may know them.

    A sampler that chooses cohorts by a rule of its own, from no secret, declares this.
    """

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(population + 1)

    def expected_size(self, population: int) -> float:
        """The population; the denominator of a private mean is the size of the cohort, which is no secret."""
        return float(population)

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return "everyone takes part in every round"


@dataclass(frozen=True, slots=True)
class OnePass(Everyone):
    """Each unit takes part in at most one round of a run, known to anybody: one pass over a stream of clients.

    A unit pays for one round, however many there are, and nothing is claimed from how cohorts are chosen.

    Attributes:
        size: The most units of a round, at least 1.

    Raises:
        ConfigError: The size is out of range.
    """

    size: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "size")
        check_count("size", self.size)

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(min(self.size, population) + 1)

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return f"each takes part in one round at most, {self.size} in a round (one pass)"


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each unit takes part in a round with `probability`, in (0, 1], independently of all others."""

    probability: float

    def __post_init__(self) -> None:
        unwrap_numpy(self, "probability")
        check_probability("probability", self.probability)

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(population + 1)

    def expected_size(self, population: int) -> float:
        """The fixed, public denominator of a private mean: probability times population."""
        return self.probability * population

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return f"each takes part with probability {self.probability:g}, independently (Poisson)"


@dataclass(frozen=True, slots=True)
class PoissonBySite:
    """Each example takes part in a step with the probability of its site, independently of all others.

    Attributes:
        probabilities: Pairs of a site and its probability in (0, 1], by increasing site; at least one.

    Raises:
        ConfigError: No pair, a site twice or out of order, or a probability out of range.
    """

    probabilities: tuple[tuple[ClientId, float], ...]

    def __post_init__(self) -> None:
        pairs = tuple((site, float(probability)) for site, probability in self.probabilities)
        object.__setattr__(self, "probabilities", pairs)
        sites = [site for site, _ in pairs]
        if not pairs or sites != sorted(set(sites)) or any(type(s) is not int or not 0 <= s < SERVER for s in sites):
            raise ConfigError("probabilities must be pairs of a site and its probability, by increasing site")
        for site, probability in pairs:
            check_probability(f"the probability of site {site}", probability)

    @property
    def probability(self) -> float:
        """The largest probability of a site, whose examples have the largest figure."""
        return max(probability for _, probability in self.probabilities)

    def of(self, site: ClientId) -> Poisson:
        """The sampling of one site's examples; raises `ConfigError` for a site that is not named."""
        found = dict(self.probabilities).get(site)
        if found is None:
            raise ConfigError(f"site {site} has no probability: ask for one of the {len(self.probabilities)} sites")
        return Poisson(found)

    def sizes(self, population: int) -> range:
        """The sizes that a batch of `population` examples can have."""
        return range(population + 1)

    def expected_size(self, population: int) -> float:
        """The expected size of a batch out of `population` examples; the largest one, if several are possible."""
        return self.probability * population

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        low = min(probability for _, probability in self.probabilities)
        return (
            f"each takes part with the probability of its site, {low:g} to {self.probability:g}, independently "
            "(Poisson)"
        )


@dataclass(frozen=True, slots=True)
class TruncatedPoisson:
    """Poisson sampling that keeps a uniformly random part of a cohort that is too large.

    Attributes:
        probability: Probability in (0, 1] with which each unit is sampled.
        cap: The most units of a round, at least 1.
        population: The number of units, at least 1.

    Raises:
        ConfigError: An attribute is out of range.
    """

    probability: float
    cap: int
    population: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "probability", "population", "cap")
        check_probability("probability", self.probability)
        check_count("population", self.population)
        check_count("cap", self.cap)

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(min(self.cap, population) + 1)

    def expected_size(self, population: int) -> float:
        """The fixed, public denominator of a private mean, slightly above the true mean size."""
        return min(self.probability * population, float(self.cap))

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return (
            f"each of {self.population} takes part with probability {self.probability:g}, independently, and at most "
            f"{self.cap} in a round (truncated Poisson)"
        )


@dataclass(frozen=True, slots=True)
class FixedSize:
    """A uniformly random cohort of a fixed size, without replacement, sampled again in each round.

    Attributes:
        size: The units of a round, at least 1 and at most `population`.
        population: The number of units, at least 1.

    Raises:
        ConfigError: An attribute is out of range.
    """

    size: int
    population: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "population", "size")
        check_count("population", self.population)
        check_count("size", self.size)
        if self.size > self.population:
            raise ConfigError(f"size must be at most the population of {self.population}, not {self.size}")

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(self.size, self.size + 1)

    def expected_size(self, population: int) -> float:
        """The fixed, public denominator of a private mean: the size."""
        return float(self.size)

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return f"{self.size} of {self.population} take part, sampled without replacement"


@dataclass(frozen=True, slots=True)
class RandomAllocation:
    """Each unit takes part in exactly `selected` rounds of each block of `rounds` rounds, chosen uniformly at random.

    Attributes:
        selected: The rounds of a block in which a unit takes part, at least 1 and at most `rounds`.
        rounds: The rounds of a block, at least 1. Blocks begin at rounds 1, 1 + rounds, and so on.

    Raises:
        ConfigError: An attribute is out of range.
    """

    selected: int
    rounds: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "selected", "rounds")
        check_count("selected", self.selected)
        check_count("rounds", self.rounds)
        if self.selected > self.rounds:
            raise ConfigError(f"selected must be at most the {self.rounds} rounds of a block, not {self.selected}")

    @property
    def probability(self) -> float:
        """The probability with which a unit takes part in one round."""
        return self.selected / self.rounds

    def sizes(self, population: int) -> range:
        """The sizes that a cohort of `population` units can have."""
        return range(population + 1)

    def expected_size(self, population: int) -> float:
        """The fixed, public denominator of a private mean: probability times population."""
        return self.probability * population

    def describe(self) -> str:
        """A phrase that describes this sampling."""
        return (
            f"each takes part in exactly {self.selected} of every {self.rounds} rounds, at random (random allocation)"
        )


Sampling = Everyone | OnePass | Poisson | PoissonBySite | TruncatedPoisson | FixedSize | RandomAllocation
"""The sampling that a sampler declares. A ledger and a question take a probability from it, and from nowhere else."""

_KINDS: Final[Mapping[str, type[Sampling]]] = {
    "everyone": Everyone,
    "one_pass": OnePass,
    "poisson": Poisson,
    "poisson_by_site": PoissonBySite,
    "truncated_poisson": TruncatedPoisson,
    "fixed_size": FixedSize,
    "random_allocation": RandomAllocation,
}


def sampling_kind(sampling: Sampling) -> str:
    """The name of a declaration in a ledger, such as everyone or truncated_poisson."""
    return next(name for name, of in _KINDS.items() if type(sampling) is of)


def sampling_record(sampling: Sampling) -> dict[str, Any]:
    """The declaration as a JSON object."""
    record = {"kind": sampling_kind(sampling), **asdict(sampling)}
    if isinstance(sampling, PoissonBySite):
        record["probabilities"] = [list(pair) for pair in sampling.probabilities]
    return record


def read_sampling(record: Mapping[str, Any]) -> Sampling:
    """The declaration from its JSON object; raises `ConfigError` for anything else."""
    fields = dict(record)
    kind = fields.pop("kind", None)
    check_choice("sampling", kind, tuple(_KINDS))
    try:
        return _KINDS[str(kind)](**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sampling {kind!r} does not have the fields {sorted(fields)}") from error


CLIENT_UNIT: Final = PrivacyUnit()
"""Whole clients, added or removed: the default."""
