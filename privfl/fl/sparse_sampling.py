"""Exact sampling of few clients of a large population: the time follows the cohort, not the population.

The coins of `CohortSampler.sample` are multiples of 2^-53, so a client has the probability p = t 2^-53 with an integer
t. `sparse_subset` has this very law. It jumps from one sampled client to the next. The number of clients in between is
geometric, and made exactly from integers (Bringmann and Friedrich 2013). Blocks of m clients have nobody, each with
probability (1-p)^m, until one has somebody; the place in that block is found by rejection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.wire import ClientId

_BITS: Final = 53
_ONE: Final = 1 << _BITS
_BATCH: Final = 64
_MARGIN: Final = 2.0**-40
"""Far above the error of (1-p)^n in floats. A coin that is as close to it is compared exactly."""


class Coins:
    """Independent integers, uniform in [0, 2^53), from uniforms that are multiples of 2^-53.

    Args:
        uniforms: n -> n independent uniforms in [0, 1).
    """

    def __init__(self, uniforms: Callable[[int], npt.NDArray[np.float64]]) -> None:
        self._uniforms = uniforms
        self._waiting: list[int] = []

    def take(self) -> int:
        """The next coin."""
        if not self._waiting:
            found: Any = (self._uniforms(_BATCH) * float(_ONE)).astype(np.int64).tolist()
            self._waiting = found[::-1]
        return self._waiting.pop()

    def below(self, limit: int) -> int:
        """An integer that is exactly uniform in [0, limit), for a limit of at most 2^53."""
        top = _ONE - _ONE % limit
        while (coin := self.take()) >= top:
            pass
        return coin % limit


class Absence:
    """Events of probability (1-p)^n, for p = threshold 2^-53: nobody of n clients is sampled.

    Args:
        threshold: The integer t, in [1, 2^53].
        coins: The coins.
        margin: The distance below which a coin is compared in integers; 1 compares every coin so.
    """

    def __init__(self, threshold: int, coins: Coins, *, margin: float = _MARGIN) -> None:
        self._other, self._coins, self._margin = _ONE - threshold, coins, margin
        self._log = math.log1p(-threshold / _ONE) if threshold < _ONE else -math.inf

    def happens(self, count: int) -> bool:
        """True with probability (1-p)^count, exactly."""
        if not count:
            return True
        coin = self._coins.take()
        apart = coin / _ONE - math.exp(count * self._log)
        return apart < 0 if abs(apart) > self._margin else self._compared(coin, count)

    def _compared(self, coin: int, count: int) -> bool:
        """True if a uniform real that starts with this coin is below (1-p)^count; more coins are its further bits."""
        bits = _BITS
        while True:
            low, high = power_bounds(self._other, count, bits)
            if coin + 1 <= low:
                return True
            if coin >= high:
                return False
            coin, bits = coin << _BITS | self._coins.take(), bits + _BITS


def power_bounds(base: int, exponent: int, bits: int) -> tuple[int, int]:
    """Integers around (base 2^-53)^exponent 2^bits, by squaring with rounding to both sides.

    Args:
        base: The base in units of 2^-53, in [0, 2^53].
        exponent: The exponent, at least 0.
        bits: The precision, at least 53.
    """
    low = high = 1 << bits
    square_low = square_high = base << (bits - _BITS)
    while exponent:
        if exponent & 1:
            low, high = low * square_low >> bits, -(-high * square_high >> bits)
        square_low, square_high = square_low * square_low >> bits, -(-square_high * square_high >> bits)
        exponent >>= 1
    return low, high


def sparse_subset(population: int, probability: float, coins: Coins, *, margin: float = _MARGIN) -> Iterator[ClientId]:
    """The clients, increasing, of whom each is sampled independently with the law of `coin < probability`.

    Args:
        population: The number of clients.
        probability: The probability of each, in (0, 1].
        coins: The coins.
        margin: The same as in `Absence`.
    """
    threshold = math.ceil(probability * _ONE)  # exact: a product with a power of two
    absence = Absence(threshold, coins, margin=margin)
    block = 1 << max(0, _BITS - threshold.bit_length())  # between 1/(2p) and 1/p
    at = 0
    while True:
        while absence.happens(block):
            at += block
            if at >= population:
                return
        while not absence.happens(place := coins.below(block)):
            pass
        at += place
        if at >= population:
            return
        yield at
        at += 1


def uniform_subset(items: Sequence[ClientId], size: int, coins: Coins) -> tuple[ClientId, ...]:
    """A subset of exactly this size, uniform among all: algorithm F2 of Bentley and Floyd 1987.

    Args:
        items: The clients, increasing.
        size: At most their number.
        coins: The coins.
    """
    chosen: set[int] = set()
    for top in range(len(items) - size, len(items)):
        place = coins.below(top + 1)
        chosen.add(top if place in chosen else place)
    return tuple(items[place] for place in sorted(chosen))
