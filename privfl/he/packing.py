"""Vectors <-> slots, and residues <-> bytes; numpy only."""

from __future__ import annotations

from functools import lru_cache
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
"""Chunks a pass: 256 KiB stay in the cache."""

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
    whole, left = divmod(len(values), degree)
    slots = np.zeros((whole + (left > 0), degree // 2), np.complex128)
    halves = values[: whole * degree].reshape(whole, 2, degree // 2)
    slots.real[:whole], slots.imag[:whole] = halves[:, 0], halves[:, 1]
    if left:
        real, imaginary = values[whole * degree :][: degree // 2], values[whole * degree :][degree // 2 :]
        slots.real[whole, : len(real)], slots.imag[whole, : len(imaginary)] = real, imaginary
    return slots


def from_slots(slots: Slots) -> Reals:
    """complex `[chunks, degree/2]` -> float64 `[chunks, degree]`: the values of the chunks, not rounded."""
    return np.concatenate([slots.real, slots.imag], axis=1)


def from_coefficients(coefficients: Residues, modulus: int, scale: float) -> Reals:
    """Coefficients modulo q, uint64 `[chunks, degree]` -> the values of the chunks as `from_slots` gives them.

    Slot i is the polynomial at zeta^(3^i), zeta = exp(i pi / degree), over `scale`. Either 3^i or -3^i is 4t + 1, and
    at zeta^(4t + 1) the polynomial is a discrete Fourier transform of half its length (SPEC.md, section 5).
    """
    degree = coefficients.shape[1]
    twist, place, mirrored = _roots(degree)
    centered = coefficients.view(np.int64) - modulus * (coefficients > modulus // 2)
    folded = np.empty((len(coefficients), degree // 2), np.complex128)
    folded.real, folded.imag = centered[:, : degree // 2], centered[:, degree // 2 :]
    folded *= twist / scale
    slots = np.fft.ifft(folded, norm="forward").take(place, axis=1)
    slots.imag *= mirrored
    return from_slots(slots)


@lru_cache(maxsize=4)
def _roots(degree: int) -> tuple[Slots, npt.NDArray[np.intp], Reals]:
    """zeta^j for j < degree/2; where slot i is found among the points, and -1 where the point is its conjugate."""
    powers = np.array([pow(3, i, 2 * degree) for i in range(degree // 2)])
    mirrored = powers % 4 == 3
    place = (np.where(mirrored, 2 * degree - powers, powers) - 1) // 4
    return np.exp(1j * np.pi / degree * np.arange(degree // 2)), place, np.where(mirrored, -1.0, 1.0)


def pack(residues: Residues, size: int) -> bytes:
    """uint64 residues `[n]` -> n * `size` bytes, little-endian."""
    packed = bytearray(len(residues) * size)
    pack_into(packed, 0, residues, size)
    return bytes(packed)


def pack_into(packed: bytearray, start: int, residues: Residues, size: int) -> None:
    """Write the bytes of `pack` to `packed`, beginning with the place of residue `start`."""
    records = np.frombuffer(packed, _record(size))[start : start + len(residues)]
    for at in range(0, len(residues), _BLOCK):
        some, words = records[at : at + _BLOCK], residues[at : at + _BLOCK]
        for name, word, shift in _FIELDS[size]:  # the high bits that a word cuts off are in the next one
            some[name] = (words >> np.uint64(shift) if shift else words).astype(word)


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
