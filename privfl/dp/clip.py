"""Clipping: a float vector in, a float vector whose norm is bounded out. The last step before encoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from privfl.checks import check_positive, unwrap_numpy
from privfl.codec import Vector
from privfl.errors import ConfigError

_SMALL: Final = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Clipped:
    """A vector within its bound, with two facts about the update that stay at the client.

    Attributes:
        vector: The clipped update.
        finite: False when the update held a NaN or an infinity, and so became the zero vector.
        within: True when the update was inside the bound already; adaptive clipping counts these.
    """

    vector: Vector = field(repr=False)
    finite: bool
    within: bool


class Clip(Protocol):
    """A rule that bounds what one contribution can change."""

    @property
    def clip_norm(self) -> float:
        """The l2 norm that no clipped vector exceeds."""
        ...

    def __call__(self, update: Vector) -> Clipped:
        """Clip float `[d]`; the input is not changed, and the result has its dtype."""
        ...


@dataclass(frozen=True, slots=True)
class FlatClip:
    """Scale the whole vector down to an l2 norm of at most `clip_norm` (McMahan et al. 2018)."""

    clip_norm: float

    def __post_init__(self) -> None:
        unwrap_numpy(self, "clip_norm")
        check_positive("clip_norm", self.clip_norm)

    def __call__(self, update: Vector) -> Clipped:
        """See `Clip`."""
        largest = _max_abs(update)
        if not math.isfinite(largest):
            return _zero(update)
        norm = _norm(update, largest)
        if norm <= self.clip_norm:
            return Clipped(update, finite=True, within=True)
        return Clipped(_scaled(update, norm, self.clip_norm), finite=True, within=False)


@dataclass(frozen=True, slots=True)
class LayerClip:
    """Scales each layer down to its own norm. The whole vector then has norm at most sqrt(sum of norms^2).

    Attributes:
        cuts: The borders of the layers: layer i is `update[cuts[i]:cuts[i+1]]`.
        norms: The bound of each layer's l2 norm.
    """

    cuts: tuple[int, ...]
    norms: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.cuts) != len(self.norms) + 1 or self.cuts[:1] != (0,):
            raise ConfigError("cuts must start at 0 and have one entry more than norms")
        if any(a >= b for a, b in pairwise(self.cuts)):
            raise ConfigError(f"cuts must be strictly increasing, not {self.cuts}")
        for norm in self.norms:
            check_positive("norms", norm)

    @classmethod
    def of(cls, lengths: Sequence[int], clip_norm: float) -> LayerClip:
        """Return a clip by layers that share `clip_norm` equally: each gets clip_norm / sqrt(number of layers).

        Args:
            lengths: The entries of each layer.
            clip_norm: The bound of the whole vector.
        """
        check_positive("clip_norm", clip_norm)
        ends = np.cumsum([0, *lengths])
        return cls(tuple(int(c) for c in ends), (clip_norm / math.sqrt(len(lengths)),) * len(lengths))

    @property
    def clip_norm(self) -> float:
        """See `Clip`."""
        return math.hypot(*self.norms)

    def __call__(self, update: Vector) -> Clipped:
        """See `Clip`; raises `ConfigError` when the vector is not as long as the layers together."""
        if len(update) != self.cuts[-1]:
            raise ConfigError(f"the layers have {self.cuts[-1]} entries together, the update has {len(update)}")
        if not math.isfinite(_max_abs(update)):
            return _zero(update)
        out, within = update.copy(), True
        for (start, stop), bound in zip(pairwise(self.cuts), self.norms, strict=True):
            layer = update[start:stop]
            norm = _norm(layer, _max_abs(layer))
            if norm > bound:
                out[start:stop] = _scaled(layer, norm, bound)
                within = False
        return Clipped(out, finite=True, within=within)


@dataclass(frozen=True, slots=True)
class ElementClip:
    """Clamps each entry to [-max_abs, max_abs]. The norm is then at most max_abs * sqrt(length).

    Attributes:
        max_abs: The bound of an entry, positive.
        length: The entries of the vector.
    """

    max_abs: float
    length: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "max_abs", "length")
        check_positive("max_abs", self.max_abs)
        check_positive("length", self.length)

    @property
    def clip_norm(self) -> float:
        """See `Clip`."""
        return self.max_abs * math.sqrt(self.length)

    def __call__(self, update: Vector) -> Clipped:
        """See `Clip`; raises `ConfigError` for a vector of another length."""
        if len(update) != self.length:
            raise ConfigError(f"the clip is for {self.length} entries, the update has {len(update)}")
        largest = _max_abs(update)
        if not math.isfinite(largest):
            return _zero(update)
        within = largest <= self.max_abs
        return Clipped(update if within else np.clip(update, -self.max_abs, self.max_abs), finite=True, within=within)


def _max_abs(update: Vector) -> float:
    """The greatest absolute value of float `[d]`; NaN where there is a NaN."""
    if update.ndim != 1 or update.dtype.kind != "f":
        raise ConfigError(f"a flat array of floats is expected, not {update.dtype} of shape {update.shape}")
    if not len(update):
        raise ConfigError("an update has at least one entry")
    return float(np.abs(update).max())


def _norm(update: Vector, largest: float) -> float:
    """The l2 norm in float64; entries beyond 1e150 are scaled first, or their squares would overflow."""
    if largest <= 1e150:
        return _root(np.square(update, dtype=np.float64))
    return largest * _root(np.square(update.astype(np.float64) / largest))


def _root(squares: npt.NDArray[np.float64]) -> float:
    # Not np.linalg.norm: its dot product waits for several threads of the BLAS, and its last bits depend on how many.
    return math.sqrt(float(np.add.reduce(squares)))


def _scaled(update: Vector, norm: float, bound: float) -> Vector:
    # The codec bounds the integer norm exactly; here rounding may exceed the bound by a few units in the last place.
    if not math.isfinite(norm):
        largest = float(np.abs(update).max())
        update, norm = update / largest, float(np.linalg.norm(update.astype(np.float64) / largest))
    factor = bound / norm
    if factor < _SMALL:  # float32 has fewer digits of such a factor, or none
        return (update.astype(np.float64) * factor).astype(update.dtype)
    scaled: Vector = np.multiply(update, factor).astype(update.dtype)
    return scaled


def _zero(update: Vector) -> Clipped:
    return Clipped(np.zeros_like(update), finite=False, within=True)
