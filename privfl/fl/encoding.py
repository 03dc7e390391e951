"""The encoding of an update: from floats to the integer vector that is summed, and from its sum to a mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import FixedPoint, Rounding, Vector
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Slot
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.counts import (
    CLIPPED,
    EMPTY,
    EXCESS,
    RANGE,
    RANGE_STEPS,
    REJECTED,
    UNSUMMED,
    Counts,
    counts_of,
    from_limbs,
    limb_count,
)
from privfl.fl.encoding_checks import check_counts, check_examples, check_names
from privfl.fl.examples import ExampleRule
from privfl.fl.fill import fill
from privfl.fl.slots import INDICATOR, UPDATE, WEIGHT, Block, Metric
from privfl.ring import Ints
from privfl.rotation import Rotation

Weighting = Literal["uniform", "examples"]
UpdateClip = FlatClip | LayerClip | ElementClip | AdaptiveClip


@dataclass(frozen=True, slots=True)
class UpdateEncoding:
    """The encoding of an update as integers: named slots in a fixed order.

    The slots are `update`, one for each block, one for each metric, `clip` and `weight`. Blocks are vectors that an
    algorithm sums next to the update. They share the update's scale, weights and clip: the clip bounds the update and
    its blocks as one vector.

    With `weighting="examples"` a client with n examples contributes min(n, max_weight)/max_weight times its update
    and its metrics, and min(n, max_weight) as its weight. The mean over examples is then exact, and the contribution
    stays within the clip. With "uniform" there is no weight. An `AdaptiveClip` adds the slot `clip`, the indicator by
    which the clip norm follows a quantile of the norms.

    Without noise an encoding counts what it did to the updates (`count_bound` above 0), in slots between the metrics
    and the weight, see `Counts`. It then gives a client without examples no weight, uniform weights included. A metric
    has several entries, and a slot `<name>.weight` next to it with the weight of the clients that reported it.

    Attributes:
        length: Entries of the update and its blocks.
        codec: Scale and ring.
        clip: The bound of the update, by norm, by layer or by entry; its `clip_norm` is the only one of a round.
        weighting: "uniform" or "examples".
        max_weight: The most examples of one client that count; 1 for uniform weights.
        max_total_weight: The total weight of a cohort that the ring has room for; 0 if every client may have
            `max_weight`.
        count_bound: The largest entry of a slot that counts; 0 for an encoding that counts nothing.
        metrics: The training metrics that are summed.
        blocks: The vectors that are summed next to the update; they are the last of the `length` entries.
        rounding: "nearest" or "stochastic".
        rotation: Turns the clipped update before it is rounded; None leaves it as it is.
        examples: The terms of a sum over examples, each of which `clip` bounds; None for updates of clients.

    Raises:
        ConfigError: If the parts contradict each other.
    """

    length: int
    codec: FixedPoint
    clip: UpdateClip
    weighting: Weighting = "uniform"
    max_weight: int = 1
    max_total_weight: int = 0
    count_bound: int = 0
    metrics: tuple[Metric, ...] = ()
    blocks: tuple[Block, ...] = ()
    rounding: Rounding = "nearest"
    rotation: Rotation | None = None
    examples: ExampleRule | None = None
    _derived: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ConfigError(f"weighting must be 'uniform' or 'examples', not {self.weighting!r}")
        if self.rounding not in ("nearest", "stochastic"):
            raise ConfigError(f"rounding must be 'nearest' or 'stochastic', not {self.rounding!r}")
        if self.length < 1 or self.max_weight < 1:
            raise ConfigError(f"length and max_weight must be at least 1, not {self.length} and {self.max_weight}")
        if self.weighting == "uniform" and self.max_weight != 1:
            raise ConfigError(f"max_weight is 1 for uniform weights, not {self.max_weight}")
        check_counts(self)
        if self.rotation is not None and self.rotation.length != self.length:
            raise ConfigError(f"the rotation is of {self.rotation.length} entries, the update has {self.length}")
        check_names(self)
        check_examples(self)
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
    def model_length(self) -> int:
        """Entries of the model: `length` without the blocks."""
        return self.length - sum(block.length for block in self.blocks)

    @property
    def width(self) -> int:
        """Entries of the slots of the update and its blocks: their length, or the size of the rotated update."""
        return self.length if self.rotation is None else self.rotation.size

    @property
    def max_entry(self) -> float:
        """The largest entry that a clipped (and rotated) update can have, in the model's unit."""
        if self.rotation is not None:
            return self.rotation.entry_bound(self.clip.clip_norm)
        return self.clip.max_abs if isinstance(self.clip, ElementClip) else self.clip.clip_norm

    @property
    def counts(self) -> bool:
        """True if the encoding counts what it did to the updates."""
        return self.count_bound > 0

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The blocks of the vector, in order, with their scales and norm bounds."""
        if self.counts:
            return self._counting_slots()
        metrics = tuple(Slot(m.name, 1, m.scale(self.codec), m.bound) for m in self.metrics)
        weight = (Slot(WEIGHT, 1, 1.0, float(self.max_weight)),) if self.weighting == "examples" else ()
        if isinstance(self.clip, AdaptiveClip):
            update, indicator = self.clip.slots(self.width)
            return (update, *metrics, indicator, *weight)
        return (*self._update_slots(), *metrics, *weight)

    def _update_slots(self) -> list[Slot]:
        scale, norm, blocks = self.codec.scale, self.clip.clip_norm, self.blocks
        update = self.width if not blocks else self.model_length
        return [Slot(UPDATE, update, scale, norm), *(Slot(block.name, block.length, scale, norm) for block in blocks)]

    def _counting_slots(self) -> tuple[Slot, ...]:
        top, slots = float(self.count_bound), self._update_slots()
        for metric in self.metrics:
            limbs = limb_count(metric.bound, self.max_weight, self.count_bound)
            slots.append(Slot(metric.name, limbs, 1.0, top * math.sqrt(limbs)))
            slots.append(Slot(metric.weight, 1, 1.0, float(self.max_weight)))
        slots.append(Slot(CLIPPED, 1, 1.0, top))
        if isinstance(self.clip, ElementClip):
            slots.append(Slot(RANGE, RANGE_STEPS, 1.0, math.sqrt(RANGE_STEPS)))
        slots += [Slot(name, 1, 1.0, 1.0) for name in (REJECTED, EMPTY, UNSUMMED)]
        if self.weighting == "examples":
            slots += [Slot(EXCESS, 1, 1.0, top), Slot(WEIGHT, 1, 1.0, float(self.max_weight))]
        return tuple(slots)

    @property
    def places(self) -> Mapping[str, slice[int, int, None]]:
        """The place of each slot in the vector."""
        if "places" not in self._derived:
            places, start = dict[str, "slice[int, int, None]"](), 0
            for slot in self.slots:
                places[slot.name] = slice(start, start + slot.length)
                start += slot.length
            self._derived["places"] = places
        known: Mapping[str, slice[int, int, None]] = self._derived["places"]
        return known

    @property
    def total_length(self) -> int:
        """Entries of the summed vector."""
        return max(place.stop for place in self.places.values())

    @property
    def entry_bound(self) -> int:
        """The largest entry of one contribution before its noise, in integer units."""
        update = self.codec.bound(self.max_entry)
        if self.examples is not None:
            return self.codec.bound(self.clip.clip_norm * self.examples.max_entry)
        if self.counts:
            return max(update, self.count_bound)
        bounds = [update, *(metric.entry_bound(self.codec) for metric in self.metrics)]
        if isinstance(self.clip, AdaptiveClip):
            bounds.append(self.clip.indicator_units // 2)
        return max(*bounds, self.max_weight if self.weighting == "examples" else 0)

    def encode(self, update: ClientUpdate, rng: np.random.Generator) -> Ints:
        """Clip, weigh and round one update: step 3 of a round.

        Args:
            update: What the client's training returned. An update with a NaN or an infinity, in an entry or a metric
                that is summed, contributes zeros and no weight; an encoding that counts reports it as rejected.
            rng: For stochastic rounding.

        Returns:
            int64 `[total_length]`.

        Raises:
            ConfigError: If the update has another length or other blocks than the plan, or the plan sums over examples.
        """
        if self.examples is not None:
            raise ConfigError("this encoding sums over examples: use privfl.fl.examples.example_sum")
        joined, reported = self.joined(update), self.reported(update)
        clipped = self.clip(joined)
        by_examples = self.weighting == "examples"
        weight = min(update.examples, self.max_weight) if by_examples or self.counts else 1
        finite = clipped.finite and all(map(math.isfinite, reported.values()))
        if not weight or not finite:
            zeros = np.zeros(self.total_length, np.int64)
            if self.counts:
                zeros[self.places[EMPTY if finite else REJECTED]] = 1
            return zeros
        fraction = weight / self.max_weight if by_examples else 1.0
        delta = self._encode_delta(clipped.vector, fraction, rng)
        if self.total_length == self.width:
            return delta
        out = np.zeros(self.total_length, np.int64)
        out[: self.width] = delta
        fill(self, out, update, joined=joined, clipped=clipped, weight=weight)
        return out

    def accepts(self, update: ClientUpdate) -> bool:
        """True if `encode` makes a contribution that counts: the update is finite, and has a weight."""
        finite = np.isfinite(self.joined(update)).all() and all(map(math.isfinite, self.reported(update).values()))
        return bool(finite) and (update.examples > 0 or not (self.counts or self.weighting == "examples"))

    def joined(self, update: ClientUpdate) -> Vector:
        """The update and its blocks as one vector, float `[length]`."""
        if update.delta.shape == (self.length,) and not (self.blocks or update.blocks):
            return update.delta
        if update.delta.shape != (self.model_length,):
            raise ConfigError(f"an update of shape {update.delta.shape} came back for a model of {self.model_length}")
        shapes = {name: vector.shape for name, vector in update.blocks.items()}
        if shapes != {block.name: (block.length,) for block in self.blocks}:
            raise ConfigError(f"an update with blocks of {shapes} came back, and the plan sums {list(self.blocks)}")
        return np.concatenate([update.delta, *(update.blocks[b.name] for b in self.blocks)]) if shapes else update.delta

    def reported(self, update: ClientUpdate) -> dict[str, float]:
        """The metrics of the encoding that the update has."""
        return {m.name: float(update.metrics[m.name]) for m in self.metrics if update.metrics.get(m.name) is not None}

    def _encode_delta(self, clipped: Vector, fraction: float, rng: np.random.Generator) -> Ints:
        delta, draws = clipped, rng if self.rounding == "stochastic" else None
        if fraction < 1.0:
            # Half precision would round the product by far more than the sum does.
            delta = (clipped if clipped.dtype.itemsize > 2 else clipped.astype(np.float32)) * fraction
        if self.rotation is not None:
            turned = self.rotation.forward(delta)
            ints = self.codec.encode(turned, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)
            bound = math.ceil(self.codec.bound(self.max_entry) * fraction)
            return np.clip(ints, -bound, bound, out=ints)  # which hardly ever changes one, and only shortens
        if isinstance(self.clip, ElementClip):
            return self.codec.encode_entries(delta, max_abs=self.clip.max_abs, rounding=self.rounding, rng=draws)
        return self.codec.encode(delta, max_norm=self.clip.clip_norm, rounding=self.rounding, rng=draws)

    def counted(self, total: Ints, survivors: int) -> Counts | None:
        """The counts of an opened sum about the updates in it; None for an encoding that counts nothing.

        Args:
            total: The opened sum, int64 `[total_length]`.
            survivors: The number of vectors in it.
        """
        if not self.counts:
            return None
        places, names = self.places, tuple((metric.name, metric.weight) for metric in self.metrics)
        return counts_of(total, places, survivors, names, weighted=self.weighting == "examples")

    def denominator(self, total: Ints, clients: float) -> float:
        """The number of contributions of full weight in an opened sum.

        Args:
            total: The opened sum, int64 `[total_length]`.
            clients: The number of clients, for uniform weights; those that an encoding counts as rejected or empty are
                taken off. Sums over examples bring their own.
        """
        if self.weighting == "examples":
            return float(total[self.places[WEIGHT]][0]) / self.max_weight
        return clients - sum(float(total[self.places[name]][0]) for name in (REJECTED, EMPTY) if self.counts)

    def decode(self, total: Ints, denominator: float) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
        """The mean update, its blocks after it, and the mean metrics of an opened sum: step 9 of a round.

        Args:
            total: The opened sum, int64 `[total_length]`.
            denominator: The number of clients, for uniform weights; see `denominator`.

        Returns:
            float64 `[length]` and the metrics by name; zeros and no metrics where nothing was counted.
        """
        places, denominator = self.places, self.denominator(total, denominator)
        if denominator <= 0:
            return np.zeros(self.length), {}
        mean = self.codec.decode(total[: self.width])
        mean /= denominator
        metrics = {}
        for metric in self.metrics:
            if self.counts:
                weight = int(total[places[metric.weight]][0])
                if weight > 0:
                    metrics[metric.name] = from_limbs(total[places[metric.name]].tolist(), weight, self.count_bound)
            else:
                scale = 1.0 / metric.scale(self.codec)
                metrics[metric.name] = float(total[places[metric.name]][0]) * scale / denominator
        return (mean if self.rotation is None else self.rotation.inverse(mean)), metrics

    def rounding_error(self, counts: Counts) -> float:
        """The bound on what rounding changed in any entry of the mean update, in the model's unit.

        A rotated vector whose rounding is too long is shrunk and rounded again, up to four times. Each time takes at
        most the length of the rounding from it, and as many units more as there were tries.
        """
        units = 0.5 if self.rounding == "nearest" else 1.0
        if self.rotation is not None:
            units = 4 * units * math.sqrt(self.width) + 6
        scaled = counts.accepted * units / self.codec.scale
        return scaled * self.max_weight / counts.weight if counts.weight > 0 else 0.0

    def next_clip_norm(self, total: Ints, denominator: float) -> float | None:
        """Return the clip norm of the next round; None for a fixed clip.

        Args:
            total: The opened sum, int64 `[total_length]`.
            denominator: The number of clients that the mean divides by.
        """
        if not isinstance(self.clip, AdaptiveClip):
            return None
        return self.clip.next(int(total[self.places[INDICATOR]][0]), denominator).clip_norm
