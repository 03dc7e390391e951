"""Canonical bytes: every message has exactly one encoding, and every other byte string is a `WireError`.

A message is a frozen, slotted dataclass whose fields name their codecs:

    @dataclass(frozen=True, slots=True)
    class Upload(Message):
        KIND: ClassVar[int] = 0x0101
        values: bytes = wired(Blob(max_length=1 << 34))

On the wire it is a fixed header of 47 bytes, then the fields in order, then nothing:

    magic "pvfl" | version u8 | kind u16 | sender u32 | task 32 bytes | body length u32

All integers are little-endian. `peek` reads the header alone, so a receiver can check length, kind, sender and
task before it parses a single field.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

from privfl.errors import ConfigError, WireError

ClientId = int
"""A client's identity: an integer in [0, 2^32 - 2]."""

SERVER: Final = 0xFFFF_FFFF
"""The sender of the server's messages; never a client."""

MAGIC: Final = b"pvfl"
VERSION: Final = 1
DIGEST_BYTES: Final = 32
_T = TypeVar("_T")
_HEADER: Final = struct.Struct("<4sBHI32sI")
HEADER_BYTES: Final = _HEADER.size


class Reader:
    """A cursor over a buffer: it takes bytes from the front, and never beyond the end."""

    __slots__ = ("_at", "_view")

    def __init__(self, data: bytes | memoryview) -> None:
        self._view = _octets(data)
        self._at = 0

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes, without a copy."""
        end = self._at + count
        if end > len(self._view):
            raise WireError(f"truncated: {count} bytes expected, {len(self._view) - self._at} left")
        part = self._view[self._at : end]
        self._at = end
        return part

    def done(self) -> None:
        """Raise `WireError` if bytes are left over."""
        if self._at != len(self._view):
            raise WireError(f"{len(self._view) - self._at} bytes too many")


class Codec(Protocol):
    """The encoding of one field. `write` must refuse every value that `read` would not return."""

    def write(self, value: Any) -> bytes | memoryview:
        """Return the one encoding of `value`. Raises `WireError` outside the codec's range."""
        ...

    def read(self, reader: Reader) -> Any:
        """Return the value at the front of `reader`. Raises `WireError` when it is not canonical."""
        ...


@dataclass(frozen=True, slots=True)
class Uint:
    """An unsigned integer of fixed size.

    Attributes:
        size: The number of bytes, little-endian.
        limit: The maximum; None allows every value of that size.
    """

    size: int
    limit: int | None = None

    def write(self, value: Any) -> bytes:
        top = (1 << 8 * self.size) - 1 if self.limit is None else self.limit
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= top:
            raise WireError(f"{value!r} is not an integer in [0, {top}]")
        return value.to_bytes(self.size, "little")

    def read(self, reader: Reader) -> int:
        value = int.from_bytes(reader.take(self.size), "little")
        if self.limit is not None and value > self.limit:
            raise WireError(f"{value} is above {self.limit}")
        return value


U8: Final = Uint(1)
U16: Final = Uint(2)
U32: Final = Uint(4)
U64: Final = Uint(8)
CLIENT: Final = Uint(4, SERVER - 1)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly `size` bytes, as bytes."""

    size: int

    def write(self, value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) != self.size:
            raise WireError(f"{self.size} bytes expected")
        return value

    def read(self, reader: Reader) -> bytes:
        return bytes(reader.take(self.size))


@dataclass(frozen=True, slots=True)
class Blob:
    """At most `max_length` bytes behind a u64 length, as a read-only memoryview of the message (no copy)."""

    max_length: int

    def write(self, value: Any) -> bytes | memoryview:
        return b"".join(self.pieces(value))

    def pieces(self, value: Any) -> tuple[bytes | memoryview, memoryview]:
        """Return the parts that `write` joins: long vectors need not be copied twice."""
        view = _octets(value)
        if view.nbytes > self.max_length:
            raise WireError(f"{view.nbytes} bytes, at most {self.max_length} allowed")
        return U64.write(view.nbytes), view

    def read(self, reader: Reader) -> memoryview:
        length = U64.read(reader)
        if length > self.max_length:
            raise WireError(f"{length} bytes announced, at most {self.max_length} allowed")
        return reader.take(length).toreadonly()


@dataclass(frozen=True, slots=True)
class ListOf:
    """A u32 count, then the items, as a tuple.

    Attributes:
        item: The codec of one item.
        max_count: The maximum of the count.
    """

    item: Codec
    max_count: int

    def write(self, value: Any) -> bytes:
        items = _items(value)
        if len(items) > self.max_count:
            raise WireError(f"{len(items)} items, at most {self.max_count} allowed")
        return b"".join((U32.write(len(items)), *map(self.item.write, items)))

    def read(self, reader: Reader) -> tuple[Any, ...]:
        count = U32.read(reader)
        if count > self.max_count:
            raise WireError(f"{count} items announced, at most {self.max_count} allowed")
        return tuple(self.item.read(reader) for _ in range(count))


@dataclass(frozen=True, slots=True)
class IdSet:
    """A set of clients: a u32 count, then identities in strictly increasing order, as a tuple."""

    max_count: int

    def write(self, value: Any) -> bytes:
        ids = _items(value)
        data = ListOf(CLIENT, self.max_count).write(ids)
        _check_increasing(ids)
        return data

    def read(self, reader: Reader) -> tuple[ClientId, ...]:
        ids = ListOf(CLIENT, self.max_count).read(reader)
        _check_increasing(ids)
        return ids


@dataclass(frozen=True, slots=True)
class Struct:
    """A nested dataclass whose fields are `wired`."""

    of: type[Any]

    def write(self, value: Any) -> bytes:
        if type(value) is not self.of:
            raise WireError(f"a {self.of.__name__} expected, not {type(value).__name__}")
        return write_fields(value)

    def read(self, reader: Reader) -> Any:
        return read_fields(self.of, reader)


def wired(codec: Codec, *, secret: bool = False) -> Any:
    """Return a dataclass field that `codec` encodes and decodes.

    Args:
        codec: The encoding of the field.
        secret: Keep the field out of the repr.
    """
    return dataclasses.field(repr=not secret, metadata={"codec": codec})


def write_fields(value: Any) -> bytes:
    """Return the fields of a wired dataclass as bytes, in order."""
    return b"".join(field_pieces(value))


def field_pieces(value: Any) -> Iterator[bytes | memoryview]:
    """Yield the parts of `write_fields`, for long fields that a caller joins with more."""
    for name, codec in _codecs(type(value)):
        field = getattr(value, name)
        if isinstance(codec, Blob):
            yield from codec.pieces(field)
        else:
            yield codec.write(field)


def read_fields(of: type[_T], reader: Reader) -> _T:
    """Return a wired dataclass read from the front of `reader`.

    Args:
        of: The dataclass.
        reader: The bytes.

    Raises:
        WireError: The bytes are not the canonical form.
    """
    return of(**{name: codec.read(reader) for name, codec in _codecs(of)})


def check_client(client: object) -> ClientId:
    """Return `client` as an int; numpy integers are taken too. Raises `ConfigError` for anything else."""
    try:
        number = operator.index(client)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(client, bool) or not 0 <= number < SERVER:
        raise ConfigError(
            f"an identity is an integer in [0, 2^32 - 2], not {client!r}; privfl.sums.number_clients maps other names"
        )
    return number


@dataclass(frozen=True, slots=True)
class Header:
    """The fields in front of every body.

    Attributes:
        kind: The kind of the message, a `Message.KIND`.
        sender: The client that sent it, or `SERVER`.
        task: The digest of the task that it belongs to, 32 bytes.
    """

    kind: int
    sender: int
    task: bytes


class Message:
    """A wired dataclass with a `KIND` of its own: the high byte is the protocol, the low byte is the message.

    High bytes in use: 0x01 plain sum, 0x02 masked sum, 0x03 CKKS sum, 0x04 frames of a federation (`privfl.fl.frames`).
    """

    __slots__ = ()
    KIND: ClassVar[int]

    def to_bytes(self, *, sender: int, task: bytes) -> bytes:
        """Return the canonical encoding.

        Args:
            sender: The client that sends it, or `SERVER`.
            task: The digest of the task that it belongs to, 32 bytes.
        """
        if len(task) != DIGEST_BYTES:
            raise ConfigError(f"a task digest has {DIGEST_BYTES} bytes, not {len(task)}")
        pieces = list(field_pieces(self))
        header = _HEADER.pack(MAGIC, VERSION, self.KIND, _u32(sender), task, _u32(sum(map(len, pieces))))
        return b"".join((header, *pieces))

    @classmethod
    def from_body(cls, body: memoryview) -> Self:
        """Return the message of this kind with exactly this body. Raises `WireError` for any other bytes."""
        reader = Reader(body)
        message = read_fields(cls, reader)
        reader.done()
        return message


@dataclass(frozen=True, slots=True)
class Addressed(Message):
    """A message of the server whose body differs by receiver, and therefore begins with the receiver's identity.

    Attributes:
        receiver: The only client that the message is for.
    """

    receiver: ClientId = wired(CLIENT)

    @staticmethod
    def receiver_of(body: memoryview) -> ClientId:
        """Return the receiver that an unparsed body names. Raises `WireError` if it names none."""
        receiver: ClientId = CLIENT.read(Reader(body))
        return receiver


def peek(data: bytes | memoryview, *, max_length: int) -> tuple[Header, memoryview]:
    """Return the header and the unparsed body of one message.

    Args:
        data: The whole message.
        max_length: The maximum of its length in bytes.

    Raises:
        WireError: The header is not canonical, or the length is another one.
    """
    view = _octets(data)
    if view.nbytes > max_length:
        raise WireError(f"{view.nbytes} bytes, at most {max_length} allowed")
    if view.nbytes < HEADER_BYTES:
        raise WireError(f"{view.nbytes} bytes are shorter than the header of {HEADER_BYTES}")
    magic, version, kind, sender, task, length = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION:
        raise WireError(f"not a privfl message of version {VERSION}")
    if length != view.nbytes - HEADER_BYTES:
        raise WireError(f"the header announces {length} bytes of body, {view.nbytes - HEADER_BYTES} follow")
    return Header(kind, sender, task), view[HEADER_BYTES:].toreadonly()


def decode(data: bytes | memoryview, kinds: Sequence[type[Message]], *, max_length: int) -> tuple[Header, Message]:
    """Return header and content of one message. A receiver that checks sender and task itself uses `peek`.

    Args:
        data: The whole message.
        kinds: The kinds of message that are allowed.
        max_length: The maximum of its length in bytes.

    Raises:
        WireError: The bytes are not the canonical form of any of `kinds`.
    """
    header, body = peek(data, max_length=max_length)
    for kind in kinds:
        if header.kind == kind.KIND:
            return header, kind.from_body(body)
    raise WireError(f"unexpected message kind {header.kind:#06x}")


_KNOWN: Final[dict[type[Any], list[tuple[str, Codec]]]] = {}


def _codecs(of: type[Any]) -> list[tuple[str, Codec]]:
    if of not in _KNOWN:
        _KNOWN[of] = [(field.name, field.metadata["codec"]) for field in dataclasses.fields(of)]
    return _KNOWN[of]


def _check_increasing(ids: tuple[int, ...]) -> None:
    if any(a >= b for a, b in itertools.pairwise(ids)):
        raise WireError("identities must be strictly increasing")


def _octets(value: Any) -> memoryview:
    try:
        view = memoryview(value)
        return view.cast("B") if view.nbytes else memoryview(b"")  # an empty view cannot be cast
    except TypeError as error:  # no buffer, or one that is not contiguous
        raise WireError(f"contiguous bytes expected, not {type(value).__name__}") from error


def _items(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):  # a set has no order, and an iterator no second encoding
        raise WireError(f"a tuple or list expected, not {type(value).__name__}")
    return tuple(value)


def _u32(value: int) -> int:
    U32.write(value)
    return value
