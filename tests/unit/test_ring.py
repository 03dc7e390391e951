"""Z_2^b for every b in 8..64, against Python's own integers."""

from typing import Any

import numpy as np
import pytest

from privfl.errors import ConfigError, WireError
from privfl.ring import MAX_BITS, MIN_BITS, Ring

ALL_BITS = range(MIN_BITS, MAX_BITS + 1)


def edges(ring: Ring) -> np.ndarray[Any, Any]:
    """Every value where something could turn: around 0, both halves, and the ends of int64."""
    middle = [
        s * (1 << k) + e for s in (-1, 1) for k in (0, ring.bits - 1, ring.bits, 15, 16, 31, 32, 62) for e in (-1, 0, 1)
    ]
    ends = [-(2**63), -(2**63) + 1, 2**63 - 1]
    return np.array([v for v in (*middle, *ends) if -(2**63) <= v < 2**63], np.int64)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_reduce_and_center_are_python_s_modulo(bits: int) -> None:
    ring = Ring(bits)
    values = edges(ring)
    words = ring.reduce(values)
    assert words.dtype == ring.dtype
    assert words.dtype.itemsize == (2 if bits <= 16 else 4 if bits <= 32 else 8)
    assert words.tolist() == [v % 2**bits for v in values.tolist()]
    assert ring.center(words).tolist() == [(v + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1) for v in values.tolist()]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_sums_may_run_over_in_the_native_word(bits: int) -> None:
    ring = Ring(bits)
    rng = np.random.default_rng(bits)
    total, exact = ring.zeros(50), [0] * 50
    for _ in range(70):
        values = rng.integers(-ring.half, ring.half, 50, endpoint=False)
        ring.add(total, ring.reduce(values))
        exact = [a + b for a, b in zip(exact, values.tolist(), strict=True)]
    again = ring.mask(total)
    assert again is total
    assert total.tolist() == [v % ring.modulus for v in exact]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_packing_is_the_documented_number_and_comes_back(bits: int, dense: bool) -> None:
    ring = Ring(bits)
    for length in (0, 1, 2, 7, 8, 9, 100):
        words = ring.reduce(np.random.default_rng(length).integers(-ring.half, ring.half, length, endpoint=False))
        words[: length // 2] = ring.modulus - 1
        data = ring.pack(words, dense=dense)
        assert len(data) == ring.packed_bytes(length, dense=dense)
        width = bits if dense else 8 * ring.dtype.itemsize
        number = sum(word << width * i for i, word in enumerate(words.tolist()))  # least bit first
        assert int.from_bytes(data, "little") == number
        back = ring.unpack(data, length, dense=dense)
        assert back.dtype == ring.dtype
        assert back.tolist() == words.tolist()


@pytest.mark.parametrize("bits", [9, 20, 33, 63])
def test_dense_packing_over_several_chunks(bits: int) -> None:
    ring = Ring(bits)
    words = ring.reduce(np.random.default_rng(0).integers(-(2**62), 2**62, 3 * (1 << 16) + 5))
    data = ring.pack(words, dense=True)
    np.testing.assert_array_equal(ring.unpack(data, len(words), dense=True), words)
    assert data[: (1 << 16) * bits // 8] == ring.pack(words[: 1 << 16], dense=True)


@pytest.mark.parametrize("dense", [False, True])
def test_strided_words_and_words_of_another_width_pack_alike(dense: bool) -> None:
    ring = Ring(20)
    words = ring.reduce(np.arange(-50, 50) * 9973)
    expected = ring.pack(words, dense=dense)
    strided = np.repeat(words, 2)[::2]
    assert not strided.flags.c_contiguous
    for other in (strided, words.astype(np.uint64), words.astype(">u4")):
        assert ring.pack(other, dense=dense) == expected
    small = np.arange(100, dtype=np.uint16)
    assert ring.pack(small, dense=dense) == ring.pack(small.astype(np.uint32), dense=dense)


@pytest.mark.parametrize("dense", [False, True])
def test_bytes_of_the_wrong_length_are_refused(dense: bool) -> None:
    ring = Ring(20)
    data = ring.pack(ring.reduce(np.arange(10)), dense=dense)
    for bad in (data[:-1], data + b"\0", b""):
        with pytest.raises(WireError, match="expected"):
            ring.unpack(bad, 10, dense=dense)


def test_words_outside_the_ring_are_refused() -> None:
    for bits in (8, 15, 17, 31, 33, 63):
        ring = Ring(bits)
        words = np.array([0, ring.modulus - 1], ring.dtype)
        assert ring.unpack(words.tobytes(), 2).tolist() == words.tolist()
        words[1] += 1
        with pytest.raises(WireError, match=f"not reduced modulo 2\\^{bits}"):
            ring.unpack(words.tobytes(), 2)


def test_padding_bits_must_be_zero() -> None:
    ring = Ring(9)
    data = bytearray(ring.pack(np.array([1, 2, 3], np.uint16), dense=True))  # 27 bits: 5 to spare
    for bit in range(3, 8):
        data[-1] ^= 1 << bit
        with pytest.raises(WireError, match="padding"):
            ring.unpack(bytes(data), 3, dense=True)
        data[-1] ^= 1 << bit
    assert ring.unpack(bytes(data), 3, dense=True).tolist() == [1, 2, 3]


def test_unpacking_takes_views_of_any_format_and_offset() -> None:
    ring = Ring(32)
    data = np.arange(5, dtype=np.uint32)
    assert ring.unpack(memoryview(data), 5).tolist() == data.tolist()
    assert ring.unpack(memoryview(b"x" + data.tobytes())[1:], 5).tolist() == data.tolist()


@pytest.mark.parametrize("bits", [7, 65, 0, -8, 32.0, "32", True, None])
def test_other_rings_are_refused(bits: Any) -> None:
    with pytest.raises(ConfigError, match="8 to 64 bits"):
        Ring(bits)


@pytest.mark.parametrize("bits", [9, 31, 42, 63])
@pytest.mark.parametrize("length", [1, 64, 2048, 2049, 70_000])
def test_short_and_long_vectors_pack_alike(bits: int, length: int) -> None:
    ring = Ring(bits)
    words = ring.reduce(np.random.default_rng(bits).integers(-(2**62), 2**62, length))
    packed = ring.pack(words, dense=True)
    last = -(-length // 8) * 8 * bits // 8  # whole groups of 8 values fill whole bytes
    exact = sum(int(word) << (bits * i) for i, word in enumerate(words[:64].tolist()))
    assert packed[:8] == exact.to_bytes(last + 512, "little")[: len(packed)][:8]
    np.testing.assert_array_equal(ring.unpack(packed, length, dense=True), words)
    if length * bits % 8:
        with pytest.raises(WireError, match="padding"):
            ring.unpack(packed[:-1] + bytes([packed[-1] | 0x80]), length, dense=True)
