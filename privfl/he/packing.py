"""Vectors <-> slots, and residues <-> bytes; numpy only."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.errors import WireError
from privfl.he.plan import CkksPlan
from privfl.ring import Ints

Residues = npt.NDArray[np.uint64]
"""Residues modulo q, `[chunks * degree]`, in the order of SEAL's number-theoretic transform."""

Slots = npt.NDArray[np.complex128]

_BLOCK: Final = 1 << 15  # residues a pass: 256 KiB stay in the cache

_FIELDS: Final[dict[int, list[tuple[str, str, int]]]] = {
    5: [("low", "<u4", 0), ("high", "u1", 32)],
    6: [("low", "<u4", 0), ("high", "<u2", 32)],
    7: [("low", "<u4", 0), ("middle", "<u2", 32), ("high", "u1", 48)],
    8: [("low", "<u8", 0)],
}
"""A residue of so many bytes, little-endian, as machine words: (name, word, shift)."""


def to_slots(values: Ints, degree: int) -> Slots:
    """int64 `[d]` -> complex `[chunks, degree/2]`, the last chunk filled up with zeros.

    Of each `degree` values the first half are real parts, the second half imaginary parts.
    """
    chunks = -(-len(values) // degree)
    padded = np.zeros(chunks * degree)
    padded[: len(values)] = values
    halves = padded.reshape(chunks, 2, degree // 2)
    slots = np.empty((chunks, degree // 2), np.complex128)
    slots.real, slots.imag = halves[:, 0], halves[:, 1]
    return slots


def from_slots(slots: Slots) -> npt.NDArray[np.float64]:
    """complex `[degree/2]` -> float64 `[degree]`: the values of one chunk, not rounded."""
    return np.concatenate([slots.real, slots.imag])


def pack(residues: Residues, size: int) -> bytes:
    """uint64 residues `[n]` -> n * `size` bytes, little-endian."""
    packed = np.empty(len(residues), _record(size))
    for name, word, shift in _FIELDS[size]:
        packed[name] = (residues >> np.uint64(shift)).astype(word)  # the high bits that the word cuts off come next
    return packed.tobytes()


def unpack(block: bytes | memoryview, plan: CkksPlan) -> Residues:
    """One c0 block -> uint64 `[chunks * degree]`; raises `WireError` unless it has the exact size, all below q."""
    residues = np.zeros(plan.chunks * plan.degree, np.uint64)
    add_block(residues, block, plan)
    return residues


def add_block(total: Residues, block: bytes | memoryview, plan: CkksPlan) -> None:
    """Add one c0 block to `total` without reducing it; `WireError` (and `total` untouched) as `unpack`."""
    view = memoryview(block)
    if view.nbytes != plan.block_bytes:
        raise WireError(f"a c0 block has {plan.block_bytes} bytes, not {view.nbytes}")
    packed = np.frombuffer(view, _record(plan.residue_bytes))
    fields = _FIELDS[plan.residue_bytes]
    for at in range(0, len(packed), _BLOCK):
        words = _words(packed[at : at + _BLOCK], fields)
        if int(words.max()) >= plan.modulus:
            for undo in range(0, at, _BLOCK):
                total[undo : undo + _BLOCK] -= _words(packed[undo : undo + _BLOCK], fields)
            raise WireError(f"a residue from {at} on is not below the prime {plan.modulus}")
        total[at : at + _BLOCK] += words


def _words(packed: npt.NDArray[Any], fields: list[tuple[str, str, int]]) -> Residues:
    words: Residues = packed[fields[0][0]].astype(np.uint64)
    for name, _, shift in fields[1:]:
        words |= packed[name].astype(np.uint64) << np.uint64(shift)
    return words


def _record(size: int) -> np.dtype[Any]:
    return np.dtype([(name, word) for name, word, _ in _FIELDS[size]])
