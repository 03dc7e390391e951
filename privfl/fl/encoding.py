"""The encoding of an update: from floats to the integer vector that is summed, and from its sum to a mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint, Rounding, Vector
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Slot
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.ring import Ints
from privfl.rotation import Rotation

Weighting = Literal["uniform", "examples"]
UpdateClip = FlatClip | LayerClip | ElementClip | AdaptiveClip

UPDATE: Final = "update"
INDICATOR: Final = "clip"
WEIGHT: Final = "weight"


@dataclass(frozen=True, slots=True)
class Metric:
    """A training metric that travels as one entry of the summed vector.

    Attributes:
        name: The key of the metric in `ClientUpdate.metrics`.
        bound: The largest absolute value; larger values count as `bound`.
        units: The integer that `bound` becomes; None scales the metric as the update's entries are scaled.
    """

    name: str
    bound: float = 32.0
    units: int | None = None

    def __post_init__(self) -> None:
        if self.name in (UPDATE, INDICATOR, WEIGHT) or not self.name:
            raise ConfigError(f"a metric cannot be named {self.name!r}: that is another slot of the vector")
        if not (math.isfinite(self.bound) and self.bound > 0) or (self.units is not None and self.units < 1):
            raise ConfigError(f"a metric has a positive bound and units, not {self.bound!r} and {self.units!r}")

    def entry_bound(self, codec: FixedPoint) -> int:
        """The largest integer that the metric becomes."""
        return codec.bound(self.bound) if self.units is None else self.units

    def scale(self, codec: FixedPoint) -> float:
        """Integer units per 1.0."""
        return codec.scale if self.units is None else self.units / self.bound


@dataclass(frozen=True, slots=True)
class UpdateEncoding:
    """How an update becomes integers: named slots `update`, one for each metric, `clip` and `weight`, in this order.

    With `weighting="examples"` a client with n examples contributes min(n, max_weight)/max_weight times its update
    and its metrics, and min(n, max_weight) as its weight. The mean over examples is then exact, and the contribution
    stays within the clip. With "uniform" there is no weight. An `AdaptiveClip` adds the slot `clip`, the indicator by
    which the clip norm follows a quantile of the norms.

    Attributes:
        length: Entries of the model.
        codec: Scale and ring.
        clip: The bound of the update, by norm, by layer or by entry.
        weighting: "uniform" or "examples".
        max_weight: The most examples that count; 1 for uniform weights.
        metrics: The training metrics that are summed.
        rounding: "nearest" or "stochastic".
        rotation: Turns the clipped update before it is rounded; None leaves it as it is.

    Raises:
        ConfigError: If the parts contradict each other.
    """

    length: int
    codec: FixedPoint
    clip: UpdateClip
    weighting: Weighting = "uniform"
    max_weight: int = 1
    metrics: tuple[Metric, ...] = ()
    rounding: Rounding = "nearest"
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ConfigError(f"weighting must be 'uniform' or 'examples', not {self.weighting!r}")
        if self.rounding not in ("nearest", "stochastic"):
            raise ConfigError(f"rounding must be 'nearest' or 'stochastic', not {self.rounding!r}")
        if self.length < 1 or self.max_weight < 1:
            raise ConfigError(f"length and max_weight must be at least 1, not {self.length} and {self.max_weight}")
        if self.weighting == "uniform" and self.max_weight != 1:
            raise ConfigError(f"max_weight is 1 for uniform weights, not {self.max_weight}")
        if self.rotation is not None and self.rotation.length != self.length:
            raise ConfigError(f"the rotation is of {self.rotation.length} entries, the update has {self.length}")
        if len({metric.name for metric in self.metrics}) != len(self.metrics):
            raise ConfigError(f"metrics need distinct names, not {[metric.name for metric in self.metrics]}")
        clip_length = {LayerClip: lambda c: c.cuts[-1], ElementClip: lambda c: c.length}.get(type(self.clip))
        if clip_length is not None and clip_length(self.clip) != self.length:
            raise ConfigError(f"the clip is for {clip_length(self.clip)} entries, the update has {self.length}")
        if isinstance(self.clip, AdaptiveClip):
            if self.weighting != "uniform":
                raise ConfigError("an adaptive clip needs uniform weights: set server.weighting = 'uniform'")
            if self.codec != self.clip.codec(self.codec.ring):
                raise ConfigError("the codec is not the one of the adaptive clip: take clip.codec(ring)")

    def in_round(self, clip_norm: float | None) -> UpdateEncoding:
        """This encoding with an adaptive clip at `clip_norm`; the integers' bounds stay the same. None changes nothing.

        Raises:
            ConfigError: If a norm is given and the clip is not adaptive.
        """
        if clip_norm is None:
            return self
        if not isinstance(self.clip, AdaptiveClip):
            raise ConfigError("a clip norm of the round belongs to an adaptive clip, and this clip is fixed")
        if clip_norm == self.clip.clip_norm:
            return self
        clip = dataclasses.replace(self.clip, clip_norm=clip_norm)
        return dataclasses.replace(self, clip=clip, codec=clip.codec(self.codec.ring))

    @property
    def width(self) -> int:
        """Entries of the update's slot: its length, or the size of the rotated update."""
        return self.length if self.rotation is None else self.rotation.size

    @property
    def max_entry(self) -> float:
        """The largest entry that a clipped (and rotated) update can have, in the model's unit."""
        if self.rotation is not None:
            return self.rotation.entry_bound(self.clip.clip_norm)
        return self.clip.max_abs if isinstance(self.clip, ElementClip) else self.clip.clip_norm

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The blocks of the vector, in order, with their scales and norm bounds."""
        metrics = tuple(Slot(m.name, 1, m.scale(self.codec), m.bound) for m in self.metrics)
        weight = (Slot(WEIGHT, 1, 1.0, float(self.max_weight)),) if self.weighting == "examples" else ()
        if isinstance(self.clip, AdaptiveClip):
            update, indicator = self.clip.slots(self.width)
            return (update, *metrics, indicator, *weight)
        return (Slot(UPDATE, self.width, self.codec.scale, self.clip.clip_norm), *metrics, *weight)

    @property
    def places(self) -> Mapping[str, slice]:
        """Where each slot stands in the vector."""
        places, start = {}, 0
        for slot in self.slots:
            places[slot.name] = slice(start, start + slot.length)
            start += slot.length
        return places

    @property
    def total_length(self) -> int:
        """Entries of the summed vector."""
        return sum(slot.length for slot in self.slots)

    @property
    def entry_bound(self) -> int:
        """The largest entry of one contribution before its noise, in integer units."""
        bounds = [self.codec.bound(self.max_entry), *(metric.entry_bound(self.codec) for metric in self.metrics)]
        if isinstance(self.clip, AdaptiveClip):
            bounds.append(self.clip.indicator_units // 2)
        return max(*bounds, self.max_weight if self.weighting == "examples" else 0)

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> Ints:
        """Clip, weigh and round one update: step 3 of a round.

        Args:
            update: What the client's training returned. A NaN or infinite update contributes zeros and no weight.
            rng: For stochastic rounding.

        Returns:
            int64 `[total_length]`.

        Raises:
            ConfigError: If the update has another length than the model.
        """
        if update.delta.shape != (self.length,):
            raise ConfigError(f"an update of shape {update.delta.shape} came back for a model of {self.length}")
        clipped = self.clip(update.delta)
        by_examples = self.weighting == "examples"
        weight = min(update.examples, self.max_weight) if by_examples else 1
        if not weight or not clipped.finite or not all(map(math.isfinite, update.metrics.values())):
            return np.zeros(self.total_length, np.int64)
        fraction = weight / self.max_weight if by_examples else 1.0
        delta = self._encode_delta(clipped.vector * fraction if fraction < 1.0 else clipped.vector, rng)
        if self.total_length == self.width:
            return delta
        out, places = np.zeros(self.total_length, np.int64), self.places
        out[places[UPDATE]] = delta
        for metric in self.metrics:
            value = min(max(update.metrics.get(metric.name, 0.0), -metric.bound), metric.bound)
            bound = metric.entry_bound(self.codec)
            out[places[metric.name]] = min(max(round(metric.scale(self.codec) * value * fraction), -bound), bound)
        if isinstance(self.clip, AdaptiveClip):
            out[places[INDICATOR]] = self.clip.indicator(clipped.within)
        if by_examples:
            out[places[WEIGHT]] = weight
        return out

    def _encode_delta(self, delta: Vector, rng: np.random.Generator) -> Ints:
        draws = rng if self.rounding == "stochastic" else None
        if self.rotation is not None:
            turned = self.rotation.forward(delta)
            ints = self.codec.encode(turned, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)
            bound = self.codec.bound(self.max_entry)
            return np.clip(ints, -bound, bound, out=ints)  # which hardly ever changes one, and only shortens
        if isinstance(self.clip, ElementClip):
            return self.codec.encode_entries(delta, max_abs=self.clip.max_abs, rounding=self.rounding, rng=draws)
        return self.codec.encode(delta, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)

    def decode(self, total: Ints, denominator: float) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
        """The mean update and the mean metrics of an opened sum: step 9 of a round.

        Args:
            total: The opened sum, int64 `[total_length]`.
            denominator: The number of clients, for uniform weights. Sums over examples bring their own.

        Returns:
            float64 `[length]` and the metrics by name; zeros and no metrics where nothing was counted.
        """
        places = self.places
        if self.weighting == "examples":
            denominator = float(total[places[WEIGHT]][0]) / self.max_weight
        if denominator <= 0:
            return np.zeros(self.length), {}
        mean = self.codec.decode(total[places[UPDATE]])
        mean /= denominator
        metrics = {
            metric.name: float(total[places[metric.name]][0]) * (1.0 / metric.scale(self.codec)) / denominator
            for metric in self.metrics
        }
        return (mean if self.rotation is None else self.rotation.inverse(mean)), metrics

    def next_clip_norm(self, total: Ints, denominator: float) -> float | None:
        """The clip norm of the next round, from the opened sum int64 `[total_length]`; None for a fixed clip."""
        if not isinstance(self.clip, AdaptiveClip):
            return None
        return self.clip.next(int(total[self.places[INDICATOR]][0]), denominator).clip_norm
