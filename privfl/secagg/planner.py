"""The number of neighbors a client needs, from the hypergeometric tails of Bell et al. 2020 (sections 3.3 and 4.3).

The clients of a roster lie on a ring whose order nobody chose. Let R be their number, k the degree, t the threshold,
and a the arc. X ~ Hyp(m, s) is the number of marked clients among m sampled without replacement from the R - 1 others,
of whom s are marked. c clients are corrupt, d drop out. Every tail is multiplied by R clients and by 2, because there
are two ways to fail:

  connected     R ((c + d) / R)^(k/2): no k/2 consecutive places without an honest survivor
  secrecy       honest server:  P[Hyp(k, c) >= t], enough corrupt neighbors to open a mask
                lying server:   P[Hyp(k, c) >= 2t - k], enough to have both secrets of one client
                                P[Hyp(k/2, c) >= t - k/2], enough on one side to open the border of an arc
                                (R P[Hyp(k/2, c) >= a])^2, enough to stand for two arcs without a survivor
  correctness   P[Hyp(k, R-1-d) < t] and P[Hyp(k/2, R-1-d) < a], too few neighbors left

A lying server can try one advertisement after another of its corrupt clients until the permutation suits it. All
tails that are planned against it, the border's included, have to be smaller by 64 bits for that.

**Which roster.** A sum of n clients may start with any R of them from `min_roster` up, and a server that lies chooses
them: all corrupt clients of the cohort, c = corrupt x n, can be among the smallest roster. Then another d = dropout x R
may drop out, rounded up. A plan holds at the smallest roster and at the whole cohort. It also holds at the rosters next
to these at which d has just grown by one client; elsewhere the bits are no fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from privfl.errors import ConfigError
from privfl.sums.shortfall import binomial_shortfall

GRINDING_BITS: Final = 64
"""Work, in bits, that a lying server may spend on choosing advertisements."""

MAX_CLIENTS: Final = 100_000_000
MAX_DEGREE: Final = 2_000


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A ring, and the probabilities with which it fails.

    Attributes:
        clients: The number of clients of the cohort (of the roster, in a plan of `assess_graph`).
        min_roster: Fewer advertisements start nothing.
        degree: The neighbors of each client.
        threshold: The neighbors that open a secret.
        arc: The fewest survivors among any degree / 2 consecutive places.
        security_bits: -log2 of the bound on a failure of secrecy, at the roster where it is largest.
        correctness_bits: The same for a sum that cannot be opened.
    """

    clients: int
    min_roster: int
    degree: int
    threshold: int
    arc: int
    security_bits: float
    correctness_bits: float


def plan_graph(
    clients: int,
    corrupt: float,
    dropout: float,
    *,
    malicious: bool,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> GraphPlan:
    """The ring of least degree that meets both bounds.

    An attack on its secrecy succeeds with probability at most 2^-security_bits. Its sum fails to open with probability
    at most 2^-correctness_bits.

    Args:
        clients: The cohort, 3 to 10^8.
        corrupt: The fraction of the cohort that colludes with the server, in [0, 1).
        dropout: The fraction of the cohort that drops out before the roster, and of the roster after it, in [0, 1).
        malicious: Whether the server may lie.
        security_bits: What the plan reaches at least, at every roster.
        correctness_bits: What the plan reaches at least, at every roster.

    Raises:
        ConfigError: No degree below clients - 1 does it; the message says why.
    """
    _check(clients, corrupt, dropout)
    marked = _count(clients, corrupt) / _stay(clients, dropout)
    needed = (1 + marked) / 2 if malicious else marked
    if needed >= 1 - dropout:
        raise ConfigError(
            f"no degree does it: {_count(clients, corrupt)} corrupt clients may all be among the "
            f"{_stay(clients, dropout)} that start the sum, so the threshold must be above {needed:.3g} of the "
            f"neighbors, and only {1 - dropout:.3g} of them are sure to stay (corrupt {corrupt:g}, dropout {dropout:g})"
        )
    for degree in range(2, min(clients - 1, MAX_DEGREE) + 1, 2):
        # Security grows with the threshold, and correctness falls.
        low, high = degree // 2 + 1 if malicious else 1, degree
        arc = cohort_arc(clients, dropout, degree, correctness_bits)

        def plan(threshold: int, degree: int = degree, arc: int = arc) -> GraphPlan:
            return assess_cohort(
                clients, corrupt, dropout, degree=degree, threshold=threshold, arc=arc, malicious=malicious
            )

        most = _last(low, high, lambda t: plan(t).correctness_bits >= correctness_bits)
        if most < low or plan(most).security_bits < security_bits:
            continue
        return plan(_last(low, most, lambda t: plan(t).security_bits < security_bits) + 1)
    raise ConfigError(
        f"no degree up to {min(clients - 1, MAX_DEGREE)} reaches {security_bits} bits of security and "
        f"{correctness_bits} of correctness for {clients} clients (corrupt {corrupt:g}, dropout {dropout:g})"
    )


def assess_cohort(
    clients: int, corrupt: float, dropout: float, *, degree: int, threshold: int, arc: int, malicious: bool
) -> GraphPlan:
    """The bits of security and correctness of a given ring, in the worst of all rosters that the cohort can have.

    Args:
        clients: The cohort, 3 to 10^8.
        corrupt: The fraction of the cohort that is corrupt, in [0, 1). All of it may be in the smallest roster.
        dropout: The fraction of the cohort that drops out before the roster, and of the roster after it, in [0, 1).
        degree: Even, at least 2.
        threshold: The neighbors that open a secret.
        arc: The fewest survivors among any degree / 2 consecutive places.
        malicious: Whether the server may lie.
    """
    _check(clients, corrupt, dropout)
    marked, rosters = _count(clients, corrupt), _rosters(clients, dropout, degree)
    ends = [
        assess_graph(size, marked / size, dropout, degree=degree, threshold=threshold, arc=arc, malicious=malicious)
        if marked < size
        else GraphPlan(size, size, degree, threshold, arc, -math.inf, -math.inf)
        for size in rosters
    ]
    security, correctness = min(end.security_bits for end in ends), min(end.correctness_bits for end in ends)
    return GraphPlan(clients, rosters[0], degree, threshold, arc, security, correctness)


def assess_graph(
    clients: int, corrupt: float, dropout: float, *, degree: int, threshold: int, arc: int, malicious: bool
) -> GraphPlan:
    """The bits of security and correctness of a given ring over one roster, from exact hypergeometric tails.

    The bits of security allow for a malicious server that tries many advertisements: `GRINDING_BITS` are subtracted.

    Args:
        clients: The roster, 3 to 10^8.
        corrupt: The fraction of the roster that is corrupt, in [0, 1).
        dropout: The fraction of the roster that drops out, in [0, 1).
        degree: Even, at least 2.
        threshold: The neighbors that open a secret.
        arc: The fewest survivors among any degree / 2 consecutive places.
        malicious: Whether the server may lie.
    """
    _check(clients, corrupt, dropout)
    marked, silent, half = _count(clients, corrupt), _count(clients, dropout), degree // 2
    budget, gone = math.log2(2 * clients), (marked + silent) / clients
    connected = half * math.log2(gone) + budget if gone > 0 else -math.inf
    whole = _tail(clients - 1, marked, degree)
    if malicious:
        side = _tail(clients - 1, marked, half)
        both, border = whole(2 * threshold - degree) + budget, side(threshold - half) + budget
        arcs = 2 * (side(arc) + math.log2(clients)) + 1
        security = -max(connected, both, border, arcs) - GRINDING_BITS
    else:
        security = -max(connected, whole(threshold) + budget)
    late = _tail(clients - 1, silent, degree)(degree - threshold + 1) + budget
    thin = _tail(clients - 1, silent, half)(half - arc + 1) + budget
    return GraphPlan(clients, clients, degree, threshold, arc, security, -max(late, thin))


def ring_shortfall(plan: GraphPlan, min_vectors: int, dropout: float) -> float:
    """A bound on the probability that a ring opens nothing when each client drops out at any step, independently.

    A client stays if it answers every step, and is then on every list that is judged. The sum opens under three
    conditions: enough clients stay, every arc of degree / 2 places holds `plan.arc` of them, and every client has
    `plan.threshold` neighbors among them. The ring's order does not depend on who drops out after it. So each condition
    fails with a binomial tail, the last two once for each client.

    Args:
        plan: The ring of the cohort.
        min_vectors: The fewest vectors that the sum opens.
        dropout: The probability that one client drops out.

    Returns:
        A probability, rounded up, that does not decrease in `dropout`.
    """
    few = binomial_shortfall(plan.clients, max(min_vectors, plan.min_roster), dropout)
    thin = binomial_shortfall(plan.degree // 2, plan.arc, dropout)
    late = binomial_shortfall(plan.degree, plan.threshold, dropout)
    return min(
        1.0, math.nextafter(few + plan.clients * math.nextafter(thin + late, 2.0), math.inf) if thin + late else few
    )


def smallest_roster(clients: int, dropout: float, degree: int) -> int:
    """Return the minimum roster of a ring: the larger of the clients that stay in the cohort and `degree` + 1.

    Args:
        clients: The size of the cohort.
        dropout: The fraction that may drop out, in [0, 1).
        degree: The number of neighbors, even.
    """
    return max(degree + 1, _stay(clients, dropout))


def cohort_arc(clients: int, dropout: float, degree: int, correctness_bits: int) -> int:
    """Return the maximum number of survivors, at least 1, to which every arc can be held at every roster of a cohort.

    Args:
        clients: The size of the cohort.
        dropout: The fraction that may drop out, in [0, 1).
        degree: The number of neighbors, even.
        correctness_bits: The sum fails with a probability below 2^-correctness_bits.
    """
    rosters = _rosters(clients, dropout, degree)
    return max(1, min(_arc(size, dropout, degree // 2, correctness_bits) for size in rosters))


def _rosters(clients: int, dropout: float, degree: int) -> tuple[int, ...]:
    """The rosters at which a plan is judged: both ends, and the first and last at which one more client drops out."""
    least = smallest_roster(clients, dropout, degree)
    first, last = _count(least, dropout), _count(clients, dropout)
    steps = {math.floor((silent + 1e-9) / dropout) + 1 for silent in (first, last - 1)} if last > first else set()
    return tuple(sorted({least, clients, *(size for size in steps if least < size < clients)}))


def _arc(clients: int, dropout: float, half: int, correctness_bits: int) -> int:
    silent = _tail(clients - 1, _count(clients, dropout), half)
    budget = math.log2(2 * clients)
    return half - next(x for x in range(half + 1) if silent(x + 1) + budget <= -correctness_bits)


class _Tail:
    """log2 P[X >= x] for X ~ Hyp(draws from population, of which `marked` are marked)."""

    def __init__(self, population: int, marked: int, draws: int) -> None:
        marked, draws = min(marked, population), min(draws, population)
        self._low, high = max(0, draws - (population - marked)), min(draws, marked)
        first = _log_choose(marked, self._low) + _log_choose(population - marked, draws - self._low)
        i = np.arange(self._low, high, dtype=np.float64)
        steps = np.log((marked - i) * (draws - i)) - np.log((i + 1) * (population - marked - draws + i + 1))
        logs = first - _log_choose(population, draws) + np.concatenate([[0.0], np.cumsum(steps)])
        self._tails = np.minimum(np.logaddexp.accumulate(logs[::-1])[::-1] / math.log(2), 0.0)

    def __call__(self, x: int) -> float:
        at = x - self._low
        return 0.0 if at <= 0 else float(self._tails[at]) if at < len(self._tails) else -math.inf


_tail = lru_cache(maxsize=64)(_Tail)  # the search asks for the same ones with every threshold


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The last number of [low, high] for which a property holds that holds up to some number; low - 1 if for none."""
    below, above = low - 1, high + 1
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if holds(middle) else (below, middle)
    return below


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _stay(clients: int, dropout: float) -> int:
    return math.ceil(clients * (1 - dropout) - 1e-9)


def _count(clients: int, fraction: float) -> int:
    """Rounded up, except for the rounding error of the product itself."""
    return math.ceil(fraction * clients - 1e-9)


def _check(clients: int, corrupt: float, dropout: float) -> None:
    if not 3 <= clients <= MAX_CLIENTS:
        raise ConfigError(f"a ring is planned for 3 to {MAX_CLIENTS} clients, not {clients}")
    for name, value in (("corrupt", corrupt), ("dropout", dropout)):
        if not 0 <= value < 1:
            raise ConfigError(f"{name} must be a fraction in [0, 1), not {value!r}")
