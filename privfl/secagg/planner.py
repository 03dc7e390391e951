"""How many neighbors a client needs, from the hypergeometric tails of Bell et al. 2020 (sections 3.3 and 4.3).

n clients lie on a ring that nobody chose; c = corrupt x n of them are in league with the server, and d = dropout x n
fall silent. Below, X ~ Hyp(m, a) is the number of marked clients among m drawn without replacement from the n - 1
others when a are marked; every tail is multiplied by n clients and by 2, for two ways to fail share the budget.

  connected     n (corrupt + dropout)^(k/2): no k/2 consecutive places without an honest survivor
  secrecy       honest server:  P[Hyp(k, c) >= t], enough corrupt neighbors to open a mask
                lying server:   P[Hyp(k, c) >= 2t - k], enough to have both secrets of one client
                                P[Hyp(k/2, c) >= t - k/2], enough on one side to open the border of an arc
                                (n P[Hyp(k/2, c) >= a])^2, enough to stand for two arcs without a survivor
  correctness   P[Hyp(k, n-1-d) < t] and P[Hyp(k/2, n-1-d) < a], too few neighbors left

A lying server can try advertisement after advertisement of its corrupt clients until the permutation suits it; 64 bits
more are planned against that. The border of one arc is planned without them: cutting the ring takes two borders at
once, and each client checks on the survivor list itself that no arc of k/2 places has fewer than `arc` survivors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from privfl.errors import ConfigError

GRINDING_BITS: Final = 64
"""Work, in bits, that a lying server may spend on choosing advertisements."""

MAX_CLIENTS: Final = 100_000_000
MAX_DEGREE: Final = 2_000


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A ring for `clients`: `degree` neighbors each, `threshold` of them open a secret, and every arc of degree / 2
    consecutive places holds at least `arc` survivors. The bits are what the tails of the module's text come to."""

    clients: int
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
    """The ring of least degree that fails in secrecy with probability 2^-security_bits, else 2^-correctness_bits.

    `corrupt` and `dropout` are fractions of the clients that advertise, in [0, 1); `malicious` plans for a server that
    lies. For 3 to 10^8 clients. Raises `ConfigError` with the reason when no degree below clients - 1 does it.
    """
    _check(clients, corrupt, dropout)
    needed = (1 + corrupt) / 2 if malicious else corrupt
    if needed >= 1 - dropout:
        raise ConfigError(
            f"no degree does it: the threshold must be above {needed:.3g} of the neighbors, and only "
            f"{1 - dropout:.3g} of them are sure to stay (corrupt {corrupt:g}, dropout {dropout:g})"
        )
    for degree in range(2, min(clients - 1, MAX_DEGREE) + 1, 2):
        arc = max(1, arc_for(clients, dropout, degree // 2, correctness_bits))
        for threshold in range(degree // 2 + 1 if malicious else 1, degree + 1):
            plan = assess_graph(
                clients, corrupt, dropout, degree=degree, threshold=threshold, arc=arc, malicious=malicious
            )
            if plan.correctness_bits < correctness_bits:
                break  # a higher threshold only makes it worse
            if plan.security_bits >= security_bits:
                return plan
    raise ConfigError(
        f"no degree up to {min(clients - 1, MAX_DEGREE)} reaches {security_bits} bits of security and "
        f"{correctness_bits} of correctness for {clients} clients (corrupt {corrupt:g}, dropout {dropout:g}): "
        "use the complete graph, or assume less"
    )


def assess_graph(
    clients: int, corrupt: float, dropout: float, *, degree: int, threshold: int, arc: int, malicious: bool
) -> GraphPlan:
    """A given ring with its bits by the tails above; the work of grinding is already taken off the first."""
    _check(clients, corrupt, dropout)
    marked = _count(clients, corrupt)
    half = degree // 2
    budget = math.log2(2 * clients)
    gone = corrupt + dropout
    connected = half * math.log2(gone) + budget if gone > 0 else -math.inf
    whole = _tail(clients - 1, marked, degree)
    if malicious:
        side = _tail(clients - 1, marked, half)
        strong = [connected, whole(2 * threshold - degree) + budget, 2 * (side(arc) + math.log2(clients)) + 1]
        security = min(-max(strong) - GRINDING_BITS, -(side(threshold - half) + budget))
    else:
        security = -max(connected, whole(threshold) + budget)
    silent = _count(clients, dropout)
    late = _tail(clients - 1, silent, degree)(degree - threshold + 1) + budget
    thin = _tail(clients - 1, silent, half)(half - arc + 1) + budget
    return GraphPlan(clients, degree, threshold, arc, security, -max(late, thin))


def arc_for(clients: int, dropout: float, half: int, correctness_bits: int) -> int:
    """The most survivors that every arc of `half` places can be held to."""
    silent = _tail(clients - 1, _count(clients, dropout), half)
    budget = math.log2(2 * clients)
    return half - next(x for x in range(half + 1) if silent(x + 1) + budget <= -correctness_bits)


class _Tail:
    """log2 P[X >= x] for X ~ Hyp(draws from population, of which `marked` are marked)."""

    def __init__(self, population: int, marked: int, draws: int) -> None:
        marked = min(marked, population)
        whole = _log_choose(population, draws)
        logs = [_log_choose(marked, i) + _log_choose(population - marked, draws - i) - whole for i in range(draws + 1)]
        self._tails = [-math.inf] * (draws + 2)
        for i in range(draws, -1, -1):
            self._tails[i] = _log_add(self._tails[i + 1], logs[i] / math.log(2))

    def __call__(self, x: int) -> float:
        return 0.0 if x <= 0 else self._tails[x] if x < len(self._tails) else -math.inf


_tail = lru_cache(maxsize=16)(_Tail)  # the search asks for the same ones with every threshold


def _log_add(a: float, b: float) -> float:
    """log2(2^a + 2^b), at most 0: these are probabilities."""
    high, low = max(a, b), min(a, b)
    return min(0.0, high + math.log2(1 + 2 ** (low - high))) if high > -math.inf else high


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _count(clients: int, fraction: float) -> int:
    """Rounded up, but for the noise of the product itself."""
    return math.ceil(fraction * clients - 1e-9)


def _check(clients: int, corrupt: float, dropout: float) -> None:
    if not 3 <= clients <= MAX_CLIENTS:
        raise ConfigError(f"a ring is planned for 3 to {MAX_CLIENTS} clients, not {clients}")
    for name, value in (("corrupt", corrupt), ("dropout", dropout)):
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is a fraction in [0, 1), not {value!r}")
