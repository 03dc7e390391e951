"""Draws of cohorts: what the ledger records before each one, and the chance that a skipped round gives a client away.

Everybody sees that a round was skipped. If it was skipped or not because of one client, that bit reveals whether the
client was sampled, with any noise. `round_turn` bounds the probability; protocols/privacy-ledger, section 9, proves
that it may be taken off delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final

from privfl.checks import check_count
from privfl.dp.unit import (
    Adjacency,
    Everyone,
    FixedSize,
    OnePass,
    RandomAllocation,
    Sampling,
    TruncatedPoisson,
    read_sampling,
    sampling_record,
)
from privfl.errors import ConfigError

Shortfall = Callable[[int], float | None]
"""Cohort size k -> an upper bound on the probability that a sum of k clients opens nothing, or None where there is
none. Exactly 1 where a cohort of k can never open. `SecureSum.shortfall` with its other arguments fixed."""

IMPLAUSIBLE: Final = 1e-9
"""An outcome less likely than this under what a run declared refutes the declaration."""

_THREE_DIGITS: Final = Context(prec=3, rounding=ROUND_CEILING)
_TINY: Final = 1e-12
_UP: Final = 1 + _TINY
_NEGLIGIBLE: Final = 1e-40  # sizes of a cohort less likely than this are counted as if one client decided each of them
_ALL_SIZES: Final = 1 << 8  # below this population every size of a cohort is looked at


@dataclass(frozen=True, slots=True)
class Draw:
    """The draw of one round's cohort, noted in the ledger before the cohort is sampled.

    Attributes:
        round: Number of the round, at least 0.
        sampling: How the cohort is sampled, as the sampler declares it.
        turn: The probability, in [0, 1] with three significant decimal digits, that one client's participation decides
            whether the round is skipped, given that the client is sampled. None if it is not bounded; then no
            amplification by sampling is claimed in this round.
        void: True if earlier rounds had more dropouts than the declared dropout probability plausibly allows. Then no
            `turn` of the ledger counts.

    Raises:
        ConfigError: For a negative round, or a `turn` outside [0, 1] or with more digits.
    """

    round: int
    sampling: Sampling
    turn: float | None
    void: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.round, int) or isinstance(self.round, bool) or self.round < 0:
            raise ConfigError(f"round must be an integer of at least 0, not {self.round!r}")
        if not isinstance(self.void, bool):
            raise ConfigError(f"void must be true or false, not {self.void!r}")
        if self.turn is not None and rounded_up(self.turn) != self.turn:
            raise ConfigError(f"turn must have at most three significant digits, not {self.turn!r}")

    def record(self) -> dict[str, Any]:
        """The draw as the JSON object of a ledger line."""
        fields: dict[str, Any] = {"round": self.round, "sampling": sampling_record(self.sampling), "turn": self.turn}
        return {"type": "draw", **fields, **({"void": True} if self.void else {})}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Draw:
        """The draw from its JSON object; raises `ConfigError` for anything else."""
        allowed = {"type", "round", "sampling", "turn"}
        if not allowed <= set(record) <= allowed | {"void"} or record.get("void", True) is not True:
            raise ConfigError(f"a draw has the fields {sorted(allowed)}, and void only where it is true")
        turn = record["turn"]
        if turn is not None and not isinstance(turn, float):  # one encoding: 0.0, never 0
            raise ConfigError(f"turn must be a decimal number or null, not {turn!r}")
        return cls(record["round"], read_sampling(record["sampling"]), turn, "void" in record)


def rounded_up(turn: float) -> float:
    """`turn`, in [0, 1], rounded up to three significant decimal digits; raises `ConfigError` outside [0, 1]."""
    if not 0 <= turn <= 1:
        raise ConfigError(f"turn must be a probability in [0, 1], not {turn!r}")
    return float(_THREE_DIGITS.create_decimal(Decimal(repr(turn))))


def sampled_share(sampling: Sampling) -> float:
    """The probability with which one client is sampled, at most: q(S) of protocols/privacy-ledger."""
    if isinstance(sampling, FixedSize):
        return sampling.size / sampling.population
    return 1.0 if isinstance(sampling, Everyone) else sampling.probability


def round_turn(
    sampling: Sampling,
    population: int,
    shortfall: Shortfall,
    *,
    tries: int = 1,
    adjacency: Adjacency = "add_remove",
) -> float | None:
    """An upper bound on the probability that one sampled client decides whether a round is skipped.

    It is the sum over K of P(K) min(1, shortfall(K) + shortfall(K')), where K clients are sampled besides the client
    and K' counts it too. If a round would be skipped in only one of both cases, one of two sums opened nothing.

    Args:
        sampling: How the cohort is sampled.
        population: Number of clients, at least 1.
        shortfall: Bound on the probability that a cohort of a given size opens nothing, or None: not bounded. It has to
            hold for every client that drops out independently with at most the declared probability.
        tries: Attempts of a round with one cohort, at least 1. The probability grows with each attempt.
        adjacency: The relation of neighboring data sets. If every client takes part in every round, the result is 0
            except for "add_remove".

    Returns:
        A number in [0, 1], rounded up to three significant digits, or None where `shortfall` gives None.

    Raises:
        ConfigError: For counts below 1, or a shortfall outside [0, 1].
    """
    check_count("population", population)
    check_count("tries", tries)
    if isinstance(sampling, Everyone) and adjacency != "add_remove":
        return 0.0
    if isinstance(sampling, RandomAllocation):
        # The bound is proved for rounds that are sampled apart from each other: only what never fails turns nothing.
        return 0.0 if all(_checked(shortfall(size)) == 0.0 for size in range(population + 1)) else None
    known: dict[int, float | None] = {}

    def failing(size: int) -> float | None:
        if size not in known:
            known[size] = _checked(shortfall(size))
        return known[size]

    total, evaluated = 0.0, False
    others, outside = _others(sampling, population)
    for (size, with_it), probability in others.items():
        without, counted = failing(size), failing(with_it)
        if without is None or counted is None:
            return None
        evaluated = evaluated or without + counted > 0
        if without < 1 or counted < 1:  # where neither can ever open, the round is skipped with the client and without
            total += probability * min(1.0, without + counted)
    if evaluated:
        total += outside
    return rounded_up(min(1.0, tries * total * _UP))


def mean_shortfall(sampling: Sampling, population: int, shortfall: Shortfall) -> float | None:
    """The probability that a round of this sampling opens nothing, at most; None where it is not bounded.

    Args:
        sampling: How the cohort is sampled.
        population: Number of clients, at least 1.
        shortfall: The same as in `round_turn`.
    """
    check_count("population", population)
    sizes, outside = _sizes(sampling, population)
    total = 0.0
    for size, probability in sizes.items():
        found = _checked(shortfall(size))
        if found is None:
            return None
        total += probability * found
    return min(1.0, (total + (outside if total else 0.0)) * _UP)


def plausible(
    sampling: Sampling,
    population: int,
    *,
    rounds: int,
    skipped: int,
    participants: int,
    shortfall: float,
    max_times: int = 0,
) -> bool:
    """False where finished rounds refute what their draws declared, at a probability below 1e-9.

    The run asks this after each round. If the answer is False it writes the next draw at once, and that draw is void,
    because no later round may come. A reader of the ledger never asks: epsilon stays a function of the ledger.

    Args:
        sampling: How cohorts are sampled.
        population: Number of clients, at least 1.
        rounds: The number of cohorts sampled so far.
        skipped: How many of them were skipped.
        participants: Clients that took part, summed over the rounds.
        shortfall: The largest `mean_shortfall` of these rounds.
        max_times: The largest number of these cohorts that one client was in.
    """
    share = sampled_share(sampling)
    refuted = _rare(rounds, shortfall, skipped) or _rare(rounds * population, share, participants)
    return not (refuted or _rare(rounds, share, max_times, among=population))


def _checked(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"a shortfall is a probability in [0, 1], not {value!r}")
    return value


def _others(sampling: Sampling, population: int) -> tuple[dict[tuple[int, int], float], float]:
    """(others sampled, cohort with the client) -> probability, and the probability of all sizes left out."""
    if isinstance(sampling, FixedSize):
        return {(sampling.size, sampling.size): 1.0}, 0.0
    if isinstance(sampling, OnePass):  # each size that a cohort can have counts in full: the sum is no less than any
        return {(size - 1, size): 1.0 for size in _of_one_pass(sampling, population)}, 0.0
    if isinstance(sampling, Everyone):
        return {(population - 1, population): 1.0}, 0.0
    sizes, outside = _binomial(population - 1, sampling.probability)
    cap = sampling.cap if isinstance(sampling, TruncatedPoisson) else population
    found: dict[tuple[int, int], float] = {}
    for size, probability in sizes.items():
        pair = min(size, cap), min(size + 1, cap)
        found[pair] = found.get(pair, 0.0) + probability
    return found, outside


def _sizes(sampling: Sampling, population: int) -> tuple[dict[int, float], float]:
    """Cohort size -> probability, and the probability of all sizes left out."""
    if isinstance(sampling, FixedSize):
        return {sampling.size: 1.0}, 0.0
    if isinstance(sampling, OnePass):
        return dict.fromkeys(_of_one_pass(sampling, population), 1.0), 0.0
    if isinstance(sampling, Everyone):
        return {population: 1.0}, 0.0
    sizes, outside = _binomial(population, sampling.probability)
    cap = sampling.cap if isinstance(sampling, TruncatedPoisson) else population
    found: dict[int, float] = {}
    for size, probability in sizes.items():
        found[min(size, cap)] = found.get(min(size, cap), 0.0) + probability
    return found, outside


def _of_one_pass(sampling: OnePass, population: int) -> list[int]:
    """The sizes of the cohorts of one pass, of which the last may be smaller."""
    return [size for size in (min(sampling.size, population), population % sampling.size) if size]


def _binomial(n: int, p: float) -> tuple[dict[int, float], float]:
    """k -> P(Bin(n, p) = k) for all k that matter, and what the others have together, at most."""
    if p == 1.0 or n == 0:
        return {n: 1.0}, 0.0
    low, high = 0, n
    if n > _ALL_SIZES:
        middle = min(n, int((n + 1) * p))
        threshold = math.log(_NEGLIGIBLE) - math.log(n + 1.0)
        low = _edge(lambda k: _log_pmf(n, p, k) >= threshold, middle, 0)
        high = _edge(lambda k: _log_pmf(n, p, k) >= threshold, middle, n)
    outside = 0.0 if (low, high) == (0, n) else _NEGLIGIBLE
    return {k: math.exp(_log_pmf(n, p, k)) for k in range(low, high + 1)}, outside


def _edge(inside: Callable[[int], bool], start: int, end: int) -> int:
    """The last k from `start` towards `end` with inside(k), for a property that is lost once on the way."""
    if inside(end):
        return end
    good, bad = start, end
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if inside(middle) else (good, middle)
    return good


def _log_pmf(n: int, p: float, k: int) -> float:
    """ln P(Bin(n, p) = k) for 0 < p < 1, rounded up."""
    total = math.lgamma(n + 1.0)
    chosen = total - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)
    return chosen + k * math.log(p) + (n - k) * math.log1p(-p) + 2.0**-49 * total + _TINY


def _rare(n: int, p: float, minimum: int, *, among: int = 1) -> bool:
    """P(Bin(n, p) >= minimum) < IMPLAUSIBLE / among."""
    if minimum <= n * p:
        return False
    if p == 0.0:
        return minimum > 0
    term, total = math.exp(_log_pmf(n, p, minimum)), 0.0
    for k in range(minimum, n + 1):  # each term is smaller than the one before by a factor that falls
        total += term
        if total >= IMPLAUSIBLE / among or term < 1e-17 * total:
            break
        term *= (n - k) / (k + 1) * (p / (1 - p))
    return total < IMPLAUSIBLE / among
