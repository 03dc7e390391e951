"""What a skipped round tells: protocols/privacy-ledger, section 9.

Whether enough clients survived may turn on a single one, and everybody sees a round that was skipped. For Poisson
sampling and clients that fall silent independently, the chance of that is a sum of binomial terms.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_probability
from privfl.errors import ConfigError

Floats = npt.NDArray[np.float64]


def pivot_probability(
    *, population: int, probability: float, least: int, share: float, dropout: float, empty_released: bool = False
) -> float:
    """The chance that a given client, were it drawn, would decide whether a round is skipped.

    Of k drawn clients max(`least`, ceil(`share` k)) must survive; each other client is drawn with `probability` and
    falls silent with probability `dropout`, in [0, 1). `empty_released`: a round without any client releases noise,
    as under central noise, and is not skipped.
    """
    check_count("population", population)
    check_probability("probability", probability)
    check_probability("share", share)
    check_count("least", least)
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must be in [0, 1), not {dropout!r}")
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, population + 2.0)))])
    k = np.arange(population)  # of the others
    drawn = _binomial(logs, population - 1, k, probability)
    now, then = (np.maximum(least, np.ceil(share * n)).astype(np.int64) for n in (k, k + 1))
    # Among k others the decision turns on a client only for one number of survivors: one short of a threshold that
    # stays, which it reaches if it survives, or just enough for one that rises, which it misses if it falls silent.
    stays = then == now
    survivors = np.where(stays, now - 1, now)
    turns = np.where(stays, 1.0 - dropout, dropout) * _binomial(logs, k, survivors, 1.0 - dropout)
    if empty_released:
        turns[0] = dropout if then[0] <= 1 else 1.0  # the client alone: skipped if it falls silent, or in any case
    return float(np.sum(drawn * turns))


def skip_delta(pivots: float, *, rounds: int, probability: float) -> float:
    """What skipped rounds take of delta: the mean number of `rounds` in which a client is drawn and decides.

    `pivots` is `pivot_probability`, `probability` that of being drawn.
    """
    return rounds * probability * pivots


def _binomial(logs: Floats, n: npt.NDArray[np.int64] | int, k: npt.NDArray[np.int64], p: float) -> Floats:
    """P(Bin(n, p) = k), 0 outside 0 <= k <= n; `logs` holds the logarithms of the factorials."""
    inside = (k >= 0) & (k <= n)
    at = np.where(inside, k, 0)
    rest = n - at
    if p == 1.0:
        return np.where(inside & (rest == 0), 1.0, 0.0)
    chosen = logs[n] - logs[at] - logs[rest] + at * math.log(p) + rest * math.log1p(-p)
    return np.where(inside, np.exp(chosen), 0.0)
