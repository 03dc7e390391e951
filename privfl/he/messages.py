"""The messages of ckks-sum/1; no serialized form of TenSEAL or SEAL ever crosses the wire."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from privfl.crypto import KeyDirectory, SigningKey
from privfl.crypto.sealed import SEAL_OVERHEAD
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.sums.base import MAX_CLIENTS
from privfl.wire import CLIENT, DIGEST_BYTES, Addressed, Blob, ClientId, Fixed, IdSet, ListOf, Message, Struct, wired

NAME: Final = "ckks-sum/1"
NO_KEY: Final = bytes(32)
"""The key id of a client that holds no session key."""

TAG_BYTES: Final = 16
BOX_BYTES: Final = 32 + SEAL_OVERHEAD
_BLOB: Final = Blob((1 << 32) - 1)
_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Advert:
    """A client's fresh key agreement key, signed.

    Attributes:
        client: The client.
        public: Its X25519 key.
        held: The id of the session key of which it reserved a use; zeros if none.
        signature: Its signature on the two.
    """

    client: ClientId = wired(CLIENT)
    public: bytes = wired(Fixed(32))
    held: bytes = wired(Fixed(32))
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))

    @classmethod
    def make(cls, client: ClientId, public: bytes, held: bytes, *, task: bytes, signing: SigningKey) -> Advert:
        """Return a signed advert.

        Args:
            client: The advertising client.
            public: Its X25519 key for this sum, 32 bytes.
            held: The id of the session key that it reserved a use of, or `NO_KEY`.
            task: The task's digest, 32 bytes.
            signing: The client's signing key.
        """
        return cls(client, public, held, signing.sign("ckks-sum advert", task, _id(client), public, held))

    def verify(self, task: bytes, directory: KeyDirectory) -> None:
        """Check that the advert's client signed it for this task.

        Args:
            task: The task's digest, 32 bytes.
            directory: The clients' signing keys.

        Raises:
            RemoteProtocolError: The signature does not fit.
        """
        key = directory.verify_key(self.client)
        parts = (task, _id(self.client), self.public, self.held)
        key.verify(self.signature, "ckks-sum advert", *parts, sender=self.client)


@dataclass(frozen=True, slots=True)
class Box:
    """A session key sealed for one client.

    Attributes:
        client: The client that can open it.
        content: The sealed key.
    """

    client: ClientId = wired(CLIENT)
    content: bytes = wired(Fixed(BOX_BYTES))


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The signed part of a frame.

    Attributes:
        client: The client whose vector it is.
        params: The digest of the parameters.
        key: The id of the session key.
        seeds: The seeds of the ciphertexts.
        block: The hash of the c0 block.
        tag: The tag of the c0 block.
        signature: The client's signature on all of these.
    """

    client: ClientId = wired(CLIENT)
    params: bytes = wired(Fixed(DIGEST_BYTES))
    key: bytes = wired(Fixed(32))
    seeds: bytes | memoryview = wired(_BLOB)
    block: bytes = wired(Fixed(DIGEST_BYTES))
    tag: bytes = wired(Fixed(TAG_BYTES))
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))

    def signed(self) -> bytes:
        """Return the bytes that are signed after the task's digest: all except the signature, the seeds as a hash."""
        return b"".join((_id(self.client), self.params, self.key, digest(self.seeds), self.block, self.tag))

    def sign(self, task: bytes, signing: SigningKey) -> FrameHeader:
        """Return this header with its client's signature.

        Args:
            task: The task's digest, 32 bytes.
            signing: The client's signing key.
        """
        return dataclasses.replace(self, signature=signing.sign("ckks-sum frame", task, self.signed()))

    def detached(self) -> FrameHeader:
        """Return an equal header that does not keep its message in memory."""
        return dataclasses.replace(self, seeds=bytes(self.seeds))

    def verify(self, task: bytes, directory: KeyDirectory) -> None:
        """Check that the header's client signed it for this task.

        Args:
            task: The task's digest, 32 bytes.
            directory: The clients' signing keys.

        Raises:
            RemoteProtocolError: The signature does not fit.
        """
        key = directory.verify_key(self.client)
        key.verify(self.signature, "ckks-sum frame", task, self.signed(), sender=self.client)


@dataclass(frozen=True, slots=True)
class Vote:
    """One client's signature on the survivor list.

    Attributes:
        client: The client.
        signature: Its signature.
    """

    client: ClientId = wired(CLIENT)
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class Advertise(Message):
    """Client, first message."""

    KIND: ClassVar[int] = 0x0301
    advert: Advert = wired(Struct(Advert))


@dataclass(frozen=True, slots=True)
class AskDealer(Addressed):
    """Server to one client: deal a session key to these.

    Attributes:
        receiver: The client that deals.
        adverts: The adverts of all clients that take part.
    """

    KIND: ClassVar[int] = 0x0302
    adverts: tuple[Advert, ...] = wired(ListOf(Struct(Advert), MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class Deal(Message):
    """Dealer: a fresh session key for each other client.

    Attributes:
        key: The id of the key.
        signature: The dealer's signature on it.
        boxes: The key in one box for each other client.
    """

    KIND: ClassVar[int] = 0x0303
    key: bytes = wired(Fixed(32))
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))
    boxes: tuple[Box, ...] = wired(ListOf(Struct(Box), MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class Dealt(Addressed):
    """Server to each client: its part of the deal.

    Attributes:
        receiver: The client whose part it is.
        dealer: The dealer's advert.
        key: The id of the key.
        signature: The dealer's signature on it.
        box: This client's box; the dealer gets none.
    """

    KIND: ClassVar[int] = 0x0304
    dealer: Advert = wired(Struct(Advert))
    key: bytes = wired(Fixed(32))
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))
    box: tuple[Box, ...] = wired(ListOf(Struct(Box), 1))


@dataclass(frozen=True, slots=True)
class UseKey(Message):
    """Server to each client: all have reserved a use of this key, nobody needs to deal."""

    KIND: ClassVar[int] = 0x0305
    key: bytes = wired(Fixed(32))


@dataclass(frozen=True, slots=True)
class Frame(Message):
    """Client: its encrypted vector.

    Attributes:
        header: The signed part.
        block: The first half of the ciphertext (c0). The other half follows from the seeds in the header.
    """

    KIND: ClassVar[int] = 0x0306
    header: FrameHeader = wired(Struct(FrameHeader))
    block: bytes | memoryview = wired(_BLOB)


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """Server to each: the clients whose frames are in the sum."""

    KIND: ClassVar[int] = 0x0307
    clients: tuple[ClientId, ...] = wired(IdSet(MAX_CLIENTS))


@dataclass(frozen=True, slots=True)
class Consent(Message):
    """Client: the one survivor list that it signs."""

    KIND: ClassVar[int] = 0x0308
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class AskOpener(Addressed):
    """Server to the opener: the summed block, with all that the opener checks.

    Attributes:
        receiver: The opener.
        headers: The headers of all frames in the sum.
        votes: The signatures on the survivor list.
        block: The one summed block.
    """

    KIND: ClassVar[int] = 0x0309
    headers: tuple[FrameHeader, ...] = wired(ListOf(Struct(FrameHeader), MAX_CLIENTS))
    votes: tuple[Vote, ...] = wired(ListOf(Struct(Vote), MAX_CLIENTS))
    block: bytes | memoryview = wired(_BLOB)


@dataclass(frozen=True, slots=True)
class Opened(Message):
    """Opener: the sum, rounded and with the opening applied.

    Attributes:
        signature: The opener's signature on it.
        total: The sum as words of the task's ring.
    """

    KIND: ClassVar[int] = 0x030A
    signature: bytes = wired(Fixed(SIGNATURE_BYTES))
    total: bytes | memoryview = wired(_BLOB)


def box_context(task: bytes, dealer: ClientId, receiver: ClientId, key: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the parts that the key of a box is bound to.

    Args:
        task: The task's digest, 32 bytes.
        dealer: The client that deals.
        receiver: The client that the box is for.
        key: The id of the session key, 32 bytes.
    """
    return task, _id(dealer), _id(receiver), key


def deal_parts(task: bytes, dealer: Advert, key: bytes) -> tuple[bytes, ...]:
    """Return the parts that a dealer signs.

    Args:
        task: The task's digest, 32 bytes.
        dealer: The dealer's advert.
        key: The id of the session key, 32 bytes.
    """
    return task, _id(dealer.client), dealer.public, key


def consent_parts(task: bytes, key: bytes, survivors: Iterable[ClientId]) -> tuple[bytes, ...]:
    """Return the parts that a client signs to consent to a survivor list.

    Args:
        task: The task's digest, 32 bytes.
        key: The id of the session key, 32 bytes.
        survivors: The list.
    """
    return task, key, b"".join(map(_id, survivors))


def transcript(task: bytes, headers: Iterable[FrameHeader]) -> bytes:
    """Return 32 bytes that name the sum, and hold nothing that a server could vary.

    Args:
        task: The task's digest, 32 bytes.
        headers: Every survivor's signed header, in order.
    """
    return digest(b"privfl/1 ckks-sum transcript", task, *(digest(header.signed()) for header in headers))


def digest(*parts: bytes | memoryview) -> bytes:
    """Return BLAKE2b-256 of the concatenation: the fastest standard hash where SHA-2 has no hardware."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()


def _id(client: ClientId) -> bytes:
    return client.to_bytes(_ID_BYTES, "little")
