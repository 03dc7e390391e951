"""Exact sampling of symmetric log-concave laws on the integers, decided on 64-bit uniforms.

Every comparison is first made on 64 random bits with a bound on its error; only what that leaves open is repeated in
decimal arithmetic with more bits. `LawTable` inverts a distribution function (small stddevs); `Hat` rejects from a
uniform center with exponential tails, which dominates by log-concavity (after Devroye 1986, chapter X.1).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.checks import draw
from privfl.dp.noise.sampler import MAX_STDDEV, Entropy
from privfl.errors import ConfigError
from privfl.ring import Ints

Floats = npt.NDArray[np.float64]
CONTEXT: Final = Context(prec=70)
"""Decimal arithmetic for what float64 leaves open."""

_ULP: Final = 2.0**-53
_SLACK: Final = 32.0
_CHUNK: Final = 1 << 14
_WORD: Final = Decimal(2**64)
_MAX_BITS: Final = 192  # beyond, the decimal figures themselves end; reached with a probability below 2^-120


class LawTable:
    """The law with probabilities proportional to `weights[|k|]`; the last weight must be below 1e-45 of the sum."""

    def __init__(self, weights: Sequence[Decimal]) -> None:
        c = CONTEXT
        reach = len(weights) - 1
        total = weights[0]
        for weight in weights[1:]:
            total = c.add(total, c.multiply(Decimal(2), weight))
        self._below: list[Decimal] = []
        running = Decimal(0)
        for k in range(-reach, reach):
            running = c.add(running, c.divide(weights[abs(k)], total))
            self._below.append(running)
        self._reach = reach
        self._words = np.array([min(int(c.multiply(b, _WORD)), 2**64 - 1) for b in self._below], np.uint64)

    def draw(self, length: int, entropy: Entropy) -> Ints:
        """Return independent samples, int64 `[length]`.

        Args:
            length: The number of samples.
            entropy: A source of random bytes, such as `os.urandom`.
        """
        bits = np.frombuffer(draw(entropy, 8 * length), np.uint64)
        found = np.searchsorted(self._words, bits, side="left")
        open_ = np.flatnonzero(self._words[np.minimum(found, len(self._words) - 1)] == bits)
        out = found.astype(np.int64)
        for at in open_:
            uniform = _Uniform(int(bits[at]), entropy)
            out[at] = uniform.settle(self._search)
        return out - self._reach

    def _search(self, low: Decimal, high: Decimal) -> int | None:
        first, last = bisect.bisect_right(self._below, low), bisect.bisect_left(self._below, high)
        return first if first == last else None


@dataclass(frozen=True, slots=True)
class LogConcave:
    """A symmetric log-concave law, as ln p(k)/p(0).

    Attributes:
        stddev: The standard deviation, at least 16.
        error: The absolute error of `fast`, apart from 32 units in the last place.
        fast: The logarithm in float64.
        exact: The logarithm in decimals.
    """

    stddev: float
    error: float
    fast: Callable[[Floats], Floats]
    exact: Callable[[int], Decimal]


class Hat:
    """Rejection sampling under a hat: an upper bound of the law that is easy to sample.

    The hat has a uniform center [-h, h) and mirrored tails with ln hat = a - b (k - h). Here h is the power of two with
    stddev/2 <= h < stddev. The tail is the line through two neighboring points of the log probabilities. By concavity
    the line is nowhere below them; a is rounded up, and b is rounded down. About 86 % of the samples are accepted.
    """

    def __init__(self, law: LogConcave) -> None:
        if law.stddev > MAX_STDDEV:
            raise ConfigError(f"a noise stddev of {law.stddev:.4g} units is above 2^44: lower the codec's scale")
        c = CONTEXT
        self._law = law
        self._bits = math.frexp(law.stddev)[1]  # 2^(bits-1) <= stddev < 2^bits; the center has 2^bits points
        if law.stddev < 2.0 ** (self._bits - 1) * (1 + 2.0**-40):
            self._bits -= 1
        self._half = half = 1 << (self._bits - 1)
        ratio = half / law.stddev
        touch = round(law.stddev * 0.5 * (ratio + math.sqrt(ratio * ratio + 4.0)))
        at, before = law.exact(touch), law.exact(touch - 1)
        slope = c.subtract(before, at)
        self._b = math.nextafter(float(slope), 0.0)
        top = c.add(at, c.multiply(slope, Decimal(touch - half)))
        self._a = math.nextafter(float(top), math.inf)
        self._b_exact, self._a_exact = Decimal(self._b), Decimal(self._a)
        # Mass of the center over that of everything: 2h / (2h + 2 e^a / (1 - e^-b)).
        tail = c.divide(c.exp(self._a_exact), c.subtract(Decimal(1), c.exp(c.minus(self._b_exact))))
        self._center = c.divide(Decimal(half), c.add(Decimal(half), tail))
        self._center_word = np.uint64(int(c.multiply(self._center, _WORD)))

    def draw(self, length: int, entropy: Entropy) -> Ints:
        """Return independent samples, int64 `[length]`.

        Args:
            length: The number of samples.
            entropy: A source of random bytes, such as `os.urandom`.
        """
        out = np.empty(length, np.int64)
        filled = 0
        while filled < length:
            accepted = self._propose(min(_CHUNK, int((length - filled) * 1.2) + 16), entropy)
            take = min(len(accepted), length - filled)
            out[filled : filled + take] = accepted[:take]
            filled += take
        return out

    def _propose(self, count: int, entropy: Entropy) -> Ints:
        """Those of `count` proposals that were accepted."""
        stream = draw(entropy, 25 * count)
        piece, place, coin = np.frombuffer(stream, np.uint64, 3 * count).reshape(3, count)
        side = np.frombuffer(stream, np.uint8, count, 24 * count) & np.uint8(1)
        center = piece < self._center_word
        open_ = piece == self._center_word
        k = (place >> np.uint64(64 - self._bits)).astype(np.int64) - self._half
        ln_hat = np.zeros(count)
        tail = np.flatnonzero(~center)
        spot = place[tail].astype(np.float64)
        with np.errstate(divide="ignore"):
            steps = -np.log(spot * 2.0**-64) / self._b
        whole = np.floor(np.minimum(steps, 2.0**62))
        doubt = (1.0 / np.maximum(spot, 1.0) + _SLACK * _ULP) / self._b + _SLACK * _ULP * steps
        open_[tail] |= ~((steps - whole > doubt) & (whole + 1.0 - steps > doubt))
        ln_hat[tail] = self._a - self._b * whole
        magnitude = self._half + whole.astype(np.int64)
        k[tail] = np.where(side[tail], magnitude, -magnitude - 1)
        ln_p = self._law.fast(np.abs(k).astype(np.float64))
        toss = coin.astype(np.float64)
        with np.errstate(divide="ignore"):
            surplus = ln_p - ln_hat - np.log(toss * 2.0**-64)
        margin = self._law.error + 1.0 / np.maximum(toss, 1.0)
        margin += _SLACK * _ULP * (2.0 + np.abs(ln_p) + np.abs(ln_hat) + np.abs(surplus))
        open_ |= ~(np.abs(surplus) > margin)
        accept = (surplus > 0) & ~open_
        for at in np.flatnonzero(open_):
            settled = self._settle(int(piece[at]), int(place[at]), int(coin[at]), bool(side[at]), entropy)
            if settled is not None:
                k[at], accept[at] = settled, True
        accepted: Ints = k[accept]
        return accepted

    def _settle(self, piece: int, place: int, coin: int, right: bool, entropy: Entropy) -> int | None:
        """One proposal again, in decimals: the integer, or None if it is rejected."""
        c = CONTEXT
        in_center = _Uniform(piece, entropy).settle(
            lambda low, high: 1 if high <= self._center else 0 if low >= self._center else None
        )
        if in_center:
            k, ln_hat = (place >> (64 - self._bits)) - self._half, Decimal(0)
        else:
            steps = _Uniform(place, entropy).settle(self._steps)
            magnitude = self._half + steps
            k = magnitude if right else -magnitude - 1
            ln_hat = c.subtract(self._a_exact, c.multiply(self._b_exact, Decimal(steps)))
        bound = c.exp(c.subtract(self._law.exact(abs(k)), ln_hat))
        accept = _Uniform(coin, entropy).settle(lambda low, high: 1 if high <= bound else 0 if low >= bound else None)
        return k if accept else None

    def _steps(self, low: Decimal, high: Decimal) -> int | None:
        c = CONTEXT
        if low == 0:
            return None
        most = c.divide(c.minus(c.ln(low)), self._b_exact).to_integral_value(ROUND_FLOOR)
        least = c.divide(c.minus(c.ln(high)), self._b_exact).to_integral_value(ROUND_FLOOR)
        return int(most) if most == least else None


class _Uniform:
    """A real uniform on (0, 1) of which 64 bits are known, and more are sampled when a decision needs them."""

    def __init__(self, word: int, entropy: Entropy) -> None:
        self._value, self._known, self._entropy = word, 64, entropy

    def settle(self, decide: Callable[[Decimal, Decimal], int | None]) -> int:
        """`decide(low, high)` on ever narrower intervals until it is not None."""
        c = CONTEXT
        while True:
            unit = Decimal(2**self._known)
            low = c.divide(Decimal(self._value), unit)
            high = c.divide(Decimal(self._value + 1), unit)
            found = decide(low, high)
            if found is not None:
                return found
            if self._known >= _MAX_BITS:
                found = decide(low, low)
                return 0 if found is None else found
            self._value = self._value << 64 | int.from_bytes(draw(self._entropy, 8), "little")
            self._known += 64
