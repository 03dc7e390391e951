"""The state of the server of a CKKS sum between two messages, as canonical bytes.

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
from privfl.wire import CLIENT, U8, U32, Blob, Fixed, IdSet, ListOf, Reader, Struct, read_fields, wired

_LABEL: Final = b"privfl/1 ckks-sum server state"
_IDS: Final = IdSet(MAX_CLIENTS)


@dataclass(frozen=True, slots=True)
class Blame:
    """A client whose message was refused.

    Attributes:
        client: The client.
        reason: The broken rule, as UTF-8.
    """

    client: int = wired(CLIENT)
    reason: bytes | memoryview = wired(Blob(1 << 20))


@dataclass(frozen=True, slots=True)
class ServerForm:
    """Everything that changes in a server session; a list of one or none stands for an optional value.

    Attributes:
        step: The position of the state in the table.
        awaiting: The clients whose message is awaited.
        answered: The clients that answered in this step.
        blamed: The clients whose message was refused.
        adverts: The adverts so far.
        dealer: The dealer's advert.
        dealt: The dealer's message.
        key: The id of the session key; zeros before there is one.
        headers: The headers of the frames in the sum.
        votes: The signatures on the survivor list.
        openers: The clients that may still open, in order.
        pending: The opener that was asked.
        total: The sum of the blocks so far.
    """

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
    """Return the canonical bytes of `form`, bound to the task's digest.

    Args:
        form: The state.
        task: The digest of the task, 32 bytes.
    """
    return pack_state(_LABEL, task, form)


def load_form(data: bytes, task: bytes) -> ServerForm:
    """Read a server's saved state from `data`.

    Args:
        data: Bytes from `dump_form`.
        task: The digest of the task, 32 bytes.

    Raises:
        StateError: The bytes were altered or belong to another task.
    """
    body = unpack_state(_LABEL, task, data)
    try:
        reader = Reader(body)
        form = read_fields(ServerForm, reader)
        reader.done()
    except WireError as error:
        raise StateError(f"the state is not in its canonical form: {error}") from error
    return form
