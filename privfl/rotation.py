"""A seeded rotation of real vectors: signs, then a Walsh-Hadamard transform. After it, no entry stands out.

The rotation is linear and orthogonal. It commutes with the sum and keeps the l2 norm, so the sum is rotated back once.
After the rotation, an entry of a vector of norm C is hardly ever above a few C/sqrt(size). Before it, one entry could
be C. The same ring then holds finer integers (Suresh et al. 2017, section 3; Agarwal et al. 2021).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.errors import ConfigError

Floats = npt.NDArray[np.float64]

_LABEL: Final = b"privfl/1 rotation"
_TAIL: Final = 8.0  # an entry is beyond 8 C/sqrt(size) with probability below 2 exp(-8^2/2) = 2.6e-14 (Hoeffding)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotation of vectors `[length]` into `[size]`, the next power of two.

    The signs are the bits of SHAKE-256 over the label, the seed and the length, lowest bit first, 1 for minus.

    Attributes:
        length: The entries of a vector, in [1, 2^40].
        seed: A public seed in [0, 2^64).
    """

    length: int
    seed: int
    _signs: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.length <= 1 << 40:
            raise ConfigError(f"length must be in [1, 2^40], not {self.length}")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"a rotation's seed must be in [0, 2^64), not {self.seed}")
        stream = hashlib.shake_256(_LABEL + self.seed.to_bytes(8, "little") + self.length.to_bytes(8, "little"))
        octets = np.frombuffer(stream.digest((self.length + 7) // 8), np.uint8)
        bits = np.unpackbits(octets, count=self.length, bitorder="little")
        object.__setattr__(self, "_signs", 1.0 - 2.0 * bits)

    @property
    def size(self) -> int:
        """The entries of a rotated vector: the smallest power of two that is at least `length`."""
        return 1 << (self.length - 1).bit_length()

    def entry_bound(self, norm: float) -> float:
        """Return min(norm, 8 norm/sqrt(size)): hardly any entry of a rotated vector of that norm is above it."""
        return min(norm, _TAIL * norm / math.sqrt(self.size))

    def forward(self, x: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the rotated vector: float `[length]` -> float64 `[size]` of equal l2 norm, up to float rounding."""
        self._check(x, self.length)
        padded = np.zeros(self.size)
        np.multiply(x, self._signs, out=padded[: self.length])
        return _transform(padded)

    def inverse(self, y: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return the vector before its rotation: float `[size]` -> float64 `[length]`, up to float rounding."""
        self._check(y, self.size)
        values = _transform(y.astype(np.float64))[: self.length]
        values *= self._signs
        return values

    @staticmethod
    def _check(x: npt.NDArray[np.floating[Any]], length: int) -> None:
        if x.shape != (length,) or x.dtype.kind != "f":
            raise ConfigError(f"{length} floats are expected, not {x.dtype} of shape {x.shape}")


def _transform(values: Floats) -> Floats:
    """The orthonormal Walsh-Hadamard transform of float64 `[power of two]`, in place; it is its own inverse."""
    half = 1
    while half < len(values):
        pairs = values.reshape(-1, 2, half)
        left, right = pairs[:, 0], pairs[:, 1]
        left += right
        right *= -2.0
        right += left
        half *= 2
    values *= 1.0 / math.sqrt(len(values))
    return values
