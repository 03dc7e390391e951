"""What the server of a CKKS sum holds between two messages, as canonical bytes.

The bytes are a label | task digest 32 | fields as in wire.py | SHA-256 of all that (privfl/sums/session.py). They hold
public keys, signatures, sealed boxes and residues; no key that opens anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privfl.errors import StateError, WireError
from privfl.he.messages import Advert, Deal, FrameHeader, Vote
from privfl.sums.base import MAX_CLIENTS
from privfl.sums.session import pack_state, unpack_state
from privfl.wire import CLIENT, U8, U32, Blob, Fixed, IdSet, ListOf, Reader, Struct, read_fields, wired, write_fields

_LABEL: Final = b"privfl/1 ckks-sum server state"
_IDS: Final = IdSet(MAX_CLIENTS)


@dataclass(frozen=True, slots=True)
class Blame:
    """A client whose message was refused, and why."""

    client: int = wired(CLIENT)
    reason: bytes | memoryview = wired(Blob(1 << 20))


@dataclass(frozen=True, slots=True)
class ServerForm:
    """Everything that changes in a server session; a list of one or none stands for an optional value."""

    step: int = wired(U8)
    awaiting: tuple[int, ...] = wired(_IDS)
    answered: tuple[int, ...] = wired(_IDS)
    blamed: tuple[Blame, ...] = wired(ListOf(Struct(Blame), MAX_CLIENTS))
    adverts: tuple[Advert, ...] = wired(ListOf(Struct(Advert), MAX_CLIENTS))
    dealer: tuple[Advert, ...] = wired(ListOf(Struct(Advert), 1))
    dealt: tuple[Deal, ...] = wired(ListOf(Struct(Deal), 1))
    key: bytes = wired(Fixed(32))
    headers: tuple[FrameHeader, ...] = wired(ListOf(Struct(FrameHeader), MAX_CLIENTS))
    votes: tuple[Vote, ...] = wired(ListOf(Struct(Vote), MAX_CLIENTS))
    openers: tuple[int, ...] = wired(_IDS)
    pending: int = wired(U32)
    total: bytes | memoryview = wired(Blob(1 << 36))


def dump_form(form: ServerForm, task: bytes) -> bytes:
    """The canonical bytes of `form`, bound to the task's digest."""
    return pack_state(_LABEL, task, write_fields(form))


def load_form(data: bytes, task: bytes) -> ServerForm:
    """The form in `data`; raises `StateError` for bytes that were altered or belong to another task."""
    body = unpack_state(_LABEL, task, data)
    try:
        reader = Reader(body)
        form = read_fields(ServerForm, reader)
        reader.done()
    except WireError as error:
        raise StateError(f"the state is not in its canonical form: {error}") from error
    return form
