"""Standardization under differential privacy: one noised sum of bounded contributions, which the caller ledgers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint
from privfl.data.channel import Channel
from privfl.data.moments import Matrix
from privfl.data.preprocess import Standardizer, feature_width
from privfl.data.sets import FederatedData
from privfl.errors import ConfigError
from privfl.ring import Ints
from privfl.sums import Opening
from privfl.wire import ClientId

Unit = Literal["client", "example"]

Share = Callable[[ClientId, Ints], Ints]
"""(client, contribution) -> contribution with this client's share of the noise."""

_MIN_VARIANCE: Final = 1e-4  # in units of width^2: a smaller one is noise


@dataclass(frozen=True, slots=True, eq=False)
class NoisedMoments:
    """The public half of a noised standardization: everything that must be fixed before an example is looked at.

    A value x is replaced by `z = clip((x - center)/width, -1, 1)`, a missing value by 0. An example gives the vector
    `(1, z, z^2)`, float `[1 + 2p]`. Where the unit is a client, its vector is the mean over its examples. The vector of
    a unit is scaled down to `clip_norm`, so a clipped unit counts for less and keeps its proportions. One unit thus
    moves the sum by an integer vector of l2 norm at most `norm_bound`, exactly. Multiply `norm_bound` by the noise
    multiplier for the noise stddev, and record that release in the ledger. Denominators come out of the noised sum.

    Attributes:
        center: A public guess of each feature's mean, float64 `[p]`.
        width: A public guess of each feature's spread, float64 `[p]`, positive.
        clip_norm: The l2 bound of one unit's contribution, positive.
        codec: The fixed-point code of the sum.
        unit: "client" or "example".
        max_examples: The maximum of a client's examples where the unit is an example.
    """

    center: npt.NDArray[np.float64] = field(repr=False)
    width: npt.NDArray[np.float64] = field(repr=False)
    clip_norm: float
    codec: FixedPoint
    unit: Unit = "client"
    max_examples: int = 1

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ConfigError(f"unit must be one of {', '.join(get_args(Unit))}, not {self.unit!r}")
        if self.center.ndim != 1 or self.center.shape != self.width.shape or not len(self.center):
            raise ConfigError(
                f"center and width must be flat and of one length, not {self.center.shape}, {self.width.shape}"
            )
        if not (np.isfinite(self.center).all() and np.isfinite(self.width).all() and (self.width > 0).all()):
            raise ConfigError("centers must be finite, and widths finite and positive")
        if not 0 < self.clip_norm < np.inf:
            raise ConfigError(f"clip_norm must be a positive finite number, not {self.clip_norm!r}")
        if self.max_examples < 1:
            raise ConfigError(f"max_examples must be at least 1, not {self.max_examples}")

    @property
    def length(self) -> int:
        """The entries of the vector, 1 + 2p."""
        return 1 + 2 * len(self.center)

    @property
    def norm_bound(self) -> float:
        """The l2 norm, in integer units, that one unit's contribution never exceeds."""
        return self.codec.sensitivity(self.clip_norm)

    @property
    def bound(self) -> int:
        """The maximum entry of one client's vector, noise excluded."""
        return self.codec.bound(self.clip_norm) * (self.max_examples if self.unit == "example" else 1)

    def contribution(self, rows: Matrix) -> Ints:
        """Return one client's contribution, int64 `[length]`, for its examples `[k, p]`. Raises `ConfigError` for more
        examples than `max_examples`.
        """
        if self.unit == "client":
            return self._encode(self.mean_unit(rows))
        units = self._units(rows)
        if len(units) > self.max_examples:
            raise ConfigError(f"a client has {len(units)} examples, and max_examples allows {self.max_examples}")
        total = np.zeros(self.length, np.int64)
        for unit in units:
            total += self._encode(unit)
        return total

    def mean_unit(self, rows: Matrix) -> npt.NDArray[np.float64]:
        """Return the mean of `(1, z, z^2)` over one client's examples `[k, p]`, float64 `[length]`; zeros for none."""
        units = self._units(rows)
        return units.mean(axis=0) if len(units) else np.zeros(self.length)

    def _units(self, rows: Matrix) -> npt.NDArray[np.float64]:
        if rows.ndim != 2 or rows.shape[1] != len(self.center):
            raise ConfigError(f"examples have shape {rows.shape}, expected [k, {len(self.center)}]")
        z = np.clip((rows.astype(np.float64) - self.center) / self.width, -1.0, 1.0)
        np.copyto(z, 0.0, where=np.isnan(z))
        return np.concatenate([np.ones((len(z), 1)), z, z * z], axis=1)

    def standardizer(self, total: Ints) -> Standardizer:
        """Return means and standard deviations from the noised sum, int64 `[length]`; see `of_sums`."""
        return self.of_sums(self.codec.decode(total))

    def of_sums(self, sums: npt.NDArray[np.float64]) -> Standardizer:
        """Return means and standard deviations from noisy sums of `(1, z, z^2)`, or of any multiple of them.

        Where the noise hides how many clients there are, they are the public guesses.

        Args:
            sums: Float64 `[length]`.
        """
        features = len(self.center)
        if sums[0] <= 0:
            return Standardizer(self.center, self.width, "noised")
        first = np.clip(sums[1 : 1 + features] / sums[0], -1.0, 1.0)
        second = np.clip(sums[1 + features :] / sums[0], 0.0, 1.0)
        variance = second - first * first
        spread = np.where(variance > _MIN_VARIANCE, np.sqrt(np.maximum(variance, 0.0)), 1.0)
        return Standardizer(self.center + self.width * first, self.width * spread, "noised")

    def _encode(self, unit: npt.NDArray[np.float64]) -> Ints:
        return self.codec.encode(unit, max_norm=self.clip_norm)  # shrinks what is longer, as a whole


def noised_standardizer(
    data: FederatedData,
    channel: Channel,
    plan: NoisedMoments,
    *,
    opening: Opening | None = None,
    share: Share | None = None,
    share_bound: int = 0,
) -> Standardizer:
    """Run `plan` over all clients' training examples through `channel`, whose ring must be the codec's.

    The noise is not looked into. The caller sizes it by `plan.norm_bound` and records the release in its ledger
    *before* this call. Exactly one of `opening` and `share` is given.

    Args:
        data: The clients' examples.
        channel: The secure sum.
        plan: The public half.
        opening: Central noise, added where the sum is opened.
        share: Distributed noise: each client adds its part before it sends.
        share_bound: The maximum entry of one client's part.

    Raises:
        ConfigError: The arguments contradict each other.
    """
    if (opening is None) == (share is None):
        raise ConfigError("give the noise as an opening (central) or as a share (distributed): exactly one of them")
    if channel.ring != plan.codec.ring:
        raise ConfigError(f"the channel has {channel.ring.bits} bits and the codec {plan.codec.ring.bits}")
    if feature_width(data) != len(plan.center):
        raise ConfigError(f"the plan is for {len(plan.center)} features, {data.dataset.name} has {data.dataset.width}")
    task = channel.task(range(len(data.clients)), plan.length, plan.bound + share_bound)

    def vectors() -> Iterator[tuple[ClientId, Ints]]:
        for client in task.clients:
            vector = plan.contribution(data.train(client)[0])
            yield client, vector if share is None else share(client, vector)

    result = channel.run(task, vectors()) if opening is None else channel.run(task, vectors(), opening)
    moments = plan.standardizer(result.total)
    return Standardizer(moments.mean, moments.std, "noised", result.survivors, result.caveats)
