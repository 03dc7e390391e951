"""The discrete Gaussian of Canonne, Kamath and Steinke (2020): P(k) proportional to exp(-k^2/(2 s^2)) on the integers.

It is an alternative to the rounded Gaussian. It is not post-processing of a real Gaussian, so the Gaussian's privacy
loss does not cover it; its own accounting is in `privfl.dp.accounting.profiles`.
"""

from __future__ import annotations

import os
from decimal import Decimal
from functools import lru_cache
from typing import Final

from privfl.checks import check_positive
from privfl.dp.noise.lattice import CONTEXT, Floats, Hat, LawTable, LogConcave
from privfl.dp.noise.sampler import Entropy
from privfl.ring import Ints

_TABLE_STDDEV: Final = 64.0


def discrete_gaussian(sigma: float, length: int, *, entropy: Entropy = os.urandom) -> Ints:
    """Return independent samples, int64 `[length]`. The law is exact up to a total variation of 2^-100 per sample.

    Args:
        sigma: The parameter, in (0, 2^44] integer units.
        length: The number of samples.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: `sigma` is out of range.
    """
    check_positive("sigma", sigma)
    return _sampler(float(sigma)).draw(length, entropy)


@lru_cache(maxsize=64)
def _sampler(sigma: float) -> LawTable | Hat:
    exact = _Exact(sigma)
    if sigma < _TABLE_STDDEV:
        weights: list[Decimal] = []
        while not weights or weights[-1] > Decimal("1e-60"):
            weights.append(CONTEXT.exp(exact(len(weights))))
        return LawTable(weights)
    return Hat(LogConcave(sigma, 0.0, _Fast(sigma), exact))


class _Fast:
    def __init__(self, sigma: float) -> None:
        self._sigma = sigma

    def __call__(self, k: Floats) -> Floats:
        ratio = k / self._sigma
        square: Floats = -0.5 * ratio * ratio
        return square


class _Exact:
    def __init__(self, sigma: float) -> None:
        self._twice = CONTEXT.multiply(Decimal(-2), CONTEXT.power(Decimal(sigma), 2))

    def __call__(self, k: int) -> Decimal:
        return CONTEXT.divide(Decimal(k * k), self._twice)
