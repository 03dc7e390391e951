"""Federated standardization: means and standard deviations of all clients' examples, learned through a secure sum.

There are four origins: `exact` (the sums of all examples, without noise: no differential privacy), `noised` (see
`noised.py`), `public` (constants known beforehand), and `local`. The last one uses each client's own examples, and
nothing is learned federatedly. A run that claims differential privacy refuses `exact`, and `local` too where the unit
is an example.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.data.channel import Channel
from privfl.data.moments import Matrix, client_moments, mean_std_variance, pooled_moments
from privfl.data.sets import FederatedData
from privfl.errors import ConfigError
from privfl.wire import ClientId

Origin = Literal["exact", "noised", "public", "local"]

_CHUNK: Final = 1 << 13  # examples a pass: float64 copies stay small
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """The mean and the standard deviation of each feature.

    Attributes:
        mean: float64 `[p]`, finite.
        std: float64 `[p]`, positive; 1 for a column that is constant or missing.
        origin: "exact", "noised", "public" or "local".
        survivors: The clients over whose examples mean and std were computed; empty for public constants.
        caveats: The promises that the sum of these clients did not make; empty for public constants.
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
        """Return (x - mean) / std as float32 `[k, p]`; a missing value becomes 0, the mean. The
        result is never NaN and never infinite.
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
    moments = pooled_moments(lambda client: data.train(client)[0], len(data.clients), feature_width(data), channel)
    return Standardizer(moments.mean, moments.std, "exact", moments.survivors, moments.caveats)


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
            f"{len(data.test)} test examples of {data.dataset.name} belong to no client, whose mean could standardize "
            "them: let clients hold test examples of their own (data.test = 'local'), or standardize by public ranges"
        )
    features = np.zeros_like(data.dataset.features)
    for client, holder in enumerate(data.clients):
        mean, std, _ = mean_std_variance(*client_moments(data.train(client)[0]))
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
    """Return the number of numeric features. Raises `ConfigError` for text and "own"."""
    if data.dataset.task in ("text", "own"):
        what = "text" if data.dataset.task == "text" else "an array of your own"
        raise ConfigError(f"{data.dataset.name} is {what}: there is nothing to standardize or to impute")
    return data.dataset.width
