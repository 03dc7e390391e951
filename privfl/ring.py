"""Vectors over the integers modulo 2^b, in the smallest native word that holds b bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.checks import unwrap_numpy
from privfl.errors import ConfigError, WireError
from privfl.wire import ClientId

Ints = npt.NDArray[np.int64]
"""Integers in the clear: a vector of int64."""

Opening = Callable[[Ints, frozenset[ClientId]], Ints]
"""A function of the opened sum and of the survivors, applied before the sum is released: it adds noise, or nothing."""

Words = npt.NDArray[np.unsignedinteger[Any]]
"""Ring elements: a vector of the ring's native word."""

_WORD_16: Final = np.dtype("<u2")
_WORD_32: Final = np.dtype("<u4")
_WORD_64: Final = np.dtype("<u8")

MIN_BITS: Final = 8
MAX_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Ring:
    """The integers modulo 2^`bits` for `bits` in [8, 64].

    Sums may overflow the native word, because 2^bits divides its modulus: one `mask` at the end is enough.
    """

    bits: int

    def __post_init__(self) -> None:
        unwrap_numpy(self, "bits")
        if not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"a ring has {MIN_BITS} to {MAX_BITS} bits, not {self.bits!r}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16, uint32 or uint64, little-endian: the native word."""
        return _WORD_16 if self.bits <= 16 else _WORD_32 if self.bits <= 32 else _WORD_64

    @property
    def modulus(self) -> int:
        """2^bits."""
        return 1 << self.bits

    @property
    def half(self) -> int:
        """2^(bits-1): centered values v satisfy -half <= v < half."""
        return 1 << (self.bits - 1)

    def zeros(self, length: int) -> Words:
        """A zero vector `[length]` of words."""
        return np.zeros(length, self.dtype)

    def reduce(self, values: Ints) -> Words:
        """int64 `[d]` -> words `[d]`, each value modulo 2^bits."""
        words: Words = values.astype(self.dtype)
        return self.mask(words)

    def center(self, words: Words) -> Ints:
        """Words `[d]` -> int64 `[d]` in [-2^(bits-1), 2^(bits-1))."""
        spare = 64 - self.bits
        values = words.astype(np.uint64)
        values <<= np.uint64(spare)
        signed = values.view(np.int64)
        signed >>= spare
        return signed

    def mask(self, words: Words) -> Words:
        """Reduce words modulo 2^bits in place, and return them."""
        if self.bits < 8 * self.dtype.itemsize:
            np.bitwise_and(words, self.dtype.type(self.modulus - 1), out=words)
        return words

    def add(self, total: Words, words: Words) -> None:
        """Add `words` to `total` in place, without reducing them (see `mask`).

        Args:
            total: Words `[d]`, changed in place.
            words: Words `[d]`.
        """
        np.add(total, words, out=total)

    def pack(self, words: Words, *, dense: bool = False) -> bytes:
        """Return reduced words as bytes.

        Args:
            words: Words `[d]`, each below 2^bits.
            dense: Write `bits` bits per value, least bit first, instead of native little-endian words.
        """
        words = np.ascontiguousarray(words, self.dtype)
        if not dense or self.bits == 8 * self.dtype.itemsize:
            return words.tobytes()
        if len(words) <= _SHORT:
            return _pack_short(words, self.bits)
        return b"".join(_pack_bits(words[i : i + _CHUNK], self.bits) for i in range(0, len(words), _CHUNK))

    def packed_bytes(self, length: int, *, dense: bool = False) -> int:
        """Return the exact size in bytes of packed values.

        Args:
            length: The number of values.
            dense: As in `pack`.
        """
        return -(-length * self.bits // 8) if dense else length * self.dtype.itemsize

    def unpack(self, data: bytes | memoryview, length: int, *, dense: bool = False) -> Words:
        """Return the words of packed bytes, `[length]`, read-only where no copy is needed.

        Args:
            data: Bytes from `pack`.
            length: The number of values.
            dense: As in `pack`.

        Raises:
            WireError: The bytes are not the canonical form.
        """
        view = memoryview(data).cast("B")
        expected = self.packed_bytes(length, dense=dense)
        if view.nbytes != expected:
            raise WireError(f"{view.nbytes} bytes hold no {length} values of {self.bits} bits: {expected} expected")
        if dense and self.bits != 8 * self.dtype.itemsize:
            return self._unpack_bits(view, length)
        words: Words = np.frombuffer(view, self.dtype)
        if self.bits < 8 * self.dtype.itemsize and length and int(words.max()) >= self.modulus:
            raise WireError(f"a value is not reduced modulo 2^{self.bits}")
        return words

    def _unpack_bits(self, view: memoryview, length: int) -> Words:
        if length <= _SHORT:
            return _unpack_short(view, length, self.bits).astype(self.dtype)
        words = np.empty(length, self.dtype)
        step = _CHUNK * self.bits // 8
        for part, start in enumerate(range(0, length, _CHUNK)):
            out = words[start : start + _CHUNK]
            found = _unpack_groups(view[part * step : (part + 1) * step], self.bits)
            if found[len(out) :].any():
                raise WireError("the padding bits of a packed vector are not zero")
            out[:] = found[: len(out)]
        return words


_CHUNK: Final = 1 << 16
_GROUP: Final = 64
"""This many packed values fill as many 64-bit words as each has bits, and each value of a group has its fixed place."""


_SHORT: Final = 1 << 11
"""Up to so many values go bit by bit: groups would cost more than the values."""


def _pack_short(words: Words, bits: int) -> bytes:
    single = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little").reshape(len(words), 64)
    return np.packbits(single[:, :bits], bitorder="little").tobytes()


def _unpack_short(view: memoryview, length: int, bits: int) -> Words:
    single = np.unpackbits(np.frombuffer(view, np.uint8), bitorder="little")
    if single[length * bits :].any():
        raise WireError("the padding bits of a packed vector are not zero")
    values = np.zeros((length, 64), np.uint8)
    values[:, :bits] = single[: length * bits].reshape(length, bits)
    return np.packbits(values, bitorder="little").view("<u8")


def _places(bits: int) -> list[tuple[int, int]]:
    """The first bits of the values of a group: the index of a 64-bit word, and the bit in it."""
    return [divmod(i * bits, 64) for i in range(_GROUP)]


def _pack_bits(words: Words, bits: int) -> bytes:
    groups = -(-len(words) // _GROUP)
    values = np.zeros(groups * _GROUP, np.uint64)
    values[: len(words)] = words
    values &= np.uint64((1 << bits) - 1)
    columns = np.ascontiguousarray(values.reshape(groups, _GROUP).T)
    packed = np.zeros((bits, groups), np.uint64)
    for column, (at, shift) in zip(columns, _places(bits), strict=True):
        packed[at] |= column << np.uint64(shift)
        if shift + bits > 64:
            packed[at + 1] |= column >> np.uint64(64 - shift)
    return packed.T.astype("<u8").tobytes()[: -(-len(words) * bits // 8)]


def _unpack_groups(view: memoryview, bits: int) -> npt.NDArray[np.uint64]:
    """All values of all groups that the bytes begin, as if zeros followed them."""
    groups = -(-view.nbytes // (8 * bits))
    raw = np.zeros(groups * 8 * bits, np.uint8)
    raw[: view.nbytes] = np.frombuffer(view, np.uint8)
    packed = np.ascontiguousarray(raw.view("<u8").reshape(groups, bits).T)
    columns = np.empty((_GROUP, groups), np.uint64)
    for column, (at, shift) in zip(columns, _places(bits), strict=True):
        np.right_shift(packed[at], np.uint64(shift), out=column)
        if shift + bits > 64:
            np.bitwise_or(column, packed[at + 1] << np.uint64(64 - shift), out=column)
    columns &= np.uint64((1 << bits) - 1)
    return columns.T.ravel()
