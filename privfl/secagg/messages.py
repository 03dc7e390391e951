"""The nine messages of a masked sum, as they stand on the wire (header and integers as in privfl/wire.py).

Up is client to server, down is server to client. A *place* is an index into the roster, which is sorted by identity.

    kind    message            body
    0x0201  AdvertiseKeys  up    keys 64 bytes: mask key | box key (X25519 public); signature: blob of 64 bytes, or of
                               none in the semi-honest mode
    0x0202  Roster         down  entries: blob of n records, identities strictly increasing; a record is
                               identity u32 | keys 64 | signature 64 (absent in the semi-honest mode)
    0x0203  ShareKeys      up    seed_hash 32; boxes: blob, one box of 94 bytes for each neighbor, increasing
    0x0204  Boxes          down  receiver u32; sharers: bitmap over places; boxes: blob, the box from each neighbor that
                               shared, increasing
    0x0205  MaskedInput    up    check 16; values: blob, the masked vector, packed
    0x0206  Survivors      down  survivors: bitmap over places
    0x0207  ConsistencyCheck up  signature 64
    0x0208  Signatures     down  receiver u32; signers: bitmap over the receiver's neighbors; signatures: blob, 64 bytes
                               for each
    0x0209  Unmask         up    dealers: bitmap over the dealers whose share is due; shares: blob, 33 bytes for each

A bitmap is count u32 | ceil(count / 8) bytes; member i is bit i mod 8 (least first) of byte i / 8, and the bits behind
the last member are zero. A box holds share of the mask key 33 | share of the self-mask seed 33.
The shares of the holder with identity i are the polynomials' values at i + 1 (privfl/crypto/shamir.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from privfl.crypto.sealed import SEAL_OVERHEAD, TAG_BYTES
from privfl.crypto.shamir import SHARE_BYTES
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import WireError
from privfl.sums.base import MAX_CLIENTS
from privfl.wire import U32, Addressed, Blob, Fixed, Message, Reader, wired

KEYS_BYTES: Final = 64
BOX_BYTES: Final = 2 * SHARE_BYTES + SEAL_OVERHEAD
HASH_BYTES: Final = 32

_RECORD_MAX: Final = 4 + KEYS_BYTES + SIGNATURE_BYTES
Bytes = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A subset of numbered members.

    Attributes:
        count: The number of all members.
        mask: The subset: bit i stands for member i.
    """

    count: int
    mask: int

    @classmethod
    def of(cls, count: int, members: Iterable[int]) -> Bitmap:
        """Return the bitmap with these members.

        Args:
            count: The number of all members.
            members: The numbers of the members in the subset.
        """
        data = bytearray(-(-count // 8))
        for i in members:
            data[i >> 3] |= 1 << (i & 7)
        return cls(count, int.from_bytes(data, "little"))

    def __contains__(self, member: int) -> bool:
        return bool(self.mask >> member & 1)

    def __iter__(self) -> Iterator[int]:
        return (i for i in range(self.count) if self.mask >> i & 1)

    def __len__(self) -> int:
        return self.mask.bit_count()

    def to_bytes(self) -> bytes:
        """The wire form, which is also what clients sign."""
        return U32.write(self.count) + self.mask.to_bytes(-(-self.count // 8), "little")


@dataclass(frozen=True, slots=True)
class BitmapCodec:
    """A `Bitmap` of at most `max_count` members."""

    max_count: int

    def write(self, value: Any) -> bytes:
        if not isinstance(value, Bitmap) or value.count > self.max_count or value.mask >> value.count:
            raise WireError(f"not a bitmap of at most {self.max_count} members")
        return value.to_bytes()

    def read(self, reader: Reader) -> Bitmap:
        count = U32.read(reader)
        if count > self.max_count:
            raise WireError(f"a bitmap of {count} members, at most {self.max_count} allowed")
        mask = int.from_bytes(reader.take(-(-count // 8)), "little")
        if mask >> count:
            raise WireError("the bits behind a bitmap's last member are not zero")
        return Bitmap(count, mask)


MEMBERS: Final = BitmapCodec(MAX_CLIENTS)


@dataclass(frozen=True, slots=True)
class AdvertiseKeys(Message):
    """A client's fresh public keys for this sum.

    Attributes:
        keys: Its mask key and its box key, 64 bytes.
        signature: Its signature on them; empty in the semi-honest mode.
    """

    KIND: ClassVar[int] = 0x0201
    keys: bytes = wired(Fixed(KEYS_BYTES))
    signature: Bytes = wired(Blob(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Roster(Message):
    """Everybody's advertisement, the same bytes for all."""

    KIND: ClassVar[int] = 0x0202
    entries: Bytes = wired(Blob(_RECORD_MAX * MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class ShareKeys(Message):
    """A client's two secrets, shared among its holders.

    Attributes:
        seed_hash: The hash that a reconstructed seed must have.
        boxes: One box for each neighbor, increasing.
    """

    KIND: ClassVar[int] = 0x0203
    seed_hash: bytes = wired(Fixed(HASH_BYTES))
    boxes: Bytes = wired(Blob(BOX_BYTES * MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class Boxes(Addressed):
    """The boxes for one receiver.

    Attributes:
        receiver: The client that can open them.
        sharers: The clients that shared.
        boxes: The box from each neighbor that shared, increasing.
    """

    KIND: ClassVar[int] = 0x0204
    sharers: Bitmap = wired(MEMBERS)
    boxes: Bytes = wired(Blob(BOX_BYTES * MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class MaskedInput(Message):
    """A client's vector under all its masks.

    Attributes:
        check: A tag that separates a damaged upload from a whole one.
        values: The masked vector, packed.
    """

    KIND: ClassVar[int] = 0x0205
    check: bytes = wired(Fixed(TAG_BYTES))
    values: Bytes = wired(Blob(1 << 35))


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """The list of clients whose vectors are in the sum."""

    KIND: ClassVar[int] = 0x0206
    survivors: Bitmap = wired(MEMBERS)


@dataclass(frozen=True, slots=True)
class ConsistencyCheck(Message):
    """A client's word that this is the one list of survivors it saw."""

    KIND: ClassVar[int] = 0x0207
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Signatures(Addressed):
    """The signatures of the receiver's neighbors on the survivor list.

    Attributes:
        receiver: The client whose neighbors signed.
        signers: The neighbors that signed.
        signatures: Their signatures, 64 bytes each.
    """

    KIND: ClassVar[int] = 0x0208
    signers: Bitmap = wired(MEMBERS)
    signatures: Bytes = wired(Blob(SIGNATURE_BYTES * MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class Unmask(Message):
    """One share of each dealer: of its self-mask seed if it survived, else of its mask key.

    Attributes:
        dealers: Those whose share is in the message.
        shares: The shares, 33 bytes each.
    """

    KIND: ClassVar[int] = 0x0209
    dealers: Bitmap = wired(MEMBERS)
    shares: Bytes = wired(Blob(SHARE_BYTES * MAX_CLIENTS), secret=True)


MESSAGES: Final[tuple[type[Message], ...]] = (
    AdvertiseKeys,
    Roster,
    ShareKeys,
    Boxes,
    MaskedInput,
    Survivors,
    ConsistencyCheck,
    Signatures,
    Unmask,
)
"""All of them, in the order of the protocol."""


def pieces(blob: Bytes, size: int, count: int, what: str) -> list[bytes]:
    """Return a blob as pieces of one size.

    Args:
        blob: The bytes.
        size: The bytes of a piece.
        count: The number of pieces.
        what: The name of the blob in errors.

    Raises:
        WireError: The blob has any other length.
    """
    data = bytes(blob)
    if len(data) != size * count:
        raise WireError(f"{len(data)} bytes of {what}, where {count} of {size} bytes are due")
    return [data[i : i + size] for i in range(0, len(data), size)]
