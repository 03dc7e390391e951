"""Gaussian noise that is correlated across rounds, by the square root of the matrix of prefix sums.

The sums of rounds 1 .. t are A x with A the lower triangle of ones. Its square root C, with A = C C, is a triangle with
one coefficient for each diagonal: c_0 = 1, c_i = c_(i-1) (2i-1)/(2i), those of (1 - s)^(-1/2). With fresh Gaussian Z
in every round, the noise of round t is that entry of C^-1 Z, whose coefficients are those of (1 - s)^(1/2). Each round
takes back part of the noise before it, so the noise of the sum over all rounds stays small. The releases follow from
C x + Z. A contribution to one round moves that by its norm times the norm of a column of C, at most. The source is
Denisov et al. 2022, and Fichtenberger, Henzinger and Upadhyay 2023.

Z is real. The opener adds C^-1 Z of the round, rounded to integers exactly. float64 decides where its error bound
allows it, and decimal arithmetic on more bits of the same streams decides elsewhere. A sum of integers plus the rounded
noise is the rounded sum, so the release is post-processing of the real one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.checks import check_count, check_positive, draw
from privfl.dp.noise.sampler import CONTEXT, Entropy, decimal_pair, standard_pairs
from privfl.errors import ConfigError
from privfl.ring import Ints

Streams = Callable[..., Entropy]
"""(round) -> the stream of a round's fresh noise; (round, pair) -> more bits of one pair of its values. Each call
returns the stream from its start, so the same noise can be made again."""

MAX_STDDEV: Final = 2.0**36
"""Above this, float64 decides too few values."""

MAX_GROWTH: Final = math.sqrt(4.0 / math.pi)
"""The standard deviation of a round's noise divided by that of its fresh part, at most."""

_KEPT: Final = 1 << 24  # fresh values that are kept between rounds; others are made again
_SUMMED: Final = 1 << 16  # rounds up to which a column is summed entry by entry
_ULP: Final = 2.0**-53
_DIGITS: Final = Decimal("1e-80")  # far above the rounding of decimals, and far below what ever decides
_MAX_BITS: Final = 512
_Floats = npt.NDArray[np.float64]


def column_norm(rounds: int) -> float:
    """The norm of the first column of C over `rounds` rounds, rounded up: sensitivity divided by a norm bound.

    Raises:
        ConfigError: `rounds` is below 1.
    """
    check_count("rounds", rounds)
    if rounds <= _SUMMED:
        return float(_norms(1 << (rounds - 1).bit_length())[rounds - 1])
    # c_i^2 <= 1/(pi i), and the sum of 1/i from a to b - 1 is at most ln((b - 1)/(a - 1)).
    rest = math.log((rounds - 1) / (_SUMMED - 1)) / math.pi
    return math.sqrt(float(_norms(_SUMMED)[-1]) ** 2 + rest) * (1 + 4 * _ULP)


def error_norms(rounds: int) -> tuple[float, float]:
    """The standard deviations of the noise of sums over rounds 1 .. t, for noise of one unit that pays `column_norm`.

    Args:
        rounds: The number of rounds.

    Returns:
        The largest of all t, and the root of the mean of their squares.

    Raises:
        ConfigError: `rounds` is not in [1, 2^16].
    """
    check_count("rounds", rounds)
    if rounds > _SUMMED:
        raise ConfigError(f"the error is computed for up to {_SUMMED} rounds, not for {rounds}")
    rows = _norms(1 << (rounds - 1).bit_length())[:rounds]
    return float(rows[-1] ** 2), float(rows[-1] * math.sqrt(np.mean(np.square(rows))))


def column_of(rounds: int) -> _Floats:
    """The first column of C over `rounds` rounds, float64 `[rounds]`: what a contribution to the first round adds."""
    i = np.arange(1, rounds, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * i - 1) / (2 * i))])


@lru_cache(maxsize=8)
def _norms(rounds: int) -> _Floats:
    """The norm of c_0 .. c_(t-1) for t = 1 .. `rounds`, rounded up."""
    total: _Floats = np.sqrt(np.cumsum(np.square(column_of(rounds)))) * (1 + 8 * rounds * _ULP)
    total[0] = 1.0
    return total


def taken_back(rounds: int) -> _Floats:
    """The coefficients of C^-1 on the fresh noise of this round and of those before it, float64 `[rounds]`.

    The first is 1 and all others are negative. Each is within `rounds` times 2^-52 of the exact one, relatively.
    """
    i = np.arange(1, rounds, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((2 * i - 3) / (2 * i))])


class ToeplitzNoise:
    """The noise of all rounds for vectors of one length, from streams that repeat.

    Args:
        length: The entries of the vector.
        streams: The streams of the fresh noise.
    """

    def __init__(self, length: int, streams: Streams) -> None:
        check_count("length", length)
        self._length, self._streams = length, streams
        self._fresh: dict[int, tuple[_Floats, npt.NDArray[np.float32]]] = {}

    def sample(self, stddev: float, round: int) -> Ints:
        """The noise of one round, int64 `[length]`: the same at every call.

        Args:
            stddev: The standard deviation of the fresh noise, in (0, 2^36] integer units, the same in every round.
            round: The round, from 1.

        Raises:
            ConfigError: An argument is out of range.
        """
        check_positive("stddev", stddev)
        check_count("round", round)
        if stddev > MAX_STDDEV:
            raise ConfigError(f"a noise stddev of {stddev:.4g} units is above 2^36: lower the codec's scale")
        total, error, size = (np.zeros(self._length) for _ in range(3))
        for back, coefficient in enumerate(taken_back(round)):
            values, errors = self._values(round - back)
            term = coefficient * values
            total += term
            size += np.abs(term)
            error += abs(coefficient) * errors
        # Coefficients, products and the running sum: each term is off by so many units in the last place.
        error = stddev * (error + (4 * round + 16) * _ULP * size) * (1 + 1e-6)
        scaled = stddev * total
        nearest = np.rint(scaled)
        noise = nearest.astype(np.int64)
        unsure = np.unique(np.flatnonzero(~(np.abs(scaled - nearest) + error < 0.5)) % self._pairs)
        exact = self._exact(stddev, round, unsure) if len(unsure) else ()
        for pair, both in zip(unsure.tolist(), exact, strict=True):
            for half, value in enumerate(both):
                if pair + half * self._pairs < self._length:
                    noise[pair + half * self._pairs] = value
        return noise

    @property
    def _pairs(self) -> int:
        """Values come in pairs: value i and value i + _pairs are made of the same bits."""
        return -(-self._length // 2)

    def _words(self, round: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The first 64 bits of the two uniforms of each pair."""
        bits = np.frombuffer(draw(self._streams(round), 16 * self._pairs), "<u8").astype(np.uint64)
        return bits[: self._pairs], bits[self._pairs :]

    def _values(self, round: int) -> tuple[_Floats, npt.NDArray[np.float32]]:
        """The fresh standard normals of a round in float64, and the bound of each one's error."""
        if round not in self._fresh:
            first, second, error = standard_pairs(*self._words(round))
            values = np.concatenate([first, second])[: self._length]
            errors = np.concatenate([error, error])[: self._length].astype(np.float32)
            made = values, np.nextafter(errors, np.float32(np.inf))
            if (len(self._fresh) + 1) * self._length > _KEPT:
                return made
            self._fresh[round] = made
        return self._fresh[round]

    def _exact(self, stddev: float, round: int, pairs: npt.NDArray[np.intp]) -> list[tuple[int, int]]:
        """The noise at the two places of each pair, with as many bits as it takes."""
        words = [tuple(part[pairs] for part in self._words(s)) for s in range(1, round + 1)]
        found = []
        for at, pair in enumerate(pairs.tolist()):
            bits = [[int(v[at]), int(w[at])] for v, w in words]
            found.append(_decided(stddev, bits, [self._streams(s, pair) for s in range(1, round + 1)]))
        return found


def _decided(stddev: float, bits: list[list[int]], more: list[Entropy]) -> tuple[int, int]:
    """The two integers of one pair in the last round, from the first 64 bits of both uniforms in every round."""
    c, known, coefficients = CONTEXT, 64, _exact_taken_back(len(bits))
    while known < _MAX_BITS:
        for uniforms, stream in zip(bits, more, strict=True):
            for at in (0, 1):
                uniforms[at] = uniforms[at] << 64 | int.from_bytes(draw(stream, 8), "little")
        known += 64
        pairs = [decimal_pair(v, w, known) for v, w in bits]
        totals, error = [Decimal(0), Decimal(0)], Decimal(0)
        for coefficient, found in zip(coefficients, reversed(pairs), strict=True):
            if found is None:
                break
            factor = c.multiply(Decimal(stddev), coefficient)
            totals = [c.add(total, c.multiply(factor, value)) for total, value in zip(totals, found, strict=False)]
            error = c.add(error, c.multiply(c.abs(factor), c.add(found[2], _DIGITS)))
        else:
            nearest = [c.to_integral_value(total) for total in totals]
            gaps = [c.abs(c.subtract(total, whole)) for total, whole in zip(totals, nearest, strict=True)]
            if all(c.add(gap, error) < Decimal("0.5") for gap in gaps):
                return int(nearest[0]), int(nearest[1])
    raise ConfigError("the entropy source repeats itself")  # pragma: no cover - probability below 2^-200


@lru_cache(maxsize=2)
def _exact_taken_back(rounds: int) -> tuple[Decimal, ...]:
    found = [Decimal(1)]
    for i in range(1, rounds):
        found.append(CONTEXT.divide(CONTEXT.multiply(found[-1], Decimal(2 * i - 3)), Decimal(2 * i)))
    return tuple(found)
