"""Skellam noise, the difference of two Poisson variables of equal mean: sums of it are Skellam again.

With variance m (mean m/2 each), P(k) = e^-m I_k(m), I the modified Bessel function. It is symmetric, and log-concave
by Turan's inequality I_(k-1) I_(k+1) <= I_k^2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np

from privfl.checks import check_positive
from privfl.dp.noise.lattice import CONTEXT, Floats, Hat, LawTable, LogConcave
from privfl.dp.noise.sampler import Entropy
from privfl.ring import Ints

_TABLE_VARIANCE: Final = 4096.0
_TERMS: Final = 15  # at variance 4096 the first term left out is below 1e-46
_FAST_TERMS: Final = 4
_FAST_ERROR: Final = 1e-13  # of two expansions of four terms: Olver's bound is below 27/4096^4 each


def skellam(variance: float, length: int, *, entropy: Entropy = os.urandom) -> Ints:
    """Return independent Skellam samples, int64 `[length]`. The law is exact up to a total variation of 2^-100 per
    sample.

    Args:
        variance: In (0, 2^88] squared integer units.
        length: The number of samples.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: `variance` is out of range.
    """
    check_positive("variance", variance)
    return _sampler(float(variance)).draw(length, entropy)


def skellam_reach(variance: float) -> int:
    """An integer that |Skellam| exceeds with probability below 2^-192.

    Chernoff: P(X >= x) <= exp(-x asinh(x/m) + sqrt(x^2 + m^2) - m) for variance m.
    """
    check_positive("variance", variance)
    x = 16.0 * math.sqrt(variance) + 1.0
    while _log_tail(x, variance) > -192 * math.log(2.0) - 1.0:
        x *= 1.05
    return math.ceil(x)


def _log_tail(x: float, m: float) -> float:
    return -x * math.asinh(x / m) + x * x / (math.hypot(x, m) + m)


@lru_cache(maxsize=64)
def _sampler(variance: float) -> LawTable | Hat:
    if variance < _TABLE_VARIANCE:
        return LawTable(_bessel_ratios(variance))
    return Hat(LogConcave(math.sqrt(variance), _FAST_ERROR, _Fast(variance), _Exact(variance)))


def _bessel_ratios(variance: float) -> list[Decimal]:
    """I_k(m) for k = 0, 1, ... up to a common factor, by Miller's backward recurrence (all terms are positive)."""
    c = CONTEXT
    m = Decimal(variance)
    top = skellam_reach(variance) + 64
    above, here = Decimal(0), Decimal(1)
    values = []
    for k in range(top, 0, -1):
        values.append(here)
        above, here = here, c.add(above, c.divide(c.multiply(Decimal(2 * k), here), m))
    values.append(here)
    return values[::-1]


class _Fast:
    """ln I_k(m)/I_0(m) in float64, from Debye's uniform expansion (DLMF 10.41.3)."""

    def __init__(self, variance: float) -> None:
        self._m = variance
        self._polynomials = [np.array([float(f) for f in p]) for p in _debye(_FAST_TERMS)]
        self._at_zero = self._series(np.zeros(1))[0]

    def __call__(self, k: Floats) -> Floats:
        y = k / self._m
        root = np.sqrt(1.0 + y * y)
        exponent = -self._m * y * (np.arcsinh(y) - y / (1.0 + root))
        result: Floats = exponent - 0.25 * np.log1p(y * y) + np.log(self._series(y) / self._at_zero)
        return result

    def _series(self, y: Floats) -> Floats:
        """1 + sum of p_n(t^2)/R^n with t = k/R and R^2 = k^2 + m^2."""
        root = np.sqrt(1.0 + y * y)
        square, inverse = np.square(y / root), 1.0 / (self._m * root)
        total = np.zeros_like(y)
        for polynomial in reversed(self._polynomials):
            inner = np.zeros_like(y)
            for coefficient in polynomial[::-1]:
                inner = inner * square + coefficient
            total = (total + inner) * inverse
        return 1.0 + total


class _Exact:
    """The same in decimals, with terms enough for 1e-45."""

    def __init__(self, variance: float) -> None:
        c = CONTEXT
        self._m = Decimal(variance)
        self._polynomials = [
            [c.divide(Decimal(f.numerator), Decimal(f.denominator)) for f in p] for p in _debye(_TERMS)
        ]
        self._at_zero = c.ln(self._series(Decimal(0), self._m))

    def __call__(self, k: int) -> Decimal:
        c = CONTEXT
        kk, m = Decimal(abs(k)), self._m
        root = c.sqrt(c.add(c.multiply(kk, kk), c.multiply(m, m)))
        exponent = c.add(c.subtract(root, m), c.multiply(kk, c.ln(c.divide(m, c.add(kk, root)))))
        prefactor = c.divide(c.ln(c.divide(m, root)), Decimal(2))
        series = c.subtract(c.ln(self._series(kk, root)), self._at_zero)
        return c.add(c.add(exponent, prefactor), series)

    def _series(self, k: Decimal, root: Decimal) -> Decimal:
        c = CONTEXT
        square = c.power(c.divide(k, root), 2)
        total = Decimal(0)
        for polynomial in reversed(self._polynomials):
            inner = Decimal(0)
            for coefficient in reversed(polynomial):
                inner = c.add(c.multiply(inner, square), coefficient)
            total = c.divide(c.add(total, inner), root)
        return c.add(Decimal(1), total)


@lru_cache(maxsize=2)
def _debye(terms: int) -> Sequence[Sequence[Fraction]]:
    """p_1 .. p_terms with u_n(t) = t^n p_n(t^2), lowest power first (DLMF 10.41.9).

    u_(n+1)(t) = t^2 (1 - t^2) u_n'(t)/2 + (1/8) integral of (1 - 5 s^2) u_n(s) ds over (0, t).
    """
    u: dict[int, Fraction] = {0: Fraction(1)}
    found = []
    for n in range(1, terms + 1):
        following: dict[int, Fraction] = {}
        for power, a in u.items():
            for shift, factor in (
                (power + 1, Fraction(power, 2) + Fraction(1, 8 * (power + 1))),
                (power + 3, -Fraction(power, 2) - Fraction(5, 8 * (power + 3))),
            ):
                following[shift] = following.get(shift, Fraction(0)) + a * factor
        u = following
        found.append([u.get(n + 2 * i, Fraction(0)) for i in range(n + 1)])
    return found
