"""Counts, means and variances of columns over all clients' examples, exact, through one secure sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.data.channel import Channel
from privfl.errors import CapacityError, ConfigError, PrivacyError
from privfl.ring import Ints, Ring
from privfl.wire import ClientId

Matrix = npt.NDArray[np.floating[Any]]
"""The examples of one client, float `[k, p]`; NaN marks a missing value."""

# Fixed point of the exact sums: values in units of 2^-64, squares in units of 2^-128, as Python integers. Therefore
# sum(x^2)/n - mean^2 is exact and cancels nothing away; the limbs carry integers of any width through any ring.
FRACTION_BITS: Final = 64
MAX_ABS: Final = 2.0**63
MAX_EXAMPLES: Final = 1 << 32
_WIDTHS: Final = (33, 160, 288)  # bits of count, sum and sum of squares of one client, sign excluded


@dataclass(frozen=True, slots=True)
class MomentCodec:
    """Count, sum and sum of squares of each column <-> one integer vector for a sum in `ring`.

    Each integer is cut into limbs of `limb` bits which all have its sign. A limb summed over `cohort` clients then
    stays in the ring, and the sums of the limbs still add up to the sum.

    Attributes:
        features: The number of columns.
        cohort: The number of clients.
        ring: The ring of the sum.

    Raises:
        CapacityError: The ring has no room.
    """

    features: int
    cohort: int
    ring: Ring

    def __post_init__(self) -> None:
        if self.features < 1 or self.cohort < 1:
            raise ConfigError(f"features and cohort must be at least 1, not {self.features} and {self.cohort}")
        if self.limb < 1:
            bits = self.cohort.bit_length() + 2
            raise CapacityError(
                f"{self.cohort} clients leave no bit in a ring of {self.ring.bits}: {bits} bits would suffice"
            )

    @property
    def limb(self) -> int:
        """Bits of one limb."""
        return self.ring.bits - 1 - self.cohort.bit_length()

    @property
    def limbs(self) -> tuple[int, ...]:
        """Limbs of a count, of a sum, and of a sum of squares."""
        return tuple(-(-width // self.limb) for width in _WIDTHS)

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return self.features * sum(self.limbs)

    @property
    def bound(self) -> int:
        """The maximum entry of one client's vector."""
        return (1 << self.limb) - 1

    def encode(self, rows: Matrix) -> Ints:
        """Return one client's examples `[k, p]` as int64 `[length]`. Raises `ConfigError` as `client_moments` does."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise ConfigError(f"examples have shape {rows.shape}, expected [k, {self.features}]")
        out: list[int] = []
        for values, count in zip(client_moments(rows), self.limbs, strict=True):
            for shift in range(0, count * self.limb, self.limb):
                out += [_limb(value, shift, self.bound) for value in values]
        return np.array(out, np.int64)

    def decode(self, total: Ints) -> tuple[list[int], list[int], list[int]]:
        """Return counts, sums and sums of squares of each column, as Python integers, from the summed vector."""
        entries = iter(total.tolist())
        found = []
        for count in self.limbs:
            values = [0] * self.features
            for shift in range(0, count * self.limb, self.limb):
                values = [value + (next(entries) << shift) for value in values]
            found.append(values)
        return found[0], found[1], found[2]


def client_moments(rows: Matrix) -> tuple[list[int], list[int], list[int]]:
    """Return the count, the sum (2^-64) and the sum of squares (2^-128) of the values present in each column of `[k,
    p]`.

    They are computed around the client's own mean, where rounding is relative to the spread and not to the size of the
    values. They are moved back in exact integers, and a constant column gives exact sums. Raises `ConfigError` for an
    infinity, a value beyond 2^63, and for 2^32 examples or more.
    """
    if len(rows) >= MAX_EXAMPLES:
        raise ConfigError(f"a client has less than {MAX_EXAMPLES} examples, not {len(rows)}")
    present = ~np.isnan(rows)
    counts = present.sum(axis=0)
    values = np.where(present, rows, 0.0).astype(np.float64)
    if values.size and not np.abs(values).max() < MAX_ABS:
        raise ConfigError(f"a feature is beyond {MAX_ABS:g}: rescale it first")
    low = np.min(values, axis=0, where=present, initial=np.inf)
    high = np.max(values, axis=0, where=present, initial=-np.inf)
    center = np.where(low == high, low, values.sum(axis=0) / np.maximum(counts, 1))
    shifts = [_fixed(c, FRACTION_BITS) for c in center.tolist()]
    center = np.array([math.ldexp(shift, -FRACTION_BITS) for shift in shifts])
    values -= center
    np.copyto(values, 0.0, where=~present)
    firsts = [_fixed(s, FRACTION_BITS) for s in values.sum(axis=0).tolist()]
    np.square(values, out=values)
    seconds = [_fixed(s, 2 * FRACTION_BITS) for s in values.sum(axis=0).tolist()]
    columns = list(zip(counts.tolist(), shifts, firsts, seconds, strict=True))
    sums = [first + n * shift for n, shift, first, _ in columns]
    squares = [second + 2 * shift * first + n * shift * shift for n, shift, first, second in columns]
    return counts.tolist(), sums, squares


@dataclass(frozen=True, slots=True, eq=False)
class ColumnMoments:
    """The counts, means and standard deviations of columns over all examples of the survivors.

    Attributes:
        counts: The number of values present in each column, int64 `[p]`.
        mean: float64 `[p]`; 0 for a column without values.
        std: The population standard deviation, float64 `[p]`; 1 for a column that is constant or missing.
        variance: The square of it, float64 `[p]`; 0 for a column that is constant or missing.
        survivors: The clients whose examples they describe.
        caveats: The promises that their sum did not make.
    """

    counts: npt.NDArray[np.int64] = field(repr=False)
    mean: npt.NDArray[np.float64] = field(repr=False)
    std: npt.NDArray[np.float64] = field(repr=False)
    variance: npt.NDArray[np.float64] = field(repr=False)
    survivors: frozenset[ClientId] = frozenset()
    caveats: tuple[str, ...] = ()


def pooled_moments(rows: Callable[[ClientId], Matrix], clients: int, features: int, channel: Channel) -> ColumnMoments:
    """The moments of every column over all clients' examples: one secure sum.

    Opened are, for each column, the number of values present, their sum and their sum of squares, over all survivors
    together and without noise.

    Args:
        rows: Maps a client to its examples `[k, p]`.
        clients: The number of clients.
        features: The number of columns, p.
        channel: The secure sum.

    Raises:
        PrivacyError: If a column has some values, and fewer than `channel.min_cell`.
    """
    codec = MomentCodec(features, clients, channel.ring)
    task = channel.task(range(clients), codec.length, codec.bound)
    result = channel.run(task, ((client, codec.encode(rows(client))) for client in task.clients))
    counts, sums, squares = codec.decode(result.total)
    small = [column for column, count in enumerate(counts) if 0 < count < channel.min_cell]
    if small:
        raise PrivacyError(
            f"column {small[0]} has fewer than {channel.min_cell} values over all clients, and its mean would be about "
            "so few examples: leave the column out, or lower `min_cell` where the opener may know them"
        )
    mean, std, variance = mean_std_variance(counts, sums, squares)
    return ColumnMoments(np.array(counts, np.int64), mean, std, variance, result.survivors, result.caveats)


def mean_std_variance(
    counts: list[int], sums: list[int], squares: list[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The mean, the standard deviation and the variance of each column, float64 `[p]` each.

    Args:
        counts: The number of values of each column.
        sums: Their sums, in units of 2^-64.
        squares: The sums of their squares, in units of 2^-128.

    Returns:
        The mean (0 for an empty column), the standard deviation (1 for a constant or empty column), and the variance (0
        for a constant or empty column).
    """
    mean, std, variance = np.zeros(len(counts)), np.ones(len(counts)), np.zeros(len(counts))
    for column, (n, first, second) in enumerate(zip(counts, sums, squares, strict=True)):
        if n:
            mean[column] = first / (n << FRACTION_BITS)  # Python rounds the quotient of large integers once
        spread = n * second - first * first
        if spread > 0:
            variance[column] = spread / ((n * n) << (2 * FRACTION_BITS))
            std[column] = math.sqrt(variance[column])
    return mean, std, variance


def _fixed(value: float, bits: int) -> int:
    return round(math.ldexp(value, bits))


def _limb(value: int, shift: int, mask: int) -> int:
    digit = (abs(value) >> shift) & mask
    return -digit if value < 0 else digit
