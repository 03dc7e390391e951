"""The rounded Gaussian rint(N(0, s^2)), sampled exactly from random bits.

Box and Muller (1958): for independent uniforms v, w on (0, 1), sqrt(-2 ln v) times cos(2 pi w) and sin(2 pi w) are two
independent standard normals. Here v and w are real numbers of which 64 bits are sampled first. A float64 evaluation of
`s*x` has an error bound. The unknown bits of v and w are included in it. Where the rounding to an integer is
certain within that bound, the integer is exact. Elsewhere more bits are sampled, and the pair is evaluated in decimal
arithmetic until it is certain. The law of the result is therefore P(k) = Phi((k+1/2)/s) - Phi((k-1/2)/s), exactly. As
the rounding of a real Gaussian around an integer, it is post-processing of the Gaussian mechanism on integers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.checks import check_positive, draw
from privfl.errors import ConfigError
from privfl.ring import Ints

Entropy = Callable[[int], bytes]
"""n -> n random bytes: `os.urandom` for noise that carries a claim, a seeded stream for simulations and tests."""

MAX_STDDEV: Final = 2.0**44
"""Above this, float64 decides too few values; the exact path would carry most of the work."""

_PAIRS: Final = 1 << 13  # values a pass that stay in the cache
_ULP: Final = 2.0**-53
_SLACK: Final = 32.0  # units in the last place granted to log, sqrt, sin, cos and the products; numpy promises < 4 each
_DIGITS: Final = 120
CONTEXT: Final = Context(prec=_DIGITS)
"""Decimal arithmetic for what float64 leaves open."""

_PI: Final = Decimal(
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798214808651"
    "328230664709384460955"
)
_Floats = npt.NDArray[np.float64]
_Bits = npt.NDArray[np.uint64]


def seeded_entropy(*key: int) -> Entropy:
    """A reproducible stream keyed by non-negative integers: for simulation only, never for a privacy claim."""
    rng = np.random.default_rng(np.random.SeedSequence(list(key)))
    return rng.bytes


def rounded_gaussian(stddev: float, length: int, *, entropy: Entropy = os.urandom) -> Ints:
    """Return independent samples of rint(N(0, stddev^2)), int64 `[length]`, exactly.

    Args:
        stddev: The standard deviation, in (0, 2^44] integer units.
        length: The number of samples.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: `stddev` is out of range.
    """
    check_positive("stddev", stddev)
    if stddev > MAX_STDDEV:
        raise ConfigError(f"a noise stddev of {stddev:.4g} units is above 2^44: lower the codec's scale")
    out = np.empty(length, np.int64)
    for start in range(0, length, 2 * _PAIRS):
        part = out[start : start + 2 * _PAIRS]
        pairs = -(-len(part) // 2)
        bits = np.frombuffer(draw(entropy, 16 * pairs), np.uint64)
        both = _pairs(float(stddev), bits[:pairs], bits[pairs:], entropy)
        part[:pairs] = both[0]
        part[pairs:] = both[1][: len(part) - pairs]
    return out


def _pairs(stddev: float, v_bits: _Bits, w_bits: _Bits, entropy: Entropy) -> tuple[Ints, Ints]:
    """The two integers of each pair of 64-bit uniforms."""
    v = v_bits.astype(np.float64)
    square = -2.0 * np.log(np.maximum(v, 0.5) * 2.0**-64)
    square = np.maximum(square, 0.0)
    radius = np.sqrt(square)
    cos, sin = _circle(w_bits)
    # d(radius) = d(ln v) / radius, and ln v is uncertain by 1/v_bits (bits not sampled) and a few units of rounding.
    # Of 64 zero bits nothing is known but a bound: 1/0.
    with np.errstate(divide="ignore"):
        blur = 1.0 / v + _SLACK * _ULP * (1.0 + square)
        error = stddev * (blur / radius + _SLACK * _ULP * radius)
    # Below half a unit at every angle: zero, however little is known of the small radius.
    certain_zero = stddev * np.sqrt(square + 2.0 * blur) * (1.0 + _SLACK * _ULP) < 0.5
    first, sure_first = _decide(stddev * radius * cos, error)
    second, sure_second = _decide(stddev * radius * sin, error)
    unsure = ~(certain_zero | (sure_first & sure_second))
    for at in np.flatnonzero(unsure):
        first[at], second[at] = _refine(stddev, int(v_bits[at]), int(w_bits[at]), entropy)
    return first, second


def standard_pairs(v_bits: _Bits, w_bits: _Bits) -> tuple[_Floats, _Floats, _Floats]:
    """The two standard normals of each pair of uniforms, and a bound on the error of both, infinite at 64 zero bits.

    Args:
        v_bits: The first 64 bits of v, uint64 `[n]`.
        w_bits: The first 64 bits of w, uint64 `[n]`.
    """
    v = v_bits.astype(np.float64)
    square = np.maximum(-2.0 * np.log(np.maximum(v, 0.5) * 2.0**-64), 0.0)
    radius = np.sqrt(square)
    cos, sin = _circle(w_bits)
    with np.errstate(divide="ignore", invalid="ignore"):
        blur = 1.0 / v + _SLACK * _ULP * (1.0 + square)
        # The root's error is blur/radius, and never above the root of twice the blur.
        error = np.fmin(blur / radius, np.sqrt(2.0 * blur)) + _SLACK * _ULP * radius
    return radius * cos, radius * sin, error


def _circle(w_bits: _Bits) -> tuple[_Floats, _Floats]:
    """cos and sin of 2 pi w_bits / 2^64; quadrants are taken from the top bits, and angles stay below pi/2."""
    quadrant = w_bits >> np.uint64(62)
    angle = (w_bits & np.uint64((1 << 62) - 1)).astype(np.float64) * (math.pi / 2 * 2.0**-62)
    cos, sin = np.cos(angle), np.sin(angle)
    odd = (quadrant & np.uint64(1)).astype(bool)
    x = np.where(odd, -sin, cos)
    y = np.where(odd, cos, sin)
    sign = np.where(quadrant >= np.uint64(2), -1.0, 1.0)
    return sign * x, sign * y


def _decide(x: _Floats, error: _Floats) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """rint(x), and whether no value within `error` of x rounds to anything else."""
    nearest = np.rint(x)
    sure = np.abs(x - nearest) + error < 0.5
    return nearest.astype(np.int64), sure


def _refine(stddev: float, v_bits: int, w_bits: int, entropy: Entropy) -> tuple[int, int]:
    """The two integers of one pair, with as many more bits as it takes."""
    known = 64
    while True:
        v_bits = v_bits << 64 | int.from_bytes(draw(entropy, 8), "little")
        w_bits = w_bits << 64 | int.from_bytes(draw(entropy, 8), "little")
        known += 64
        found = _exact_pair(stddev, v_bits, w_bits, known)
        if found is not None:
            return found
        if known >= 320:  # pragma: no cover - probability below 2^-200
            raise ConfigError("the entropy source repeats itself")


def _exact_pair(stddev: float, v_bits: int, w_bits: int, known: int) -> tuple[int, int] | None:
    """The two integers if the first `known` bits of v and w decide them, else None."""
    found = decimal_pair(v_bits, w_bits, known)
    if found is None:
        return None
    c = CONTEXT
    *units, half = found
    error = c.multiply(Decimal(stddev), c.add(half, Decimal("1e-90")))
    values = []
    for unit in units:
        x = c.multiply(Decimal(stddev), unit)
        nearest = c.to_integral_value(x)
        if c.add(c.abs(c.subtract(x, nearest)), error) >= Decimal("0.5"):
            return None
        values.append(int(nearest))
    return values[0], values[1]


def decimal_pair(v_bits: int, w_bits: int, known: int) -> tuple[Decimal, Decimal, Decimal] | None:
    """The two standard normals of a pair of uniforms, and how far the bits that are not known can move them.

    Args:
        v_bits: The first bits of v.
        w_bits: The first bits of w.
        known: How many bits those are.

    Returns:
        Both values and the bound; None where nothing is known of v but zeros.
    """
    if not v_bits:
        return None
    c = CONTEXT
    whole = c.power(Decimal(2), Decimal(known))
    middle = Decimal(2 * v_bits + 1)
    square = c.multiply(Decimal(-2), c.ln(c.divide(middle, c.multiply(Decimal(2), whole))))
    radius = c.sqrt(square)
    angle = c.divide(c.multiply(_PI, Decimal(2 * w_bits + 1)), whole)
    cos, sin = _decimal_circle(angle)
    # Half a bit either way: |d ln v| <= 1/v_bits, |d angle| <= 2 pi / 2^known; 10^-90 is far above the rounding.
    log_error = c.divide(Decimal(1), Decimal(v_bits))
    half = c.add(c.divide(log_error, radius), c.divide(c.multiply(Decimal(7), radius), whole))
    return c.multiply(radius, cos), c.multiply(radius, sin), half


def _decimal_circle(angle: Decimal) -> tuple[Decimal, Decimal]:
    """cos and sin of an angle in [0, 2 pi): Taylor's series at angle/2^8, then eight doublings."""
    c = CONTEXT
    small = c.divide(angle, Decimal(256))
    power, cos, sin = Decimal(1), Decimal(0), Decimal(0)
    for n in range(70):
        signed = power if n % 4 < 2 else c.minus(power)
        if n % 2 == 0:
            cos = c.add(cos, signed)
        else:
            sin = c.add(sin, signed)
        power = c.divide(c.multiply(power, small), Decimal(n + 1))
    for _ in range(8):
        cos, sin = c.subtract(c.multiply(cos, cos), c.multiply(sin, sin)), c.multiply(Decimal(2), c.multiply(sin, cos))
    return cos, sin
