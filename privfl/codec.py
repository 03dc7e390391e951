"""Real vectors <-> integer vectors whose l2 norm is bounded exactly, so a sensitivity holds to the unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.errors import CapacityError, ConfigError
from privfl.ring import MAX_BITS, Ints, Ring

Vector = npt.NDArray[np.floating[Any]]
"""A model, an update, a mean: one flat float32 or float64 array."""

Rounding = Literal["nearest", "stochastic"]

NOISE_DEVIATIONS: Final = 20
"""Noise is given room for this many standard deviations: a Gaussian leaves it with probability below 2^-290."""

SCALE_RANGE: Final = (2.0**-512, 2.0**512)
"""Scales outside would let scale*factor leave the normal floats, and with them the proof of `encode`."""

# Values a step: 64 KiB of float64 stays in the cache, and OpenBLAS takes dot products of up to 10,000 with one thread.
_CHUNK: Final = 1 << 13
_TRIES: Final = 4
_EXACT: Final = 2.0**53  # float64 holds every integer up to here
_QUICK: Final = 2.0**62  # a chunk whose squares sum to less has entries below 2^31
_INT64_LIMIT: Final = 2.0**63  # what int64 cannot hold
_MAGIC: Final = 1.5 * 2.0**52  # added to an integer below 2^51, leaves that integer in the low bits of the float
_MAGIC_BITS: Final = np.float64(_MAGIC).view(np.int64)
_ROOM: Final = 1.0 - 2.0**-24  # more than the error of a float64 sum of up to 2^28 squares
_MARGIN: Final = 1.0 - 2.0**-40  # covers the handful of float roundings between two norms


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The fixed-point code: real numbers as integers in a ring.

    Attributes:
        scale: The integer units of 1.0, in [2^-512, 2^512].
        ring: The ring in which the integers are summed.
    """

    scale: float
    ring: Ring

    def __post_init__(self) -> None:
        low, high = SCALE_RANGE
        if not low <= self.scale <= high:
            raise ConfigError(f"scale must be in [2^-512, 2^512], not {self.scale!r}")

    @classmethod
    def fit(cls, ring: Ring, *, clip_norm: float, cohort: int, noise_multiplier: float = 0.0) -> FixedPoint:
        """Return the finest codec that holds `cohort` contributions and their noise; its scale is a power of two.

        Args:
            ring: The ring of the sum.
            clip_norm: The l2 bound of one contribution, positive.
            cohort: The number of contributions.
            noise_multiplier: The standard deviation of the noise on the sum, divided by `clip_norm`; 0 by default.
        """
        _check_positive(clip_norm=clip_norm, cohort=cohort)
        _check_not_negative(noise_multiplier=noise_multiplier)
        _check_not_negative(noise=clip_norm * noise_multiplier)
        # A power of two scales the float `clip_norm * noise_multiplier` exactly: this is check_capacity's sum.
        room = int(cohort) * _exact(clip_norm) + NOISE_DEVIATIONS * _exact(clip_norm * noise_multiplier)
        exponent = ring.half.bit_length() + room.denominator.bit_length() - room.numerator.bit_length()
        while Fraction(2) ** exponent * room >= ring.half:
            exponent -= 1
        return cls(min(math.ldexp(1.0, max(-600, min(exponent, 600))), SCALE_RANGE[1]), ring)

    def bound(self, max_abs: float) -> int:
        """Return floor(scale*max_abs): the maximum of an integer entry if the entries (or the norm) are at most
        `max_abs`.
        """
        _check_not_negative(max_abs=max_abs)
        return math.floor(_exact(self.scale) * _exact(max_abs))

    def sensitivity(self, clip_norm: float) -> float:
        """Return the integer l2 bound of one contribution, scale*clip_norm, rounded up to a float. Rounding adds
        nothing.
        """
        _check_positive(clip_norm=clip_norm)
        product = float(self.scale * clip_norm)
        exact = _exact(self.scale) * _exact(clip_norm)
        return product if math.isinf(product) or _exact(product) >= exact else math.nextafter(product, math.inf)

    def check_capacity(self, *, clip_norm: float, cohort: int, noise_stddev: float = 0.0) -> None:
        """Raise `CapacityError` unless all contributions fit into the ring together with 20 standard deviations of
        noise.

        Args:
            clip_norm: The l2 bound of one contribution, positive.
            cohort: The number of contributions.
            noise_stddev: The standard deviation of the noise on the sum, in integer units; 0 by default.
        """
        _check_positive(clip_norm=clip_norm, cohort=cohort)
        _check_not_negative(noise_stddev=noise_stddev)
        need = int(cohort) * _exact(self.scale) * _exact(clip_norm) + NOISE_DEVIATIONS * _exact(noise_stddev)
        if need >= self.ring.half:
            bits = math.floor(need).bit_length() + 1
            remedy = f"{bits} bits would suffice" if bits <= MAX_BITS else "lower the scale or the clip"
            raise CapacityError(
                f"a sum of {cohort} contributions of norm {clip_norm:g} at scale {self.scale:g} with noise stddev "
                f"{noise_stddev:g} can reach 2^{bits - 2} or more, and a ring of {self.ring.bits} bits holds less than "
                f"2^{self.ring.bits - 1}: {remedy}"
            )

    def encode(
        self,
        x: Vector,
        *,
        max_norm: float,
        rounding: Rounding = "nearest",
        rng: np.random.Generator | None = None,
    ) -> Ints:
        """Return the integers of a real vector, int64 `[d]`, with an l2 norm of at most scale*max_norm, exactly.

        A vector whose rounding is too long is shrunk and rounded again, and after four tries rounded toward zero: at
        most six passes over `x`.

        Args:
            x: Floats `[d]`, finite, below 2^63 after scaling.
            max_norm: The bound of the norm in real units, positive.
            rounding: "nearest" (ties to even), or "stochastic": up with the probability of the fraction. Stochastic
                rounding is not a privacy mechanism.
            rng: The randomness of stochastic rounding, which needs it.

        Raises:
            ConfigError: `x` is no flat array of floats, or holds NaN, infinities or larger values.
        """
        _check_positive(max_norm=max_norm)
        limit = _square_limit(self.scale, max_norm)
        to_integers = _rounding(rounding, rng)
        values = _space(x)
        factor = 1.0
        for attempt in range(1, _TRIES + 1):
            square = _pass(x, self.scale * factor, to_integers, values)
            if square <= limit:
                return values
            # From try to try, rounding moves a long vector's norm by 0.41 units (one stddev): aim a unit lower.
            spare = attempt / max(8.0, math.sqrt(limit))
            factor *= math.sqrt(limit / square) * (1.0 - spare)
        # |x*scale| <= its rounding away from zero, whose integer norm is known exactly, and truncation only shortens.
        square = _pass(x, self.scale, _away_from_zero, values)
        _pass(x, self.scale * (math.sqrt(limit / square) * _MARGIN), _toward_zero, values)
        return values

    def encode_entries(
        self,
        x: Vector,
        *,
        max_abs: float,
        rounding: Rounding = "nearest",
        rng: np.random.Generator | None = None,
    ) -> Ints:
        """Return the integers of a real vector, int64 `[d]`, each clipped to |entry| <= floor(scale*max_abs).

        Args:
            x: Floats `[d]`, finite, below 2^63 after scaling.
            max_abs: The bound of each entry in real units, positive.
            rounding: "nearest" or "stochastic", as in `encode`.
            rng: The randomness of stochastic rounding, which needs it.

        Raises:
            ConfigError: As `encode`.
        """
        _check_positive(max_abs=max_abs)
        bound = self.bound(max_abs)
        if bound >= _INT64_LIMIT:
            raise ConfigError(f"scale*max_abs must be below 2^63, not {bound}")
        to_integers, values = _rounding(rounding, rng), _space(x)
        _pass(x, self.scale, to_integers, values)
        return np.clip(values, -bound, bound, out=values)

    def encode_rows(self, x: npt.NDArray[np.floating[Any]], *, max_norm: float) -> Ints:
        """Return the integers of several vectors, rounded to nearest: each as `encode` would return it.

        Args:
            x: Floats `[n, d]`, finite.
            max_norm: The bound of the norm of each vector in real units, positive.

        Returns:
            int64 `[n, d]`.
        """
        _check_positive(max_norm=max_norm)
        limit = _square_limit(self.scale, max_norm) * _ROOM  # a float's sum of squares below it is below the limit
        real = np.multiply(x, self.scale, dtype=np.float64)
        np.rint(real, out=real)
        long = np.flatnonzero(~(np.einsum("ij,ij->i", real, real) <= limit))
        if len(long):
            real[long] = 0
        values: Ints = real.astype(np.int64)
        for row in long:
            values[row] = self.encode(np.ascontiguousarray(x[row]), max_norm=max_norm)
        return values

    def encode_entry_rows(self, x: npt.NDArray[np.floating[Any]], *, max_abs: float) -> Ints:
        """Return the integers of several vectors, rounded to nearest: each as `encode_entries` would return it.

        Args:
            x: Floats `[n, d]`, finite, below 2^51 after scaling.
            max_abs: The bound of each entry in real units, positive.

        Returns:
            int64 `[n, d]`.
        """
        _check_positive(max_abs=max_abs)
        bound = self.bound(max_abs)
        real = np.multiply(x, self.scale, dtype=np.float64)
        np.rint(real, out=real)
        values: Ints = real.astype(np.int64)
        return np.clip(values, -bound, bound, out=values)

    def decode(self, total: Ints) -> npt.NDArray[np.float64]:
        """int64 `[d]` -> float64 `[d]`: each value as a float, times the float nearest to 1/scale."""
        return np.multiply(total, 1.0 / self.scale)


def square_norm(values: Ints) -> int:
    """The exact squared l2 norm of int64 `[d]`."""
    total = 0
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        real = part.astype(np.float64)
        total += _square(real, part)
    return total


def _square(real: npt.NDArray[np.float64], exact: Ints) -> int:
    """The exact squared norm of one chunk, given as float64 and as int64.

    A float64 sum of squares of integers that comes out below 2^53 is exact in every order of summation: every
    partial sum is an integer below 2^53. Anything larger is summed in 32-bit limbs.
    """
    square = float(np.dot(real, real))
    if square < _EXACT:
        return int(square)
    magnitude = np.abs(exact).astype(np.uint64)  # also of -2^63, which abs leaves as it is
    low, high = magnitude & _LOW, magnitude >> _HALF
    low_low, low_high, high_high = (_limb_dot(a, b) for a, b in ((low, low), (low, high), (high, high)))
    return low_low + (low_high << 33) + (high_high << 64)


_LOW: Final = np.uint64(0xFFFF_FFFF)
_HALF: Final = np.uint64(32)


def _limb_dot(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> int:
    products = a * b  # below 2^64: split again, and the sums of 2^13 of them fit
    return int((products & _LOW).sum()) + (int((products >> _HALF).sum()) << 32)


_Reals = npt.NDArray[np.float64]
_ToIntegers = Callable[[_Reals], object]
"""Replaces float64 `[n]` by integers, in place."""


def _rounding(rounding: Rounding, rng: np.random.Generator | None) -> _ToIntegers:
    if rounding == "nearest":
        return lambda real: np.rint(real, out=real)
    if rounding != "stochastic":
        raise ConfigError(f"rounding must be 'nearest' or 'stochastic', not {rounding!r}")
    if rng is None:
        raise ConfigError("stochastic rounding needs an rng")

    def stochastic(real: _Reals) -> None:
        # The sum is exact to 2^-24 for entries below 2^29: so much may the probability of going up be off.
        np.add(real, rng.random(len(real), dtype=np.float32), out=real)
        np.floor(real, out=real)

    return stochastic


def _toward_zero(real: _Reals) -> None:
    np.trunc(real, out=real)


def _away_from_zero(real: _Reals) -> None:
    np.ceil(np.abs(real, out=real), out=real)


def _space(x: Vector) -> Ints:
    if not isinstance(x, np.ndarray) or x.ndim != 1 or x.dtype.kind != "f":
        found = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ConfigError(f"a flat numpy array of floats is expected, not {found}")
    return np.empty(len(x), np.int64)


def _pass(x: Vector, scale: float, to_integers: _ToIntegers, values: Ints) -> int:
    """Put the integers of x*scale into `values`, int64 `[d]`, in one pass; their exact squared norm."""
    buffer = np.empty(min(len(x), _CHUNK))
    square = 0
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        real, out = buffer[: len(part)], values[start : start + _CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):  # both are looked for below
            np.copyto(real, part, casting="same_kind")
            np.multiply(real, scale, out=real)
            to_integers(real)
            rough = float(np.dot(real, real))
        if rough < _QUICK:
            square += int(rough) if rough < _EXACT else _square_of_quick(real)
            # The same as out[:] = real, which costs twice as much.
            np.add(real, _MAGIC, out=real)
            np.subtract(real.view(np.int64), _MAGIC_BITS, out=out)
        else:  # NaN, infinite, or merely large
            _check_range(part, real, start)
            out[:] = real
            square += _square(real, out)
    return square


def _square_of_quick(real: _Reals) -> int:
    return _square(real, real.astype(np.int64))


def _check_range(part: Vector, scaled: _Reals, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(part))
    if len(bad):
        raise ConfigError(f"entry {start + int(bad[0])} is not finite: only finite values can be encoded")
    big = np.flatnonzero(~(np.abs(scaled) < _INT64_LIMIT))
    if len(big):
        raise ConfigError(f"entry {start + int(big[0])} is 2^63 units or more after scaling: clip it first")


@lru_cache(maxsize=64)
def _square_limit(scale: float, max_norm: float) -> int:
    """floor((scale*max_norm)^2), exactly; a run asks for the same one with every update."""
    return math.floor((_exact(scale) * _exact(max_norm)) ** 2)


def _exact(value: float) -> Fraction:
    return Fraction(value if isinstance(value, (int, float)) else float(value))  # numpy's numbers are floats here


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive finite number, not {value!r}")


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a finite number of at least 0, not {value!r}")
