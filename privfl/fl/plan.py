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
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Slot
from privfl.dp.contract import check_weighting
from privfl.errors import ConfigError, PlanRejected
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate
from privfl.ring import Ints
from privfl.rotation import Rotation
from privfl.sums import SumPolicy, SumTask
from privfl.wire import ClientId

_LABEL: Final = b"privfl/1 round-plan"
Weighting = Literal["uniform", "examples"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A training metric that travels as one coordinate: values beyond `bound` (absolute) are counted as `bound`.

    `units` is the integer that `bound` becomes; None: as the update's entries are scaled.
    """

    name: str
    bound: float = 32.0
    units: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0) or (self.units is not None and self.units < 1):
            raise ConfigError(f"a metric has a positive bound and units, not {self.bound!r} and {self.units!r}")

    def entry_bound(self, codec: FixedPoint) -> int:
        """The largest integer that it becomes."""
        return codec.bound(self.bound) if self.units is None else self.units

    def scale(self, codec: FixedPoint) -> float:
        """Integer units per 1.0."""
        return codec.scale if self.units is None else self.units / self.bound


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """How an update becomes integers, the same in every round but for an adaptive clip (see `in_round`).

    The vector is [update | metrics | indicator | weight]. `clip` bounds the update, by norm, layer or element. With
    `weighting="examples"` a client with n examples contributes min(n, max_weight)/max_weight times its update and its
    metrics, and min(n, max_weight) as its weight, so that the mean over examples is exact and the contribution stays
    within the clip; with "uniform" there is no weight. `adaptive` puts in the indicator by which the clip follows a
    quantile of the norms, and `rotation` turns the clipped update before it is rounded.
    """

    length: int
    codec: FixedPoint
    clip: FlatClip | LayerClip | ElementClip
    weighting: Weighting = "uniform"
    max_weight: int = 1
    metrics: tuple[Metric, ...] = ()
    rounding: Rounding = "nearest"
    adaptive: AdaptiveClip | None = None
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ConfigError(f"weighting must be 'uniform' or 'examples', not {self.weighting!r}")
        if self.length < 1 or self.max_weight < 1:
            raise ConfigError(f"length and max_weight must be at least 1, not {self.length} and {self.max_weight}")
        if self.rotation is not None and self.rotation.length != self.length:
            raise ConfigError(f"the rotation is of {self.rotation.length} entries, the update has {self.length}")
        if self.adaptive is not None and (self.weighting != "uniform" or self.clip != self.adaptive.clip):
            raise ConfigError("an adaptive clip is the clip of the update, under uniform weights")

    def in_round(self, clip_norm: float) -> UpdatePlan:
        """This plan with its adaptive clip at `clip_norm`: the integers' bounds stay the same."""
        if self.adaptive is None:
            raise ConfigError("this plan has no adaptive clip")
        adaptive = dataclasses.replace(self.adaptive, clip_norm=clip_norm)
        return dataclasses.replace(self, adaptive=adaptive, clip=adaptive.clip, codec=adaptive.codec(self.codec.ring))

    @property
    def width(self) -> int:
        """Entries of the update's block: its length, or what a rotation makes of it."""
        return self.length if self.rotation is None else self.rotation.size

    @property
    def largest(self) -> float:
        """The largest entry that a clipped (and rotated) update can have, in the model's unit."""
        if self.rotation is not None:
            return self.rotation.entry_bound(self.clip.clip_norm)
        return self.clip.max_abs if isinstance(self.clip, ElementClip) else self.clip.clip_norm

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The blocks of the vector under one noise; raises `PrivacyError` for weights, which have no bound."""
        check_weighting(self.weighting, None)
        metrics = tuple(Slot(m.name, 1, m.scale(self.codec), m.bound) for m in self.metrics)
        if self.adaptive is None:
            return (Slot("update", self.width, self.codec.scale, self.clip.clip_norm), *metrics)
        update, indicator = self.adaptive.slots(self.width)
        return (update, *metrics, indicator)

    @property
    def total_length(self) -> int:
        """Entries of the summed vector."""
        return self.width + len(self.metrics) + (self.adaptive is not None) + (self.weighting == "examples")

    @property
    def entry_bound(self) -> int:
        """The largest entry of one contribution, in integer units, before noise of its own."""
        return max(self.codec.bound(self.largest), *self._side_bounds, 0)

    @property
    def norm_bound(self) -> float:
        """The l2 norm that no contribution exceeds, in integer units, metrics and weight included."""
        update = float(self.adaptive.units) if self.adaptive else self.codec.sensitivity(self.clip.clip_norm)
        return math.hypot(update, *self._side_bounds)

    @property
    def _side_bounds(self) -> list[int]:
        found = [metric.entry_bound(self.codec) for metric in self.metrics]
        if self.adaptive is not None:
            found.append(self.adaptive.indicator_units // 2)
        return [*found, self.max_weight] if self.weighting == "examples" else found

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> Ints:
        """ClientUpdate -> int64 `[total_length]`; a NaN or infinite update contributes zeros and no weight."""
        if update.delta.shape != (self.length,):
            raise ConfigError(f"an update of shape {update.delta.shape} came back for a model of {self.length}")
        clipped = self.clip(update.delta)
        weight = min(update.examples, self.max_weight) if self.weighting == "examples" else 1
        if not weight or not clipped.finite or not all(map(math.isfinite, update.metrics.values())):
            return np.zeros(self.total_length, np.int64)
        share = weight / self.max_weight if self.weighting == "examples" else 1.0
        delta = self._encode_delta(clipped.vector * share if share < 1.0 else clipped.vector, rng)
        if self.total_length == self.width:
            return delta
        out = np.zeros(self.total_length, np.int64)
        out[: self.width] = delta
        for at, metric in enumerate(self.metrics, start=self.width):
            value = min(max(update.metrics.get(metric.name, 0.0), -metric.bound), metric.bound)
            bound = metric.entry_bound(self.codec)
            out[at] = min(max(round(metric.scale(self.codec) * value * share), -bound), bound)
        if self.adaptive is not None:
            out[-1] = self.adaptive.indicator(clipped.within)
        if self.weighting == "examples":
            out[-1] = weight
        return out

    def _encode_delta(self, delta: Vector, rng: np.random.Generator) -> Ints:
        draws = rng if self.rounding == "stochastic" else None
        if self.rotation is not None:
            turned = self.rotation.forward(delta)
            ints = self.codec.encode(turned, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)
            bound = self.codec.bound(self.largest)
            return np.clip(ints, -bound, bound, out=ints)  # which hardly ever changes one, and only shortens
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
        mean = self.codec.decode(total[: self.width])
        mean /= denominator
        sums = zip(self.metrics, total[self.width : self.width + len(self.metrics)], strict=True)
        metrics = {m.name: float(v) * (1.0 / m.scale(self.codec)) / denominator for m, v in sums}
        return (mean if self.rotation is None else self.rotation.inverse(mean)), metrics

    def next_clip(self, total: Ints) -> float | None:
        """The clip norm of the next round, from the opened sum int64 `[total_length]`; None if it is not adaptive."""
        return None if self.adaptive is None else self.adaptive.next(int(total[-1])).clip_norm


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
            "adaptive": None if update.adaptive is None else dataclasses.asdict(update.adaptive),
            "rotation": None if update.rotation is None else update.rotation.seed,
            "weighting": update.weighting,
            "max_weight": update.max_weight,
            "metrics": [[metric.name, metric.bound, metric.units] for metric in update.metrics],
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

    def check(self, plan: RoundPlan) -> SumTask:
        """The plan's sum; `PlanRejected` unless the plan meets every demand. Noise is compared in the model's unit."""
        if plan.noise_stddev < self.least_noise_stddev:
            raise PlanRejected(
                f"noise stddev is {plan.noise_stddev:g}, and this client insists on {self.least_noise_stddev:g}"
            )
        if plan.update.clip.clip_norm > self.greatest_clip:
            raise PlanRejected(
                f"clip norm is {plan.update.clip.clip_norm:g}, and this client allows {self.greatest_clip:g}"
            )
        task = plan.task()
        self.sum.check(task)
        return task


def model_hash(model: Vector) -> str:
    """64 hex digits: SHA-256 of dtype, length and little-endian bytes of a flat model."""
    header = f"{model.dtype.name}:{len(model)}\n".encode()
    return hashlib.sha256(header + model.astype(model.dtype.newbyteorder("<")).tobytes()).hexdigest()
