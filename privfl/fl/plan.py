"""What all parties of a round agree on; its digest enters every key of the sum."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint, Rounding, Vector
from privfl.dp import ElementClip, FlatClip, LayerClip
from privfl.errors import ConfigError, PlanRejected
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate
from privfl.ring import Ints
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

    The vector is [update | metrics | weight]. `clip` bounds the update, by norm, by layer or by element. With
    `weighting="examples"` a client with n examples contributes min(n, max_weight)/max_weight times its update and its
    metrics, and min(n, max_weight) as its weight, so that the mean over examples is exact and the contribution stays
    within the clip; with "uniform" there is no weight.
    """

    length: int
    codec: FixedPoint
    clip: FlatClip | LayerClip | ElementClip
    weighting: Weighting = "uniform"
    max_weight: int = 1
    metrics: tuple[Metric, ...] = ()
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ConfigError(f"weighting must be 'uniform' or 'examples', not {self.weighting!r}")
        if self.length < 1 or self.max_weight < 1:
            raise ConfigError(f"length and max_weight must be at least 1, not {self.length} and {self.max_weight}")

    @property
    def largest(self) -> float:
        """The largest entry that a clipped update can have, in the model's unit."""
        return self.clip.max_abs if isinstance(self.clip, ElementClip) else self.clip.clip_norm

    @property
    def total_length(self) -> int:
        """Entries of the summed vector."""
        return self.length + len(self.metrics) + (self.weighting == "examples")

    @property
    def entry_bound(self) -> int:
        """The largest entry of one contribution, in integer units, before noise of its own."""
        metrics = [self.codec.bound(metric.bound) for metric in self.metrics]
        return max(self.codec.bound(self.largest), *metrics, self.max_weight if self.weighting == "examples" else 0)

    @property
    def norm_bound(self) -> float:
        """The l2 norm that no contribution exceeds, in integer units, metrics and weight included."""
        metrics = [float(self.codec.bound(metric.bound)) for metric in self.metrics]
        weight = float(self.max_weight) if self.weighting == "examples" else 0.0
        return math.hypot(self.codec.sensitivity(self.clip.clip_norm), *metrics, weight)

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> Ints:
        """ClientUpdate -> int64 `[total_length]`; a NaN or infinite update contributes zeros and no weight."""
        out = np.zeros(self.total_length, np.int64)
        if update.delta.shape != (self.length,):
            raise ConfigError(f"an update of shape {update.delta.shape} came back for a model of {self.length}")
        clipped = self.clip(update.delta)
        weight = min(update.examples, self.max_weight) if self.weighting == "examples" else 1
        if not weight or not clipped.finite or not all(map(math.isfinite, update.metrics.values())):
            return out
        share = weight / self.max_weight if self.weighting == "examples" else 1.0
        out[: self.length] = self._encode_delta(clipped.vector * share if share < 1.0 else clipped.vector, rng)
        for at, metric in enumerate(self.metrics, start=self.length):
            value = min(max(update.metrics.get(metric.name, 0.0), -metric.bound), metric.bound)
            bound = self.codec.bound(metric.bound)
            out[at] = min(max(round(self.codec.scale * value * share), -bound), bound)
        if self.weighting == "examples":
            out[-1] = weight
        return out

    def _encode_delta(self, delta: Vector, rng: np.random.Generator) -> Ints:
        draws = rng if self.rounding == "stochastic" else None
        if isinstance(self.clip, ElementClip):
            return self.codec.encode_entries(delta, max_abs=self.clip.max_abs, rounding=self.rounding, rng=draws)
        return self.codec.encode(delta, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)

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

    `attempt` counts the tries of this round, from 0. `denominator` is the fixed, public one of a private mean; None:
    the survivors are counted. `noise_stddev` is the declared deviation in the model's unit, and `noise_room` the room
    for noise that each client adds itself, in integer units. `seed` is each party's own affair. `terms` are further
    settings that the parties agree on (the mechanism): any JSON value.
    """

    round: int
    attempt: int
    model_hash: str
    cohort: tuple[ClientId, ...]
    min_survivors: int
    update: UpdatePlan
    scheme: str
    seed: int
    denominator: float | None = None
    noise_stddev: float = 0.0
    noise_room: int = 0
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
            "noise_stddev": self.noise_stddev,
            "noise_room": self.noise_room,
            "terms": dict(self.terms),
            "length": update.length,
            "scale": update.codec.scale,
            "bits": update.codec.ring.bits,
            "clip": {"kind": type(update.clip).__name__, **dataclasses.asdict(update.clip)},
            "weighting": update.weighting,
            "max_weight": update.max_weight,
            "metrics": [[metric.name, metric.bound] for metric in update.metrics],
            "rounding": update.rounding,
        }
        return hashlib.sha256(_LABEL + canonical_json(form)).digest()

    def task(self) -> SumTask:
        """The sum of this round."""
        update = self.update
        bound = update.entry_bound + self.noise_room
        return SumTask(self.digest(), self.cohort, self.min_survivors, update.total_length, update.codec.ring, bound)


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What a client insists on before it trains: the sum's policy, the least noise and the greatest clip."""

    sum: SumPolicy = field(default_factory=SumPolicy)
    least_noise_stddev: float = 0.0
    greatest_clip: float = math.inf

    def check(self, plan: RoundPlan) -> None:
        """Raise `PlanRejected` unless the plan meets every demand; noise is compared in the model's unit."""
        if plan.noise_stddev < self.least_noise_stddev:
            raise PlanRejected(
                f"noise stddev is {plan.noise_stddev:g}, and this client insists on {self.least_noise_stddev:g}"
            )
        if plan.update.clip.clip_norm > self.greatest_clip:
            raise PlanRejected(
                f"clip norm is {plan.update.clip.clip_norm:g}, and this client allows {self.greatest_clip:g}"
            )
        self.sum.check(plan.task())


def model_hash(model: Vector) -> str:
    """64 hex digits: SHA-256 of dtype, length and little-endian bytes of a flat model."""
    header = f"{model.dtype.name}:{len(model)}\n".encode()
    return hashlib.sha256(header + model.astype(model.dtype.newbyteorder("<")).tobytes()).hexdigest()
