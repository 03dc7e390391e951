"""Canonical bytes: one encoding a value, and a `WireError` for everything else."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from privfl.errors import ConfigError, WireError
from privfl.wire import (
    CLIENT,
    HEADER_BYTES,
    SERVER,
    U8,
    U16,
    U32,
    U64,
    Blob,
    Fixed,
    IdSet,
    ListOf,
    Message,
    Reader,
    Struct,
    Uint,
    decode,
    peek,
    wired,
)

TASK = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Inner:
    small: int = wired(U8)
    tag: bytes = wired(Fixed(3))


@dataclass(frozen=True, slots=True)
class Full(Message):
    KIND: ClassVar[int] = 0x7E01
    number: int = wired(U32)
    capped: int = wired(Uint(2, 999))
    inner: Inner = wired(Struct(Inner))
    many: tuple[int, ...] = wired(ListOf(U16, 4))
    ids: tuple[int, ...] = wired(IdSet(4))
    secret: bytes | memoryview = wired(Blob(8), secret=True)


@dataclass(frozen=True, slots=True)
class Empty(Message):
    KIND: ClassVar[int] = 0x7E02


FULL = Full(7, 999, Inner(1, b"abc"), (3, 2, 2), (0, 5, SERVER - 1), b"key!")


def test_a_message_comes_back_and_its_bytes_are_the_documented_ones() -> None:
    data = FULL.to_bytes(sender=5, task=TASK)
    body = bytes.fromhex("07000000 e703 01 616263 03000000 0300 0200 0200 03000000 00000000 05000000 feffffff")
    body += bytes.fromhex("0400000000000000") + b"key!"
    assert data == b"pvfl\x01\x01\x7e\x05\0\0\0" + TASK + len(body).to_bytes(4, "little") + body
    header, message = decode(data, [Empty, Full], max_length=1 << 10)
    assert (header.kind, header.sender, header.task) == (Full.KIND, 5, TASK)
    assert message == FULL


def test_a_secret_field_stays_out_of_the_repr() -> None:
    assert "key!" not in repr(FULL)
    assert "secret" not in repr(FULL)


def test_a_blob_is_a_view_of_the_message_and_not_a_copy() -> None:
    data = bytearray(FULL.to_bytes(sender=5, task=TASK))
    message = Full.from_body(peek(data, max_length=1 << 10)[1])
    assert isinstance(message.secret, memoryview)
    assert message.secret.readonly
    data[-1] = ord("?")
    assert bytes(message.secret) == b"key?"


def test_views_of_other_formats_are_read_as_bytes() -> None:
    data = Empty().to_bytes(sender=1, task=TASK) + b"\0"
    view = memoryview(data).cast("I")  # 12 words of 4 bytes
    with pytest.raises(WireError, match="announces 0 bytes of body, 1 follow"):
        peek(view, max_length=100)
    assert Blob(8).write(np.array([1, 2], np.uint32)) == bytes.fromhex("0800000000000000 01000000 02000000")
    assert Blob(8).write(np.zeros(0, np.uint32)) == bytes(8)  # an empty view has no shape to cast


@pytest.mark.parametrize("cut", range(HEADER_BYTES + 45))
def test_every_truncation_is_refused(cut: int) -> None:
    data = FULL.to_bytes(sender=5, task=TASK)
    with pytest.raises(WireError):
        decode(data[:cut], [Full], max_length=1 << 10)
    if cut >= HEADER_BYTES:  # also where the header agrees
        body = data[HEADER_BYTES:cut]
        with pytest.raises(WireError, match="truncated"):
            Full.from_body(memoryview(body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d + b"\0", "announces"),
        (lambda d: b"Pvfl" + d[4:], "not a privfl message"),
        (lambda d: d[:4] + b"\x02" + d[5:], "of version 1"),
        (lambda d: d[:5] + b"\x03\x7e" + d[7:], "unexpected message kind 0x7e03"),
        (lambda d: d + bytes(1000), "at most 1000 allowed"),
        (lambda d: d[:HEADER_BYTES] + b"\0\0\0\0\xe8\x03" + d[HEADER_BYTES + 6 :], "1000 is above 999"),
    ],
)
def test_altered_messages_are_refused(change: Any, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(change(FULL.to_bytes(sender=5, task=TASK)), [Full, Empty], max_length=1000)


def test_left_over_bytes_in_the_body_are_refused() -> None:
    with pytest.raises(WireError, match="2 bytes too many"):
        Empty.from_body(memoryview(b"ab"))


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (U8, 256),
        (U8, -1),
        (U8, True),
        (U8, 1.0),
        (U8, np.uint8(1)),
        (U8, None),
        (Uint(2, 999), 1000),
        (CLIENT, SERVER),
        (Fixed(3), b"ab"),
        (Fixed(3), bytearray(b"abc")),
        (Fixed(3), "abc"),
        (Blob(3), b"abcd"),
        (Blob(3), "abc"),
        (Blob(3), None),
        (Blob(3), memoryview(b"abcdef")[::2]),
        (ListOf(U8, 2), (1, 2, 3)),
        (ListOf(U8, 2), (1, 300)),
        (ListOf(U8, 2), {1, 2}),
        (ListOf(U8, 2), 5),
        (IdSet(3), (2, 1)),
        (IdSet(3), (1, 1)),
        (IdSet(3), (1, "a")),
        (IdSet(3), (1, 2, 3, 4)),
        (IdSet(3), frozenset((1, 2))),
        (IdSet(3), (SERVER,)),
        (Struct(Inner), (1, b"abc")),
        (Struct(Inner), FULL),
    ],
)
def test_what_could_not_be_read_back_cannot_be_written(codec: Any, value: Any) -> None:
    with pytest.raises(WireError):
        codec.write(value)


@pytest.mark.parametrize(
    ("codec", "data", "message"),
    [
        (Blob(3), U64.write(4) + b"abcd", "4 bytes announced"),
        (Blob(1 << 40), U64.write(1 << 39) + b"abcd", "truncated"),
        (ListOf(U8, 2), U32.write(3) + b"abc", "3 items announced"),
        (ListOf(U8, 1 << 31), U32.write(1 << 30) + b"abc", "truncated"),
        (IdSet(3), U32.write(2) + U32.write(2) + U32.write(1), "strictly increasing"),
        (IdSet(3), U32.write(2) + U32.write(2) + U32.write(2), "strictly increasing"),
        (IdSet(3), U32.write(1) + U32.write(SERVER), "above"),
    ],
)
def test_what_is_not_canonical_cannot_be_read(codec: Any, data: bytes, message: str) -> None:
    with pytest.raises(WireError, match=message):
        codec.read(Reader(data))


def test_a_header_needs_a_digest_and_a_sender_of_32_bits() -> None:
    with pytest.raises(ConfigError, match="32 bytes, not 31"):
        Empty().to_bytes(sender=1, task=TASK[:31])
    with pytest.raises(WireError, match="not an integer"):
        Empty().to_bytes(sender=SERVER + 1, task=TASK)
    assert peek(Empty().to_bytes(sender=SERVER, task=TASK), max_length=47)[0].sender == SERVER


def test_messages_are_frozen_and_slotted() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.number = 1  # type: ignore[misc]
    assert not hasattr(FULL, "__dict__")
