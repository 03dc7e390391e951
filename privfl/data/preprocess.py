"""Federated standardization: means and standard deviations of all clients' examples, learned through a secure sum.

There are four origins: `exact` (the sums of all examples, without noise: no differential privacy), `noised` (see
`noised.py`), `public` (constants known beforehand), and `local`. The last one uses each client's own examples, and
nothing is learned federatedly. A run that claims differential privacy refuses `exact`, and `local` too where the unit
is an example.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.data.sets import FederatedData
from privfl.errors import CapacityError, ConfigError
from privfl.ring import Ints, Ring
from privfl.sums import Drop, Entropy, Opening, SecureSum, SumPolicy, SumResult, SumTask, Tap, run_sum
from privfl.sums.base import identity
from privfl.sums.driver import ignore, never
from privfl.wire import ClientId

Matrix = npt.NDArray[np.floating[Any]]
"""The examples of one client, float `[k, p]`; NaN marks a missing value."""

Origin = Literal["exact", "noised", "public", "local"]

_WIDE: Final = Ring(64)
_CHUNK: Final = 1 << 13  # rows a pass: float64 copies stay small
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """The mean and the standard deviation of each feature.

    Attributes:
        mean: float64 `[p]`, finite.
        std: float64 `[p]`, positive; 1 for a column that is constant or missing.
        origin: "exact", "noised", "public" or "local".
        survivors: The clients whose examples they describe; empty for public constants.
        caveats: The promises that their sum did not make; empty for public constants.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    origin: Origin
    survivors: frozenset[ClientId] = frozenset()
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape or not len(self.mean):
            raise ConfigError(f"mean and std must be flat and of one length, not {self.mean.shape}, {self.std.shape}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise ConfigError("means must be finite, and standard deviations finite and positive")

    def apply(self, features: Matrix) -> npt.NDArray[np.float32]:
        """Return (x - mean) / std as float32 `[k, p]`; a missing value becomes 0, the mean. Never NaN,
        never infinite.
        """
        self._check(features)
        out = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _CHUNK):
            with np.errstate(over="ignore"):  # an outlier over a tiny stddev: clipped two lines below
                part = (features[start : start + _CHUNK].astype(np.float64) - self.mean) / self.std
            np.copyto(part, 0.0, where=np.isnan(part))
            np.clip(part, -_MAX_FLOAT32, _MAX_FLOAT32, out=part)
            out[start : start + _CHUNK] = part
        return out

    def impute(self, features: Matrix) -> npt.NDArray[np.float32]:
        """Return `features` as float32 `[k, p]` in their own units, missing values replaced by the mean of
        all clients.
        """
        self._check(features)
        return np.where(np.isnan(features), self.mean, features).astype(np.float32)

    def _check(self, features: Matrix) -> None:
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ConfigError(f"features have shape {features.shape}, expected [k, {len(self.mean)}]")


def public_standardize(mean: Iterable[float], std: Iterable[float]) -> Standardizer:
    """Return a standardizer of constants that were public before the data was seen: units, ranges, an earlier
    publication.

    They cost no privacy. That they are public is the caller's claim; constants computed from the clients' examples are
    not.

    Args:
        mean: The mean of each feature.
        std: The standard deviation of each feature, positive.
    """
    return Standardizer(np.array(list(mean), np.float64), np.array(list(std), np.float64), "public")


@dataclass(frozen=True, slots=True)
class Channel:
    """The secure sum that a preprocessing step goes through, with the arguments of `privfl.sums.run_sum`.

    Attributes:
        scheme: The sum.
        ring: Any ring; values wider than the ring are cut into limbs. 64 bits by default.
        context: Bytes that bind the sum to the run around it.
        min_survivors: The minimum of survivors; None means all clients.
        credentials: Each client's keys, where the sum needs them.
        policy: The minima that each client insists on.
        drop: The simulated dropouts.
        tap: Called with every message.
        entropy: A source of random bytes, such as `os.urandom`.
    """

    scheme: SecureSum
    ring: Ring = _WIDE
    context: bytes = b"privfl/1 preprocess"
    min_survivors: int | None = None
    credentials: Mapping[ClientId, Any] | None = field(default=None, repr=False)
    policy: SumPolicy = SumPolicy()
    drop: Drop = never
    tap: Tap = ignore
    entropy: Entropy = os.urandom

    def task(self, clients: Iterable[ClientId], length: int, bound: int) -> SumTask:
        """Return the task of one sum.

        Args:
            clients: The cohort.
            length: The entries of a vector.
            bound: The maximum of an entry's magnitude.
        """
        cohort = tuple(sorted(clients))
        survivors = len(cohort) if self.min_survivors is None else self.min_survivors
        return SumTask(self.context, cohort, survivors, length, self.ring, bound)

    def run(self, task: SumTask, vectors: Iterable[tuple[ClientId, Ints]], opening: Opening = identity) -> SumResult:
        """Sum one vector of each client.

        Args:
            task: The task.
            vectors: The clients and their vectors, int64 `[length]`.
            opening: Applied to the opened sum, such as central noise.
        """
        return run_sum(
            self.scheme,
            task,
            vectors,
            credentials=self.credentials,
            policy=self.policy,
            opening=opening,
            drop=self.drop,
            tap=self.tap,
            entropy=self.entropy,
        )


# Fixed point of the exact sums: values in units of 2^-64, squares in units of 2^-128, as Python integers. Therefore
# sum(x^2)/n - mean^2 is exact and cancels nothing away; the limbs carry integers of any width through any ring.
FRACTION_BITS: Final = 64
MAX_ABS: Final = 2.0**63
MAX_ROWS: Final = 1 << 32
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
            raise ConfigError(f"rows have shape {rows.shape}, expected [k, {self.features}]")
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
    if len(rows) >= MAX_ROWS:
        raise ConfigError(f"a client has less than {MAX_ROWS} rows, not {len(rows)}")
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


def exact_standardizer(data: FederatedData, channel: Channel) -> Standardizer:
    """Return mean and (population) standard deviation of every column over all clients' training examples: one secure
    sum.

    Opened are, for each column, the number of values present, their sum and their sum of squares, over all survivors
    together and without noise. The result agrees with float64 two-pass statistics of the pooled examples to about
    1e-12, and depends on the partition only to that extent.

    Args:
        data: The clients' examples.
        channel: The secure sum.

    Raises:
        ConfigError: The data is text.
    """
    codec = MomentCodec(feature_width(data), len(data.clients), channel.ring)
    task = channel.task(range(len(data.clients)), codec.length, codec.bound)
    result = channel.run(task, ((client, codec.encode(data.train(client)[0])) for client in task.clients))
    mean, std = _mean_and_std(*codec.decode(result.total))
    return Standardizer(mean, std, "exact", result.survivors, result.caveats)


def local_standardize(data: FederatedData) -> FederatedData:
    """Return each client's examples, its test examples too, standardized by its own training examples: nothing leaves
    it.

    FLamby does this with the heart data (`fed_heart_disease/dataset.py`, which divides by n - 1 where this divides by
    n). It costs no privacy where the unit is a client. Where the unit is an example, one example moves all others of
    its client, and no clipping of single examples accounts for that. Raises `ConfigError` for text, and where there are
    examples that no client holds.
    """
    feature_width(data)
    if len(data.test):
        raise ConfigError(
            f"{len(data.test)} test rows of {data.dataset.name} belong to no client, whose mean could standardize "
            "them: let clients hold test rows of their own (data.test = 'local'), or standardize by public ranges"
        )
    features = np.zeros_like(data.dataset.features)
    for client, holder in enumerate(data.clients):
        mean, std = _mean_and_std(*client_moments(data.train(client)[0]))
        own = Standardizer(mean, std, "local", frozenset([client]))
        for rows in (holder.train, holder.test):
            features[rows] = own.apply(data.dataset.features[rows])
    return data.with_features(features)


def standardize(data: FederatedData, standardizer: Standardizer) -> FederatedData:
    """Return `data` with every example standardized, test examples too; missing values become 0.

    Args:
        data: The clients' examples.
        standardizer: The means and standard deviations.
    """
    feature_width(data)
    return data.with_features(standardizer.apply(data.dataset.features))


def impute(data: FederatedData, standardizer: Standardizer) -> FederatedData:
    """Return `data` with missing values replaced by the means, everything else in its own units.

    Args:
        data: The clients' examples.
        standardizer: The means.
    """
    feature_width(data)
    return data.with_features(standardizer.impute(data.dataset.features))


def feature_width(data: FederatedData) -> int:
    """Return the number of numeric features. Raises `ConfigError` for text."""
    if data.dataset.task == "text":
        raise ConfigError(f"{data.dataset.name} is text: there is nothing to standardize or to impute")
    return data.dataset.width


def _mean_and_std(
    counts: list[int], sums: list[int], squares: list[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Exact integer moments of each column -> mean and stddev; 0 where nothing is present, 1 where constant."""
    mean, std = np.zeros(len(counts)), np.ones(len(counts))
    for column, (n, first, second) in enumerate(zip(counts, sums, squares, strict=True)):
        if n:
            mean[column] = first / (n << FRACTION_BITS)  # Python rounds the quotient of large integers once
        spread = n * second - first * first
        if spread > 0:
            std[column] = math.sqrt(spread / ((n * n) << (2 * FRACTION_BITS)))
    return mean, std


def _fixed(value: float, bits: int) -> int:
    return round(math.ldexp(value, bits))


def _limb(value: int, shift: int, mask: int) -> int:
    digit = (abs(value) >> shift) & mask
    return -digit if value < 0 else digit
