"""Any bytes give a message or a `WireError`; equal values give equal bytes; no two byte strings mean the same."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfl.errors import WireError
from privfl.wire import HEADER_BYTES, SERVER, U8, U16, Blob, Fixed, IdSet, ListOf, Message, Struct, Uint, decode, wired

TASK = bytes(32)


@dataclass(frozen=True, slots=True)
class Pair:
    number: int = wired(Uint(8, 10**18))
    tag: bytes = wired(Fixed(2))


@dataclass(frozen=True, slots=True)
class Sample(Message):
    KIND: ClassVar[int] = 0x7E11
    pairs: tuple[Pair, ...] = wired(ListOf(Struct(Pair), 3))
    ids: tuple[int, ...] = wired(IdSet(5))
    small: int = wired(U8)
    payload: bytes | memoryview = wired(Blob(20))
    lists: tuple[tuple[int, ...], ...] = wired(ListOf(ListOf(U16, 2), 2))


pairs = st.builds(Pair, st.integers(0, 10**18), st.binary(min_size=2, max_size=2))
ids = st.sets(st.integers(0, SERVER - 1), max_size=5).map(lambda s: tuple(sorted(s)))
lists = st.lists(st.lists(st.integers(0, 0xFFFF), max_size=2).map(tuple), max_size=2).map(tuple)
samples = st.builds(
    Sample, st.lists(pairs, max_size=3).map(tuple), ids, st.integers(0, 255), st.binary(max_size=20), lists
)


@given(samples, samples)
def test_equal_values_and_only_they_have_equal_bytes(a: Sample, b: Sample) -> None:
    first, second = a.to_bytes(sender=1, task=TASK), b.to_bytes(sender=1, task=TASK)
    assert (a == b) == (first == second)
    assert decode(first, [Sample], max_length=1000)[1] == a


@given(st.binary(max_size=120))
def test_any_body_is_a_message_or_a_wire_error(body: bytes) -> None:
    try:
        message = Sample.from_body(memoryview(body))
    except WireError:
        return
    assert message.to_bytes(sender=1, task=TASK)[HEADER_BYTES:] == body


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, [Sample], max_length=1000)


@given(samples, st.data())
def test_a_mutated_message_is_another_message_or_a_wire_error(sample: Sample, data: st.DataObject) -> None:
    good = sample.to_bytes(sender=1, task=TASK)
    at = data.draw(st.integers(0, len(good)))
    drop = data.draw(st.integers(0, 3))
    insert = data.draw(st.binary(max_size=3))
    changed = good[:at] + insert + good[at + drop :]
    try:
        header, message = decode(changed, [Sample], max_length=1000)
    except WireError:
        return
    # Whatever is read has exactly the bytes it was read from.
    assert message.to_bytes(sender=header.sender, task=header.task) == changed


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None)
@given(samples, st.integers(0, 10_000), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(sample: Sample, at: int, bit: int) -> None:
    good = bytearray(sample.to_bytes(sender=1, task=TASK))
    before = bytes(good)
    good[at % len(good)] ^= 1 << bit
    try:
        header, message = decode(bytes(good), [Sample], max_length=1000)
    except WireError:
        return
    assert (header.sender, header.task, message) != (1, TASK, sample)
    assert message.to_bytes(sender=header.sender, task=header.task) != before
