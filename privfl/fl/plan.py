"""What all parties of a round agree on; its digest enters every key of the sum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint, Rounding, Vector
from privfl.errors import ConfigError, PlanRejected
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate
from privfl.ring import Ints, Ring
from privfl.sums import SumPolicy, SumTask
from privfl.wire import ClientId

_LABEL: Final = b"privfl/1 round-plan"
Weighting = Literal["uniform", "examples"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A training metric that travels as one coordinate: values beyond `bound` (absolute) are counted as `bound`."""

    name: str
    bound: float = 32.0


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """How an update becomes integers, the same in every round.

    The vector is [update | metrics | weight]. `clip_norm` bounds the l2 norm of the update and `clip_entries` the size
    of each entry; exactly one is given. With `weighting="examples"` a client with n examples contributes
    min(n, max_weight)/max_weight times its update and its metrics, and min(n, max_weight) as its weight, so that the
    mean over examples is exact and the contribution stays within the clip; with "uniform" there is no weight.
    """

    length: int
    codec: FixedPoint
    clip_norm: float | None = None
    clip_entries: float | None = None
    weighting: Weighting = "uniform"
    max_weight: int = 1
    metrics: tuple[Metric, ...] = ()
    rounding: Rounding = "nearest"
    noise_stddev: float = 0.0

    def __post_init__(self) -> None:
        if (self.clip_norm is None) == (self.clip_entries is None):
            raise ConfigError("give exactly one of clip_norm and clip_entries")
        if self.weighting not in ("uniform", "examples"):
            raise ConfigError(f"weighting must be 'uniform' or 'examples', not {self.weighting!r}")
        if self.length < 1 or self.max_weight < 1:
            raise ConfigError(f"length and max_weight must be at least 1, not {self.length} and {self.max_weight}")

    @property
    def clip(self) -> float:
        """The largest entry that a clipped update can have, in the model's unit."""
        return self.clip_entries if self.clip_norm is None else self.clip_norm  # type: ignore[return-value]

    @property
    def total_length(self) -> int:
        """Entries of the summed vector."""
        return self.length + len(self.metrics) + (self.weighting == "examples")

    @property
    def entry_bound(self) -> int:
        """The largest entry of one contribution, in integer units, before noise of its own."""
        metrics = [self.codec.bound(metric.bound) for metric in self.metrics]
        return max(self.codec.bound(self.clip), *metrics, self.max_weight if self.weighting == "examples" else 0)

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> Ints:
        """ClientUpdate -> int64 `[total_length]`; a NaN or infinite update contributes zeros and no weight."""
        out = np.zeros(self.total_length, np.int64)
        if update.delta.shape != (self.length,):
            raise ConfigError(f"an update of shape {update.delta.shape} came back for a model of {self.length}")
        sound = bool(np.isfinite(update.delta).all()) and all(map(math.isfinite, update.metrics.values()))
        if not sound:
            return out
        weight = min(update.examples, self.max_weight) if self.weighting == "examples" else 1
        share = weight / self.max_weight if self.weighting == "examples" else 1.0
        if not weight:
            return out
        out[: self.length] = self._encode_delta(update.delta, share, rng)
        for at, metric in enumerate(self.metrics, start=self.length):
            value = min(max(update.metrics.get(metric.name, 0.0), -metric.bound), metric.bound)
            out[at] = round(self.codec.scale * value * share)
        if self.weighting == "examples":
            out[-1] = weight
        return out

    def _encode_delta(self, delta: Vector, share: float, rng: np.random.Generator) -> Ints:
        draws = rng if self.rounding == "stochastic" else None
        if self.clip_norm is None:
            clipped = np.clip(delta, -self.clip, self.clip)
            return self.codec.encode_entries(clipped * share, max_abs=self.clip, rounding=self.rounding, rng=draws)
        norm = float(np.linalg.norm(delta.astype(np.float64)))
        factor = share * min(1.0, self.clip_norm / norm) if norm else share
        return self.codec.encode(delta * factor, max_norm=self.clip_norm, rounding=self.rounding, rng=draws)

    def decode(self, total: Ints, denominator: float) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
        """The opened sum int64 `[total_length]` -> (mean update float64 `[length]`, mean metrics).

        `denominator` counts clients and is used for uniform weights; sums over examples bring their own, and a sum
        without any example is a zero update.
        """
        if self.weighting == "examples":
            denominator = float(total[-1]) / self.max_weight
        if denominator <= 0:
            return np.zeros(self.length), {}
        means = self.codec.decode(total[: self.length + len(self.metrics)])
        means /= denominator
        names = (metric.name for metric in self.metrics)
        return means[: self.length], {n: float(v) for n, v in zip(names, means[self.length :], strict=True)}


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """One round: which model, which clients, how many must survive, and how their updates are summed.

    `attempt` counts the tries of this round, from 0. `terms` are further settings that the parties agree on (the
    mechanism and its noise): any JSON value.
    """

    round: int
    attempt: int
    model_hash: str
    cohort: tuple[ClientId, ...]
    min_survivors: int
    update: UpdatePlan
    scheme: str
    seed: int
    denominator: float
    terms: Mapping[str, object] = field(default_factory=dict)

    def digest(self) -> bytes:
        """32 bytes: SHA-256 of the canonical JSON of everything above, under its label."""
        update = self.update
        form = {
            "round": self.round,
            "attempt": self.attempt,
            "model": self.model_hash,
            "cohort": self.cohort,
            "min_survivors": self.min_survivors,
            "scheme": self.scheme,
            "denominator": self.denominator,
            "terms": dict(self.terms),
            "length": update.length,
            "scale": update.codec.scale,
            "bits": update.codec.ring.bits,
            "clip_norm": update.clip_norm,
            "clip_entries": update.clip_entries,
            "weighting": update.weighting,
            "max_weight": update.max_weight,
            "metrics": [[metric.name, metric.bound] for metric in update.metrics],
            "rounding": update.rounding,
            "noise_stddev": update.noise_stddev,
        }
        return hashlib.sha256(_LABEL + canonical_json(form)).digest()

    def task(self, *, contribution_noise: int = 0) -> SumTask:
        """The sum of this round; `contribution_noise` is the room for noise that each client adds, integer units."""
        update = self.update
        bound = update.entry_bound + contribution_noise
        return SumTask(self.digest(), self.cohort, self.min_survivors, update.total_length, update.codec.ring, bound)


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What a client insists on before it trains: the sum's policy, the least noise and the greatest clip."""

    sum: SumPolicy = field(default_factory=SumPolicy)
    least_noise_stddev: float = 0.0
    greatest_clip: float = math.inf

    def check(self, plan: RoundPlan) -> None:
        """Raise `PlanRejected` unless the plan meets every demand; noise is compared in the model's unit."""
        noise = plan.update.noise_stddev / plan.update.codec.scale
        if noise < self.least_noise_stddev:
            raise PlanRejected(f"noise stddev is {noise:g}, and this client insists on {self.least_noise_stddev:g}")
        if plan.update.clip > self.greatest_clip:
            raise PlanRejected(f"clip is {plan.update.clip:g}, and this client allows {self.greatest_clip:g}")
        self.sum.check(plan.task())


def model_hash(model: Vector) -> str:
    """64 hex digits: SHA-256 of dtype, length and little-endian bytes of a flat model."""
    header = f"{model.dtype.name}:{len(model)}\n".encode()
    return hashlib.sha256(header + model.astype(model.dtype.newbyteorder("<")).tobytes()).hexdigest()


def choose_codec(bits: int, *, clip: float, cohort: int, noise_multiplier: float = 0.0) -> FixedPoint:
    """The finest codec for `cohort` clipped updates in a ring of `bits` bits."""
    return FixedPoint.fit(Ring(bits), clip_norm=clip, cohort=cohort, noise_multiplier=noise_multiplier)
