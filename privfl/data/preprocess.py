"""Federated standardization: means and deviations of all clients' rows, learned through a secure sum and nothing else.

Four origins: `exact` (the sums of all rows, without noise: no differential privacy), `noised` (see `noised.py`),
`public` (constants known beforehand), and `local` (each client's own rows: nothing is learned federatedly). Whoever
claims differential privacy refuses the first, and the last too where the unit is an example.
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
"""Rows of one client, float `[k, p]`; NaN marks a missing value."""

Origin = Literal["exact", "noised", "public", "local"]

_WIDE: Final = Ring(64)
_CHUNK: Final = 1 << 13  # rows a pass: float64 copies stay small
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """`mean` and `std` of each feature, float64 `[p]`; std is positive, 1 for a column that is constant or missing.

    `survivors` are the clients whose rows they describe and `caveats` what their sum did not promise; both are empty
    for public constants. Raises `ConfigError` for values that are not finite, or a std that is not positive.
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
            raise ConfigError("means must be finite, and deviations finite and positive")

    def apply(self, features: Matrix) -> npt.NDArray[np.float32]:
        """(x - mean) / std as float32 `[k, p]`; a missing value becomes 0, the mean. Never NaN, never infinite."""
        self._check(features)
        out = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _CHUNK):
            with np.errstate(over="ignore"):  # an outlier over a tiny deviation: clipped two lines below
                part = (features[start : start + _CHUNK].astype(np.float64) - self.mean) / self.std
            np.copyto(part, 0.0, where=np.isnan(part))
            np.clip(part, -_MAX_FLOAT32, _MAX_FLOAT32, out=part)
            out[start : start + _CHUNK] = part
        return out

    def impute(self, features: Matrix) -> npt.NDArray[np.float32]:
        """`features` as float32 `[k, p]` in their own units, missing values replaced by the mean of all clients."""
        self._check(features)
        return np.where(np.isnan(features), self.mean, features).astype(np.float32)

    def _check(self, features: Matrix) -> None:
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ConfigError(f"features have shape {features.shape}, expected [k, {len(self.mean)}]")


def public_standardize(mean: Iterable[float], std: Iterable[float]) -> Standardizer:
    """Constants that were public before the data was seen (units, ranges, an earlier publication): they cost nothing.

    That they are public is the caller's claim. Constants computed from the clients' rows are not.
    """
    return Standardizer(np.array(list(mean), np.float64), np.array(list(std), np.float64), "public")


@dataclass(frozen=True, slots=True)
class Channel:
    """The secure sum that a preprocessing step goes through, and how it is run (see `privfl.sums.run_sum`).

    `context` binds it to the run around it; `min_survivors` None means all clients. Any ring serves: values wider than
    it are cut into limbs.
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
        """The task of one sum of int64 `[length]` vectors with entries up to `bound`."""
        cohort = tuple(sorted(clients))
        least = len(cohort) if self.min_survivors is None else self.min_survivors
        return SumTask(self.context, cohort, least, length, self.ring, bound)

    def run(self, task: SumTask, vectors: Iterable[tuple[ClientId, Ints]], opening: Opening = identity) -> SumResult:
        """Sum one vector a client."""
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


# Fixed point of the exact sums: values in units of 2^-64, squares in units of 2^-128, as Python integers, so that
# sum(x^2)/n - mean^2 is exact and cancels nothing away; the limbs carry integers of any width through any ring.
FRACTION_BITS: Final = 64
MAX_ABS: Final = 2.0**63
MAX_ROWS: Final = 1 << 32
_WIDTHS: Final = (33, 160, 288)  # bits of count, sum and sum of squares of one client, sign excluded


@dataclass(frozen=True, slots=True)
class MomentCodec:
    """Count, sum and sum of squares of each of `features` columns <-> one integer vector for a sum in `ring`.

    Each integer is cut into limbs of `limb` bits which all have its sign, so that a limb summed over `cohort` clients
    stays in the ring and the limbs' sums still add up to the sum. Raises `CapacityError` when the ring has no room.
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
        """The largest entry of one client's vector."""
        return (1 << self.limb) - 1

    def encode(self, rows: Matrix) -> Ints:
        """One client's rows `[k, p]` -> int64 `[length]`; raises `ConfigError` as `client_moments` does."""
        if rows.ndim != 2 or rows.shape[1] != self.features:
            raise ConfigError(f"rows have shape {rows.shape}, expected [k, {self.features}]")
        out: list[int] = []
        for values, count in zip(client_moments(rows), self.limbs, strict=True):
            for shift in range(0, count * self.limb, self.limb):
                out += [_limb(value, shift, self.bound) for value in values]
        return np.array(out, np.int64)

    def decode(self, total: Ints) -> tuple[list[int], list[int], list[int]]:
        """The summed vector -> counts, sums and sums of squares of each column, as Python integers."""
        entries = iter(total.tolist())
        found = []
        for count in self.limbs:
            values = [0] * self.features
            for shift in range(0, count * self.limb, self.limb):
                values = [value + (next(entries) << shift) for value in values]
            found.append(values)
        return found[0], found[1], found[2]


def client_moments(rows: Matrix) -> tuple[list[int], list[int], list[int]]:
    """Of each column of `[k, p]`: the number of values present, their sum (2^-64) and their sum of squares (2^-128).

    Taken around the client's own mean, so that rounding is relative to the spread and not to the size of the values,
    and moved back in exact integers; a constant column gives exact sums. Raises `ConfigError` for an infinity,
    a value beyond 2^63, or 2^32 rows and more.
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
    """Mean and (population) deviation of every column over all clients' training rows, in one secure sum.

    What is opened: for each column the number of values present, their sum and their sum of squares, over all
    survivors together, without noise. The result agrees with float64 two-pass statistics of the pooled rows to about
    1e-12, and does not depend on which client holds which row beyond that. Raises `ConfigError` for text, and what the
    sum raises.
    """
    codec = MomentCodec(feature_width(data), len(data.clients), channel.ring)
    task = channel.task(range(len(data.clients)), codec.length, codec.bound)
    result = channel.run(task, ((client, codec.encode(data.train(client)[0])) for client in task.clients))
    mean, std = _mean_and_std(*codec.decode(result.total))
    return Standardizer(mean, std, "exact", result.survivors, result.caveats)


def local_standardize(data: FederatedData) -> FederatedData:
    """Each client's rows, its test rows too, standardized by its own training rows alone: nothing leaves a client.

    This is what FLamby does with the heart data (`fed_heart_disease/dataset.py`, which divides by n - 1 where this
    divides by n). It costs no privacy where the unit is a client; where it is an example, one row moves all others of
    its client, and no clipping of single rows accounts for that. Raises `ConfigError` for text, and where there are
    rows that no client holds.
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
    """`data` with every row, test rows too, standardized; missing values become 0."""
    feature_width(data)
    return data.with_features(standardizer.apply(data.dataset.features))


def impute(data: FederatedData, standardizer: Standardizer) -> FederatedData:
    """`data` with missing values replaced by the means, everything else in its own units."""
    feature_width(data)
    return data.with_features(standardizer.impute(data.dataset.features))


def feature_width(data: FederatedData) -> int:
    """The number of numeric features; raises `ConfigError` for text."""
    if data.dataset.task == "text":
        raise ConfigError(f"{data.dataset.name} is text: there is nothing to standardize or to impute")
    return data.dataset.width


def _mean_and_std(
    counts: list[int], sums: list[int], squares: list[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Exact integer moments of each column -> mean and deviation; 0 where nothing is present, 1 where constant."""
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
