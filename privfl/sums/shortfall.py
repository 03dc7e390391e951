"""The probability that too few clients of a cohort stay until the end of a sum, bounded from above."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from functools import lru_cache
from typing import Final

from privfl.errors import ConfigError
from privfl.sums.base import SumTask

_GRID_BITS: Final = 44
"""Dropout probabilities are rounded up to multiples of 2^-44, which keeps every power of them an exact integer."""

_KEPT_BITS: Final = 320
"""Bits of the first term that are kept. What is cut off is rounded up."""


def check_dropout(dropout: float) -> None:
    """Raise `ConfigError` unless `dropout` is a probability."""
    if not 0 <= dropout <= 1:
        raise ConfigError(f"dropout must be a probability in [0, 1], not {dropout!r}")


class OpensByCount(ABC):
    """The part of a sum that follows from the number of vectors that it needs."""

    @abstractmethod
    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """The fewest vectors that a sum of `cohort` clients opens; see `SecureSum`.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: A sum of `cohort` clients never opens.
        """

    def min_survivors_to_open(self, task: SumTask) -> int:
        """`min_survivors_of` the cohort and the `min_survivors` of `task`."""
        return self.min_survivors_of(len(task.clients), task.min_survivors)

    def shortfall(self, cohort: int, dropout: float, *, min_survivors: int = 1) -> float | None:
        """The probability that fewer than `min_survivors_of` clients stay, rounded up.

        Args:
            cohort: The number of clients of the sum, at least 0.
            dropout: The probability that one client drops out at any step, independently of all others.
            min_survivors: What its task asks for.

        Returns:
            A probability that does not decrease in `dropout`; 1 where a sum of `cohort` clients can never open.

        Raises:
            ConfigError: `dropout` is not a probability.
        """
        check_dropout(dropout)
        try:
            return binomial_shortfall(cohort, self.min_survivors_of(cohort, min_survivors), dropout)
        except ConfigError:
            return 1.0


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
