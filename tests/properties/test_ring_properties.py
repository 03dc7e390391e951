"""Ring arithmetic and packing for any width and values."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from privfl.errors import WireError
from privfl.ring import Ring

rings = st.integers(8, 64).map(Ring)
ints = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@given(rings, ints, st.booleans())
def test_reduce_pack_unpack_center(ring: Ring, values: list[int], dense: bool) -> None:
    words = ring.reduce(np.array(values, np.int64))
    back = ring.unpack(ring.pack(words, dense=dense), len(values), dense=dense)
    assert ring.center(back).tolist() == [(v + ring.half) % ring.modulus - ring.half for v in values]


@given(rings, st.binary(max_size=40), st.integers(0, 12), st.booleans())
def test_any_bytes_are_words_with_these_bytes_or_a_wire_error(
    ring: Ring, data: bytes, length: int, dense: bool
) -> None:
    try:
        words = ring.unpack(data, length, dense=dense)
    except WireError:
        return
    assert ring.pack(words, dense=dense) == data


@given(rings, ints, ints)
def test_adding_commutes_with_reducing(ring: Ring, a: list[int], b: list[int]) -> None:
    length = min(len(a), len(b))
    total = ring.reduce(np.array(a[:length], np.int64))
    ring.add(total, ring.reduce(np.array(b[:length], np.int64)))
    assert ring.mask(total).tolist() == [(x + y) % ring.modulus for x, y in zip(a, b, strict=False)]
