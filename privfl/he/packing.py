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
Reals = npt.NDArray[np.float64]

ROWS: Final = 8
"""Chunks in one batch: 256 KiB stay in the cache."""

_BLOCK: Final = 1 << 15  # residues in one batch: 256 KiB stay in the cache

_FIELDS: Final[dict[int, list[tuple[str, str, int]]]] = {
    5: [("low", "<u4", 0), ("high", "u1", 32)],
    6: [("low", "<u4", 0), ("high", "<u2", 32)],
    7: [("low", "<u4", 0), ("middle", "<u2", 32), ("high", "u1", 48)],
    8: [("low", "<u8", 0)],
}
"""The machine words (name, word, shift) of a little-endian residue, by its bytes."""


def to_slots(values: Ints, degree: int) -> Slots:
    """Put integers into slots: of each `degree` values the first half are real parts, the others imaginary parts.

    Args:
        values: int64 `[d]`.
        degree: Values of one chunk.

    Returns:
        complex `[chunks, degree/2]`, the last chunk filled up with zeros.
    """
    full, rest = divmod(len(values), degree)
    slots = np.zeros((full + (rest > 0), degree // 2), np.complex128)
    halves = values[: full * degree].reshape(full, 2, degree // 2)
    slots.real[:full], slots.imag[:full] = halves[:, 0], halves[:, 1]
    if rest:
        real, imaginary = values[full * degree :][: degree // 2], values[full * degree :][degree // 2 :]
        slots.real[full, : len(real)], slots.imag[full, : len(imaginary)] = real, imaginary
    return slots


def from_slots(slots: Slots) -> Reals:
    """Return the values of the chunks, float64 `[chunks, degree]`, not rounded, from complex `[chunks, degree/2]`."""
    return np.concatenate([slots.real, slots.imag], axis=1)


def pack(residues: Residues, size: int) -> bytes:
    """Pack residues little-endian.

    Args:
        residues: uint64 `[n]`.
        size: Bytes of one residue, 5 to 8.

    Returns:
        n * `size` bytes.
    """
    packed = bytearray(len(residues) * size)
    pack_into(packed, 0, residues, size)
    return bytes(packed)


def pack_into(packed: bytearray, start: int, residues: Residues, size: int) -> None:
    """Write the bytes of `pack` into a buffer.

    Args:
        packed: The buffer, a multiple of `size` bytes.
        start: The place of the first residue, in residues.
        residues: uint64 `[n]`.
        size: Bytes of one residue, 5 to 8.
    """
    records = np.frombuffer(packed, _record(size))[start : start + len(residues)]
    for at in range(0, len(residues), _BLOCK):
        some, words = records[at : at + _BLOCK], residues[at : at + _BLOCK]
        for name, word, shift in _FIELDS[size]:  # the high bits that a word cuts off are in the next one
            some[name] = (words >> np.uint64(shift) if shift else words).astype(word)


def unpack(block: bytes | memoryview, plan: CkksPlan) -> Residues:
    """Read one c0 block.

    Args:
        block: The packed residues.
        plan: The parameters of the sum.

    Returns:
        uint64 `[chunks * degree]`.

    Raises:
        WireError: The block has another size, or a residue is not below the prime.
    """
    residues = np.zeros(plan.chunks * plan.degree, np.uint64)
    add_block(residues, block, plan)
    return residues


def add_block(total: Residues, block: bytes | memoryview, plan: CkksPlan) -> None:
    """Add one c0 block to a sum without reducing it.

    Args:
        total: uint64 `[chunks * degree]`; changed in place.
        block: The packed residues.
        plan: The parameters of the sum.

    Raises:
        WireError: As `unpack`; `total` is unchanged.
    """
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
