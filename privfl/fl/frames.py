"""Frames between a server and a site: signed bytes that any transport may carry, one down and one up in each step.

A frame is a canonical message (privfl/wire.py) with an Ed25519 signature over its SHA-256 behind it
(protocols/site-frames). The header names the sender and, in the place of a task, the digest of the charter. The party
that opens a frame checks length, kind, sender and charter, then the signature, and parses the fields last. The model
travels next to the first frame as raw bytes, because the plan in the frame names its hash.

A transport, or an app that a server delivers, needs no key: it cannot make a frame, and it cannot change one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import numpy as np

from privfl.codec import Vector
from privfl.crypto import SigningKey, VerifyKey
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import RemoteProtocolError, WireError
from privfl.fl.bases import model_hash_of
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.planwire import MAX_PLAN_BYTES
from privfl.wire import (
    CLIENT,
    HEADER_BYTES,
    SERVER,
    U8,
    U32,
    U64,
    Blob,
    ClientId,
    Fixed,
    ListOf,
    Message,
    Reader,
    peek,
    read_fields,
    wired,
    write_fields,
)

MAX_FRAME_BYTES: Final = (1 << 32) - 1
"""The largest frame; its body length is a u32."""

MAX_RECEIPT_BYTES: Final = 1 << 12
MAX_RECEIPTS: Final = 100_000
NONCE_BYTES: Final = 16

REFUSAL: Final = b"pvfl\x01refused"
"""The one answer of a site that refuses a frame. It has no field, so it reveals no reason; the site's log states it."""

_DOWN: Final = "frame to a site"
_UP: Final = "frame of a site"
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Down(Message):
    """A frame of the server to one site.

    Attributes:
        round: The round.
        attempt: The attempt of the round.
        step: The exchange of the round, from 0.
        client: The site that it is for.
        expires: The time after which no site takes it for the first time, in seconds since 1970 (UTC).
        body: In step 0 an `Invitation`, later the message of the sum's server.
    """

    KIND: ClassVar[int] = 0x0401
    round: int = wired(U32)
    attempt: int = wired(U32)
    step: int = wired(U8)
    client: ClientId = wired(CLIENT)
    expires: int = wired(U64)
    body: bytes | memoryview = wired(Blob(MAX_FRAME_BYTES))


@dataclass(frozen=True, slots=True)
class Up(Message):
    """The answer of one site; the sender in its header is the site.

    Attributes:
        round: The round of the frame that it answers.
        attempt: The attempt of that frame.
        step: The step of that frame.
        request: The SHA-256 of that frame, its nonce included.
        body: The message of the sum's client.
        receipts: The receipts that the step made, oldest first: one in step 0 and one in the last step.
    """

    KIND: ClassVar[int] = 0x0402
    round: int = wired(U32)
    attempt: int = wired(U32)
    step: int = wired(U8)
    request: bytes = wired(Fixed(_HASH_BYTES))
    body: bytes | memoryview = wired(Blob(MAX_FRAME_BYTES))
    receipts: Sequence[bytes | memoryview] = wired(ListOf(Blob(MAX_RECEIPT_BYTES), 2))


@dataclass(frozen=True, slots=True)
class Invitation:
    """The body of a frame of step 0.

    Attributes:
        plan: The canonical bytes of the round's plan.
        nonce: 16 fresh random bytes of the server, which the site's answer signs with the frame.
        issued: The time at which the server made it, in milliseconds since 1970 (UTC).
        software: The version of privfl at the server, ASCII.
        receipts: The newest receipt of every site that the server knows of.
    """

    plan: bytes | memoryview = wired(Blob(MAX_PLAN_BYTES))
    nonce: bytes = wired(Fixed(NONCE_BYTES))
    issued: int = wired(U64)
    software: bytes | memoryview = wired(Blob(64))
    receipts: Sequence[bytes | memoryview] = wired(ListOf(Blob(MAX_RECEIPT_BYTES), MAX_RECEIPTS))

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return write_fields(self)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Invitation:
        """The invitation from its canonical bytes; raises `WireError` for any others."""
        reader = Reader(data)
        invitation = read_fields(cls, reader)
        reader.done()
        return invitation


def frame_hash(frame: bytes) -> bytes:
    """The 32 bytes by which an answer cites the frame that it answers: SHA-256 of the whole frame."""
    return hashlib.sha256(frame).digest()


def charter_of(frame: bytes) -> bytes:
    """The digest of the charter that a frame names, before anything is verified.

    Raises:
        WireError: The bytes are no frame, or `REFUSAL`.
    """
    header, _ = peek(memoryview(frame)[:-SIGNATURE_BYTES], max_length=MAX_FRAME_BYTES)
    return header.task


def seal_down(down: Down, key: SigningKey, *, charter: bytes) -> bytes:
    """Return the frame of a server.

    Args:
        down: The content.
        key: The server's signing key.
        charter: The digest of the charter.
    """
    return _seal(down.to_bytes(sender=SERVER, task=charter), key, _DOWN)


def open_down(frame: bytes, key: VerifyKey, *, charter: bytes, me: ClientId, max_bytes: int = MAX_FRAME_BYTES) -> Down:
    """Return the verified content of a server's frame.

    Args:
        frame: The bytes as they arrived.
        key: The server's key, as this site pinned it.
        charter: The digest of the charter.
        me: This site.
        max_bytes: The largest frame that is read.

    Raises:
        WireError: The bytes are no such frame, name another charter or another site.
        RemoteProtocolError: The signature does not verify.
    """
    body = _open(frame, key, _DOWN, Down, sender=SERVER, charter=charter, max_bytes=max_bytes)
    down = Down.from_body(body)
    if down.client != me:
        raise WireError(f"the frame is for client {down.client}")
    return down


def seal_up(up: Up, key: SigningKey, *, charter: bytes, me: ClientId) -> bytes:
    """Return the frame of a site.

    Args:
        up: The content.
        key: The site's signing key.
        charter: The digest of the charter.
        me: The site.
    """
    return _seal(up.to_bytes(sender=me, task=charter), key, _UP)


def open_up(
    frame: bytes, key: VerifyKey, *, charter: bytes, client: ClientId, request: bytes, max_bytes: int = MAX_FRAME_BYTES
) -> Up:
    """Return the verified answer of a site to one frame.

    Args:
        frame: The bytes as they arrived.
        key: The site's key, from the directory.
        charter: The digest of the charter.
        client: The site that was asked.
        request: The frame that it answers.
        max_bytes: The largest frame that is read.

    Raises:
        RemoteProtocolError: The site refused, or this is not its answer to `request`. Only this client drops out.
    """
    if frame == REFUSAL:
        raise RemoteProtocolError("the site refuses; the log of the site states the reason", sender=client)
    try:
        body = _open(frame, key, _UP, Up, sender=client, charter=charter, max_bytes=max_bytes)
        up = Up.from_body(body)
    except WireError as error:
        raise RemoteProtocolError(f"not an answer of this site: {error}", sender=client) from error
    if up.request != frame_hash(request):
        raise RemoteProtocolError("the site answered another frame", sender=client)
    return up


def model_to_bytes(model: Vector) -> bytes:
    """The bytes of a model next to a frame of step 0: its entries, little-endian, float32 or float64."""
    return model.astype(model.dtype.newbyteorder("<"), copy=False).tobytes()


def model_from_bytes(data: bytes, plan: RoundPlan, client: ClientId) -> Vector:
    """Return the model that a plan names, read-only.

    Args:
        data: The bytes that arrived next to the frame.
        plan: The plan. Its encoding gives the length, except in a plan that evaluates; its hash decides.
        client: The site that trains from it.

    Raises:
        WireError: The bytes are not the plan's model.
    """
    length = plan.encoding.length
    for kind in ("<f4", "<f8"):
        entries, rest = divmod(len(data), np.dtype(kind).itemsize)
        if rest or not (entries == length or plan.evaluates):
            continue
        model = np.frombuffer(data, kind)
        if model_hash(model) == model_hash_of(plan, client):
            return model
    raise WireError(f"round {plan.round}: these {len(data)} bytes are not the model that the plan names")


class SiteEndpoint(Protocol):
    """The whole of a site, bytes in and bytes out: in this process, or behind a socket."""

    def answer(self, frame: bytes, model: bytes) -> bytes:
        """Return the site's frame, or `REFUSAL`. Equal bytes get equal bytes; nothing is raised for a bad frame.

        Args:
            frame: A server's frame.
            model: The model's bytes with a frame of step 0; empty later.
        """
        ...


def _seal(message: bytes, key: SigningKey, label: str) -> bytes:
    return message + key.sign(label, hashlib.sha256(message).digest())


def _open(
    frame: bytes, key: VerifyKey, label: str, kind: type[Message], *, sender: int, charter: bytes, max_bytes: int
) -> memoryview:
    """The unparsed body of a frame of this kind, sender and charter, once its signature is verified."""
    if not HEADER_BYTES + SIGNATURE_BYTES <= len(frame) <= max_bytes:
        raise WireError(f"a frame has {HEADER_BYTES + SIGNATURE_BYTES} to {max_bytes} bytes, not {len(frame)}")
    message = memoryview(frame)[:-SIGNATURE_BYTES]
    header, body = peek(message, max_length=max_bytes)
    if (header.kind, header.sender, header.task) != (kind.KIND, sender, charter):
        raise WireError("the header names another kind, sender or charter")
    blamed = None if sender == SERVER else sender
    key.verify(frame[-SIGNATURE_BYTES:], label, hashlib.sha256(message).digest(), sender=blamed)
    return body
