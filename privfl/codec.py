"""Real vectors <-> integer vectors whose l2 norm is bounded exactly, so that a sensitivity claim holds to the unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
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

_CHUNK: Final = 1 << 14  # values a pass: 128 KiB of float64 stays in the cache
_TRIES: Final = 4
_EXACT: Final = 2.0**53  # float64 holds every integer up to here
_LARGEST: Final = 2.0**62  # larger values do not fit the clear int64 words with room for a sum


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """`scale` integer units per 1.0, summed in `ring`."""

    scale: float
    ring: Ring

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"scale must be a positive finite number, not {self.scale!r}")

    @classmethod
    def fit(cls, ring: Ring, *, clip_norm: float, cohort: int, noise_multiplier: float = 0.0) -> FixedPoint:
        """The finest codec, with a power of two as scale, that holds `cohort` contributions and their noise."""
        _check_positive(clip_norm=clip_norm, cohort=cohort)
        room = clip_norm * (cohort + NOISE_DEVIATIONS * noise_multiplier)
        codec = cls(2.0 ** math.floor(math.log2((ring.half - 1) / room)), ring)
        codec.check_capacity(
            clip_norm=clip_norm, cohort=cohort, noise_stddev=codec.scale * clip_norm * noise_multiplier
        )
        return codec

    def bound(self, max_abs: float) -> int:
        """The largest integer entry of a vector whose entries (or norm) are at most `max_abs`: floor(scale*max_abs)."""
        return math.floor(Fraction(self.scale) * Fraction(max_abs))

    def sensitivity(self, clip_norm: float) -> float:
        """Integer l2 norm bound of one contribution, scale*clip_norm: rounding adds nothing to it."""
        return self.scale * clip_norm

    def check_capacity(self, *, clip_norm: float, cohort: int, noise_stddev: float = 0.0) -> None:
        """Raise `CapacityError` unless `cohort` contributions and 20 deviations of noise (integer units) fit."""
        _check_positive(clip_norm=clip_norm, cohort=cohort)
        if not (math.isfinite(noise_stddev) and noise_stddev >= 0):
            raise ConfigError(f"noise_stddev must be finite and at least 0, not {noise_stddev!r}")
        need = cohort * Fraction(self.scale) * Fraction(clip_norm) + NOISE_DEVIATIONS * Fraction(noise_stddev)
        if need >= self.ring.half:
            bits = math.floor(need).bit_length() + 1
            remedy = f"{bits} bits would suffice" if bits <= MAX_BITS else "lower the scale or the clip"
            raise CapacityError(
                f"a sum of {cohort} contributions of norm {clip_norm:g} at scale {self.scale:g} with noise deviation "
                f"{noise_stddev:g} reaches {float(need):.4g}, and a ring of {self.ring.bits} bits holds less than "
                f"{self.ring.half}: {remedy}"
            )

    def encode(
        self,
        x: Vector,
        *,
        max_norm: float,
        rounding: Rounding = "nearest",
        rng: np.random.Generator | None = None,
    ) -> Ints:
        """Real `[d]` -> int64 `[d]` with an integer l2 norm of at most scale*max_norm, exactly.

        Rounds to the nearest integer, or up with the probability of the fraction (`rounding="stochastic"`, which
        needs a seeded or fresh `rng`: it is not a privacy mechanism). A vector whose rounding is too long is shrunk
        and rounded again, and after four tries rounded toward zero. Raises `ConfigError` for NaN, infinities, values
        beyond 2^62 after scaling and arrays that are not flat.
        """
        _check_positive(max_norm=max_norm)
        limit = math.floor((Fraction(self.scale) * Fraction(max_norm)) ** 2)
        draws = _draws(rounding, rng)
        factor = 1.0
        for attempt in range(_TRIES):
            values, square = _round(x, self.scale * factor, draws)
            if square <= limit:
                return values
            factor *= math.sqrt(limit / square) * (1.0 - 2.0 ** (attempt - 40))
        return _toward_zero(x, self.scale, limit)

    def encode_entries(
        self,
        x: Vector,
        *,
        max_abs: float,
        rounding: Rounding = "nearest",
        rng: np.random.Generator | None = None,
    ) -> Ints:
        """Real `[d]` -> int64 `[d]` with |entry| <= floor(scale*max_abs), clipped one by one; errors as `encode`."""
        _check_positive(max_abs=max_abs)
        bound = self.bound(max_abs)
        if bound >= _LARGEST:
            raise ConfigError(f"scale*max_abs must be below 2^62, not {bound}")
        values, _ = _round(x, self.scale, _draws(rounding, rng))
        return np.clip(values, -bound, bound, out=values)

    def decode(self, total: Ints) -> npt.NDArray[np.float64]:
        """int64 `[d]` -> float64 `[d]`."""
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

    A float64 sum of squares of integers that comes out below 2^53 is exact whatever the order of summation: every
    partial sum is an integer below 2^53. Anything larger is summed in 31-bit limbs.
    """
    square = float(np.dot(real, real))
    if square < _EXACT:
        return int(square)
    magnitude = np.abs(exact).astype(np.uint64)
    low, high = magnitude & np.uint64(0x7FFF_FFFF), magnitude >> np.uint64(31)
    low_low, low_high, high_high = (_limb_dot(a, b) for a, b in ((low, low), (low, high), (high, high)))
    return low_low + (low_high << 32) + (high_high << 62)


def _limb_dot(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64]) -> int:
    products = a * b  # below 2^62 (2^64 for a high limb of 2^32): split again so that the sums of 2^14 fit
    return int((products & np.uint64(0xFFFF_FFFF)).sum()) + (int((products >> np.uint64(32)).sum()) << 32)


def _round(x: Vector, scale: float, rng: np.random.Generator | None) -> tuple[Ints, int]:
    """round(x*scale) as int64 `[d]`, and its exact squared norm, in one pass over memory."""
    if x.ndim != 1 or x.dtype.kind != "f":
        raise ConfigError(f"a flat array of floats is expected, not {x.dtype} of shape {x.shape}")
    values = np.empty(len(x), np.int64)
    buffer = np.empty(min(len(x), _CHUNK))
    square = 0
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        real = buffer[: len(part)]
        np.multiply(part, scale, out=real, dtype=np.float64)
        if rng is None:
            np.rint(real, out=real)
        else:
            np.add(real, rng.random(len(part), dtype=np.float32), out=real)
            np.floor(real, out=real)
        rough = float(np.dot(real, real))
        if not rough < _LARGEST:  # NaN too
            _check_range(part, real, start)
        out = values[start : start + _CHUNK]
        out[:] = real
        square += int(rough) if rough < _EXACT else _square(real, out)
    return values, square


def _check_range(part: Vector, scaled: npt.NDArray[np.float64], start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(part))
    if len(bad):
        raise ConfigError(f"entry {start + int(bad[0])} is {part[bad[0]]}: only finite values can be encoded")
    big = np.flatnonzero(~(np.abs(scaled) < _LARGEST))
    if len(big):
        raise ConfigError(f"entry {start + int(big[0])} is {part[big[0]]}: beyond 2^62 units after scaling")


def _toward_zero(x: Vector, scale: float, limit: int) -> Ints:
    """trunc(x*scale*shrink) with a shrink that puts the real norm, and so the truncated one, below the limit."""
    real = scale * float(np.linalg.norm(x.astype(np.float64)))
    shrink = min(1.0, math.sqrt(limit) / real)
    while True:
        shrink *= 1.0 - 2.0**-20  # more than the rounding errors of the norm itself
        values = np.trunc(np.multiply(x, scale * shrink, dtype=np.float64)).astype(np.int64)
        if square_norm(values) <= limit:
            return values


def _draws(rounding: Rounding, rng: np.random.Generator | None) -> np.random.Generator | None:
    if rounding == "nearest":
        return None
    if rounding != "stochastic":
        raise ConfigError(f"rounding must be 'nearest' or 'stochastic', not {rounding!r}")
    if rng is None:
        raise ConfigError("stochastic rounding needs an rng")
    return rng


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a positive finite number, not {value!r}")
