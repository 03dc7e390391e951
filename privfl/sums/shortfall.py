"""The probability that too few clients of a cohort stay until the end of a sum, bounded from above."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Final

from privfl.errors import ConfigError

_GRID_BITS: Final = 44
"""Dropout probabilities are rounded up to multiples of 2^-44, which keeps every power of them an exact integer."""

_KEPT_BITS: Final = 320
"""Bits of the first term that are kept. What is cut off is rounded up."""


def check_dropout(dropout: float) -> None:
    """Raise `ConfigError` unless `dropout` is a probability."""
    if not 0 <= dropout <= 1:
        raise ConfigError(f"dropout must be a probability in [0, 1], not {dropout!r}")


@lru_cache(maxsize=1 << 14)  # a ledger asks for every size of a cohort, in every round
def binomial_shortfall(cohort: int, min_vectors: int, dropout: float) -> float:
    """Return the probability that fewer than `min_vectors` of `cohort` clients stay, each dropping out independently.

    The result is never below the truth. `dropout` is rounded up to a multiple of 2^-44, the terms are integers of at
    least 320 bits, and every division is rounded up. The result therefore does not decrease in `dropout`. It is F_k(m -
    1), where F_k is the distribution function of the binomial distribution Bin(k, 1 - p).

    Args:
        cohort: The number of clients k, at least 0.
        min_vectors: The fewest vectors m that open a sum. At 0 or below the result is 0, above `cohort` it is 1.
        dropout: The probability p in [0, 1] that one client drops out at some step of the sum.

    Returns:
        A probability in [0, 1].

    Raises:
        ConfigError: `dropout` is not a probability.
    """
    check_dropout(dropout)
    if min_vectors <= 0:
        return 0.0
    if min_vectors > cohort:
        return 1.0
    gone = math.ceil(Fraction(dropout) * (1 << _GRID_BITS))
    stay = (1 << _GRID_BITS) - gone
    if gone == 0 or stay == 0:
        return 0.0 if gone == 0 else 1.0
    # The terms P[j clients stay], from j = min_vectors - 1 down, all in units of 2^unit.
    most = min_vectors - 1
    first = math.comb(cohort, most) * stay**most * gone ** (cohort - most)
    cut = max(0, first.bit_length() - _KEPT_BITS)
    unit = cut - _GRID_BITS * cohort
    term = -(-first >> cut)
    total = term
    for staying in range(most, 0, -1):
        term = -(-term * staying * gone // ((cohort - staying + 1) * stay))
        total += term
        if term == 1 and staying * gone < (cohort - staying + 1) * stay:
            total += staying - 1  # terms only fall from here on, and each is rounded up to 1 unit
            break
    return _rounded_up(total, unit)


def _rounded_up(total: int, unit: int) -> float:
    """The least float of at least `total` times 2^`unit`, and at most 1."""
    if total.bit_length() + unit > 0:
        return 1.0
    cut = max(0, total.bit_length() - 53, -1074 - unit)
    return min(1.0, math.ldexp(-(-total >> cut), unit + cut))
