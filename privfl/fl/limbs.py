"""Exact sums of floats through a secure sum: each number is written in limbs, the digits of one large integer.

A sum of limbs is a sum of integers, so the total is exact at any scale and for any number of clients. Besides the
total it reveals how often digits carried over, at most log2(clients) bits for each limb.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.ring import Ints

Floats = npt.NDArray[np.float64]

_MANTISSA: Final = 53
_LOW_STEP: Final = 32
_HIGH_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Limbs:
    """The numbers that are multiples of 2^low and smaller than 2^(low + bits * count).

    Attributes:
        low: The exponent of the smallest unit.
        count: The number of limbs of one number.
        bits: The bits of a limb, at most 30.
    """

    low: int
    count: int
    bits: int

    @classmethod
    def fit(cls, parts: Iterable[Floats], bits: int) -> Limbs:
        """The limbs that hold every number exactly, with coarse ends: multiples of 2^32 below 1, powers of 2^16 above.

        Args:
            parts: Finite numbers of all clients, each float64 `[n]`.
            bits: The bits of a limb.
        """
        low, high = 0, 1
        for part in parts:
            values = part[part != 0]
            if not len(values):
                continue
            fraction, exponent = np.frexp(values)
            digits = np.ldexp(fraction, _MANTISSA).astype(np.int64)
            zeros = np.frexp((digits & -digits).astype(np.float64))[1] - 1  # trailing zero bits
            low = min(low, int((exponent - _MANTISSA + zeros).min()))
            high = max(high, int(exponent.max()))
        low = math.floor(low / _LOW_STEP) * _LOW_STEP
        high = math.ceil(high / _HIGH_STEP) * _HIGH_STEP
        return cls(low, max(1, -(-(high - low) // bits)), bits)

    @property
    def bound(self) -> int:
        """The largest absolute value of a limb."""
        return (1 << self.bits) - 1

    def encode(self, values: Floats) -> Ints:
        """The limbs of each number, from the smallest: float64 `[n]` -> int64 `[n * count]`, without any rounding."""
        rest, limbs = values.astype(np.float64), np.zeros((len(values), self.count), np.int64)
        for at in reversed(range(self.count)):
            shift = self.low + at * self.bits
            digits = np.trunc(np.ldexp(rest, -shift))
            limbs[:, at] = digits.astype(np.int64)
            rest = rest - np.ldexp(digits, shift)
        return limbs.ravel()

    def decode(self, total: Ints) -> list[Fraction]:
        """The exact totals that summed limbs stand for: int64 `[n * count]` -> `n` fractions."""
        if self.count == 1 and self.low == 0:
            return [Fraction(value) for value in total.tolist()]
        unit = Fraction(2) ** self.low
        rows = total.reshape(-1, self.count).tolist()
        return [sum(limb << (at * self.bits) for at, limb in enumerate(row)) * unit for row in rows]


def exact_sum(values: Floats) -> Floats:
    """The sum of float64 `[n]` as two floats, twice as exact as one: float64 `[2]`. NaN stays NaN."""
    if not np.isfinite(values).all():
        return np.array([float(np.sum(values)), 0.0])
    listed = values.tolist()
    try:
        high = math.fsum(listed)
        return np.array([high, math.fsum([*listed, -high])])
    except OverflowError:
        return np.array([math.inf, 0.0])


def exact_squares(values: Floats) -> Floats:
    """Numbers whose sum is that of the squares of float64 `[n]`: squares and rounding errors (Dekker 1971)."""
    with np.errstate(all="ignore"):
        squares = np.square(values)
        scaled = 134217729.0 * values  # 2^27 + 1
        high = scaled - (scaled - values)
        low = values - high
        errors = ((high * high - squares) + 2.0 * high * low) + low * low
    return np.concatenate([squares, errors[np.isfinite(errors)]])
