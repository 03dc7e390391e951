"""Shamir's secret sharing (1979) of 32-byte secrets over one prime field, p = 2^256 + 297.

A secret is the constant term of a random polynomial of degree `threshold` - 1; the share at point x (an integer in [1,
2^32)) is its value there. Shares travel as 33 bytes, little-endian, below p. Secrets are read and written as
little-endian integers; a field larger than 2^256 holds every one of them.

A party that combines shares must have a check of its own (`accept`), because wrong shares give a wrong secret of the
same form.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from privfl.checks import draw
from privfl.crypto.kdf import KEY_BYTES, check_key
from privfl.errors import ConfigError, RemoteProtocolError, WireError

PRIME: Final = (1 << 256) + 297
"""The smallest prime above 2^256."""

SHARE_BYTES: Final = 33
MAX_POINT: Final = (1 << 32) - 1

Accept = Callable[[bytes], bool]
"""Whether 32 bytes are the secret."""

Opened = tuple[bytes, frozenset[int]]
"""A secret, and the points whose shares are wrong."""

_WIDE: Final = 48  # 384 random bits modulo p are uniform to within 2^-127
_MAX_SUBSETS: Final = 2000
_TRIED_SUBSETS: Final = 1000  # where there are more of them than that


def split(
    secret: bytes, points: Sequence[int], threshold: int, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[int, ...]:
    """Return the shares of a secret at `points`. Any `threshold` shares reconstruct the secret; fewer reveal nothing.

    Args:
        secret: 32 bytes.
        points: Distinct integers in [1, 2^32), one per holder.
        threshold: The number of shares that reconstruct the secret, in [1, len(points)].
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: An argument is out of range, or `entropy` gave another number of bytes than requested.
    """
    check_key(secret, "a shared secret")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise ConfigError(f"a threshold for {len(points)} shares is in [1, {len(points)}], not {threshold}")
    drawn = draw(entropy, _WIDE * (threshold - 1))
    tail = [int.from_bytes(drawn[i : i + _WIDE], "little") % PRIME for i in range(0, len(drawn), _WIDE)]
    polynomial = [int.from_bytes(secret, "little"), *tail]
    return tuple(_evaluate(polynomial, x) for x in points)


def share_to_bytes(share: int) -> bytes:
    """Return the share as 33 bytes, little-endian."""
    return share.to_bytes(SHARE_BYTES, "little")


def share_from_bytes(data: bytes) -> int:
    """Return the share. Raises `WireError` unless `data` is 33 bytes below the prime."""
    share = int.from_bytes(data, "little")
    if len(data) != SHARE_BYTES or share >= PRIME:
        raise WireError("a share is 33 bytes below the prime")
    return share


class Combiner:
    """Combines the shares that one set of holders has of any number of secrets.

    The Lagrange weights depend on the points alone and are computed once. The first `threshold` points give the secret.
    The others only confirm, by one more inner product, that all shares lie on one polynomial.

    Args:
        points: The holders' points, distinct integers in [1, 2^32).
        threshold: The number of shares that give a secret, in [1, len(points)].
    """

    def __init__(self, points: Sequence[int], threshold: int) -> None:
        _check_points(points)
        if not 1 <= threshold <= len(points):
            raise ConfigError(f"{len(points)} points are too few for a threshold of {threshold}")
        self._points = tuple(points)
        self._threshold = threshold
        self._used = self._points[:threshold]
        self._slopes = _slopes(self._used)
        self._weights: dict[int, list[int]] = {}
        # Every polynomial of degree below m - 1 satisfies sum_i y_i / prod_{j != i} (x_j - x_i) = 0.
        spare = len(points) > threshold
        self._parity = _inverses(_slopes(self._points)) if spare else []

    def combine(self, shares: Sequence[int], accept: Accept) -> Opened:
        """Return the secret, and the points whose shares are wrong.

        Up to (m - threshold) / 2 wrong shares of m are always found (Gao 2003). More of them are found where trying
        subsets finds `threshold` right ones: all subsets if these are few, else a thousand. If fewer than `threshold`
        shares are right, or more than (m - threshold + 1) / 2 are wrong, the points named may be those of right shares.

        Args:
            shares: One share per point, in the order of the points.
            accept: Returns True if its 32 bytes are the secret.

        Raises:
            RemoteProtocolError: No accepted secret is found.
        """
        for how in (self.combine_clean, self.decode, self.search):
            opened = how(shares, accept)
            if opened is not None:
                return opened
        raise RemoteProtocolError(f"no {self._threshold} of {len(self._points)} shares give the secret")

    def consistent(self, shares: Sequence[int]) -> frozenset[int]:
        """Return the points of the shares on the one polynomial that all but (m - threshold) / 2 lie on, or no points.

        Args:
            shares: One share per point, in the order of the points.
        """
        polynomial = _gao(self._points, shares, self._threshold)
        return frozenset() if polynomial is None else frozenset(self._fitting(polynomial, shares))

    def combine_clean(self, shares: Sequence[int], accept: Accept) -> Opened | None:
        """Combine shares that all lie on one polynomial with an accepted secret; otherwise return None (two products).

        Args:
            shares: One share per point, in the order of the points.
            accept: Returns True if its 32 bytes are the secret.
        """
        if sum(v * y for v, y in zip(self._parity, shares, strict=False)) % PRIME:
            return None
        secret = _to_secret(self.value_at(0, shares))
        return (secret, frozenset()) if secret is not None and accept(secret) else None

    def decode(self, shares: Sequence[int], accept: Accept) -> Opened | None:
        """Combine m shares of which at most (m - threshold) / 2 are wrong (Gao 2003).

        Args:
            shares: One share per point, in the order of the points.
            accept: Returns True if its 32 bytes are the secret.

        Returns:
            The secret and the points of the wrong shares; None if more shares are wrong.
        """
        return self._opened(_gao(self._points, shares, self._threshold), shares, accept)

    def search(self, shares: Sequence[int], accept: Accept) -> Opened | None:
        """Try subsets of `threshold` shares, and take the polynomial with an accepted secret that fits most shares.

        Args:
            shares: One share per point, in the order of the points.
            accept: Returns True if its 32 bytes are the secret.

        Returns:
            The secret and the points of the wrong shares; None if no subset that was tried gives an accepted secret.
        """
        best: tuple[int, list[int] | None] = (0, None)
        count = len(self._points)
        for subset in _subsets(count, self._threshold):
            points, values = [self._points[i] for i in subset], [shares[i] for i in subset]
            secret = _to_secret(_value_at_zero(points, values))
            if secret is not None and accept(secret):
                polynomial = _interpolate(points, values)
                fits = len(self._fitting(polynomial, shares))
                best = max(best, (fits, polynomial), key=lambda candidate: candidate[0])
                if 2 * (count - fits) <= count - self._threshold + 1:
                    break  # no other polynomial with this secret fits so many
        return self._opened(best[1], shares, accept)

    def value_at(self, x: int, shares: Sequence[int]) -> int:
        """Return the value at `x` of the polynomial through the first `threshold` shares.

        Args:
            x: A point other than the points of those shares.
            shares: One share per point, in the order of the points.
        """
        if x not in self._weights:
            numerator = math.prod(other - x for other in self._used) % PRIME
            steps = [(other - x) * slope % PRIME for other, slope in zip(self._used, self._slopes, strict=True)]
            self._weights[x] = [numerator * inverse % PRIME for inverse in _inverses(steps)]
        return sum(w * y for w, y in zip(self._weights[x], shares, strict=False)) % PRIME

    def _opened(self, polynomial: Sequence[int] | None, shares: Sequence[int], accept: Accept) -> Opened | None:
        secret = None if polynomial is None else _to_secret(polynomial[0])
        if polynomial is None or secret is None or not accept(secret):
            return None
        return secret, frozenset(self._points).difference(self._fitting(polynomial, shares))

    def _fitting(self, polynomial: Sequence[int], shares: Sequence[int]) -> list[int]:
        """The points whose shares lie on the polynomial."""
        pairs = zip(self._points, shares, strict=True)
        return [x for x, y in pairs if _evaluate(polynomial, x) == y]


def _subsets(count: int, size: int) -> Iterable[Sequence[int]]:
    """All subsets of range(count), or a thousand that are the same every time."""
    if math.comb(count, size) <= _MAX_SUBSETS:
        return itertools.combinations(range(count), size)
    return (_subset(number, count, size) for number in range(_TRIED_SUBSETS))


def _subset(number: int, count: int, size: int) -> list[int]:
    """One of the subsets, spread over all of them by a hash; no secret depends on it."""
    order = sorted(range(count), key=lambda i: hashlib.sha256(b"%d %d" % (number, i)).digest())
    return sorted(order[:size])


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or any(not 1 <= x <= MAX_POINT for x in points):
        raise ConfigError("share points are distinct integers in [1, 2^32)")


def _to_secret(value: int) -> bytes | None:
    return value.to_bytes(KEY_BYTES, "little") if value < 1 << 8 * KEY_BYTES else None


def _evaluate(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def _value_at_zero(points: Sequence[int], values: Sequence[int]) -> int:
    steps = [x * slope % PRIME for x, slope in zip(points, _slopes(points), strict=True)]
    terms = sum(y * inverse for y, inverse in zip(values, _inverses(steps), strict=True))
    return math.prod(points) * terms % PRIME


def _slopes(points: Sequence[int]) -> list[int]:
    """prod_{j != i} (x_j - x_i) modulo p; the factors are small, so one reduction at the end does."""
    return [math.prod([other - x for other in points if other != x]) % PRIME for x in points]


def _inverses(values: Sequence[int]) -> list[int]:
    """All inverses modulo p with one inversion (Montgomery's trick)."""
    prefix = list(itertools.accumulate(values, lambda a, b: a * b % PRIME, initial=1))
    running = pow(prefix[-1], -1, PRIME)
    inverses = [0] * len(values)
    for i in range(len(values) - 1, -1, -1):
        inverses[i] = running * prefix[i] % PRIME
        running = running * values[i] % PRIME
    return inverses


def _interpolate(points: Sequence[int], values: Sequence[int]) -> list[int]:
    """Coefficients, constant term first, of the polynomial of degree below len(points) (Newton's form)."""
    result: list[int] = [0]
    basis = [1]
    for x, y in zip(points, values, strict=True):
        step = (y - _evaluate(result, x)) * pow(_evaluate(basis, x), -1, PRIME) % PRIME
        result = [(a + step * b) % PRIME for a, b in itertools.zip_longest(result, basis, fillvalue=0)]
        basis = [(low - x * high) % PRIME for low, high in zip([0, *basis], [*basis, 0], strict=True)]
    return result


def _gao(points: Sequence[int], shares: Sequence[int], threshold: int) -> list[int] | None:
    """The polynomial of degree below `threshold` that all but at most (m - threshold) / 2 shares lie on, if any.

    Gao 2003, "A new algorithm for decoding Reed-Solomon codes". The extended Euclidean algorithm runs on two
    polynomials, the one that vanishes at all points and the one that interpolates the shares, and stops half way.
    """
    vanishing = [1]
    for x in points:
        vanishing = [(low - x * high) % PRIME for low, high in zip([0, *vanishing], [*vanishing, 0], strict=True)]
    upper, lower = vanishing, _trim(_interpolate(points, shares))
    above: list[int] = []
    below = [1]
    while 2 * (len(lower) - 1) >= len(points) + threshold:
        quotient, rest = _divide(upper, lower)
        upper, lower = lower, rest
        above, below = below, _subtract(above, _multiply(quotient, below))
    polynomial, rest = _divide(lower, below)
    if rest or len(polynomial) > threshold:
        return None
    return polynomial or [0]


def _trim(polynomial: list[int]) -> list[int]:
    while polynomial and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial


def _multiply(a: Sequence[int], b: Sequence[int]) -> list[int]:
    product = [0] * (len(a) + len(b))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return _trim([value % PRIME for value in product])


def _subtract(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return _trim([(x - y) % PRIME for x, y in itertools.zip_longest(a, b, fillvalue=0)])


def _divide(numerator: Sequence[int], denominator: Sequence[int]) -> tuple[list[int], list[int]]:
    rest = list(numerator)
    quotient = [0] * max(0, len(rest) - len(denominator) + 1)
    lead = pow(denominator[-1], -1, PRIME)
    for at in range(len(quotient) - 1, -1, -1):
        factor = rest[at + len(denominator) - 1] * lead % PRIME
        quotient[at] = factor
        for j, coefficient in enumerate(denominator):
            rest[at + j] = (rest[at + j] - factor * coefficient) % PRIME
    return _trim(quotient), _trim(rest)
