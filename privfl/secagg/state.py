"""What a server holds between two messages, and its canonical bytes.

The bytes are "privfl/1 masked-sum server state" | session 32 | the fields of `_StateForm` as in wire.py | SHA-256 of
all that. They hold what the server has seen and nothing it has not: masked sums, sealed boxes, public keys, shares.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfl.errors import StateError, WireError
from privfl.ring import Words
from privfl.secagg.machine import SERVER_CLOSED, SERVER_DONE, server_table
from privfl.secagg.terms import Terms
from privfl.sums.base import MAX_CLIENTS
from privfl.wire import CLIENT, U8, Blob, ClientId, IdSet, ListOf, Reader, Struct, read_fields, wired, write_fields

_LABEL: Final = b"privfl/1 masked-sum server state"
_HASH_BYTES: Final = 32
_IDS: Final = IdSet(MAX_CLIENTS)


@dataclass(slots=True)
class ServerState:
    """Everything that changes in a server session.

    Dictionaries are by client: `boxes` holds what each dealer sent, `unmasks` each holder's last message. `total` is
    the running sum of masked vectors.
    """

    terms: Terms
    session: bytes
    step: str
    total: Words = field(repr=False)
    awaiting: set[ClientId]
    adverts: dict[ClientId, bytes] = field(default_factory=dict)
    hashes: dict[ClientId, bytes] = field(default_factory=dict)
    boxes: dict[ClientId, bytes] = field(default_factory=dict)
    uploaded: set[ClientId] = field(default_factory=set)
    signatures: dict[ClientId, bytes] = field(default_factory=dict)
    unmasks: dict[ClientId, bytes] = field(default_factory=dict, repr=False)
    blamed: dict[ClientId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    client: int = wired(CLIENT)
    data: bytes | memoryview = wired(Blob(1 << 32))


@dataclass(frozen=True, slots=True)
class _StateForm:
    step: int = wired(U8)
    total: bytes | memoryview = wired(Blob(1 << 36))
    awaiting: tuple[int, ...] = wired(_IDS)
    uploaded: tuple[int, ...] = wired(_IDS)
    adverts: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    hashes: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    boxes: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    signatures: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    unmasks: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    blamed: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))


def dump_state(state: ServerState) -> bytes:
    """The canonical bytes; a session that has opened its sum or given up has none (`StateError`)."""
    if state.step in (SERVER_DONE, SERVER_CLOSED):
        raise StateError("this sum is over, and there is nothing to resume")
    form = _StateForm(
        _steps(state.terms).index(state.step),
        state.total.tobytes(),
        tuple(sorted(state.awaiting)),
        tuple(sorted(state.uploaded)),
        _entries(state.adverts),
        _entries(state.hashes),
        _entries(state.boxes),
        _entries(state.signatures),
        _entries(state.unmasks),
        _entries({client: reason.encode() for client, reason in state.blamed.items()}),
    )
    body = _LABEL + state.session + write_fields(form)
    return body + hashlib.sha256(body).digest()


def load_state(state: ServerState, data: bytes) -> None:
    """Fill a fresh `state` from the bytes of an older one; raises `StateError` unless the terms are the same."""
    body, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if not body.startswith(_LABEL) or hashlib.sha256(body).digest() != digest:
        raise StateError("not the state of a masked sum, or an altered one")
    rest = body[len(_LABEL) :]
    if rest[:_HASH_BYTES] != state.session:
        raise StateError("this state belongs to a sum under other terms")
    try:
        reader = Reader(rest[_HASH_BYTES:])
        form = read_fields(_StateForm, reader)
        reader.done()
        total = np.frombuffer(form.total, state.total.dtype).copy()
        state.step = _steps(state.terms)[form.step]
    except (WireError, ValueError, IndexError) as error:
        raise StateError(f"the state is not in its canonical form: {error}") from error
    if len(total) != state.terms.task.length:
        raise StateError(f"the state holds {len(total)} values, the task {state.terms.task.length}")
    state.total = total
    state.awaiting, state.uploaded = set(form.awaiting), set(form.uploaded)
    state.adverts, state.hashes, state.boxes = _dict(form.adverts), _dict(form.hashes), _dict(form.boxes)
    state.signatures = _dict(form.signatures)
    state.unmasks = _dict(form.unmasks)
    state.blamed = {client: reason.decode() for client, reason in _dict(form.blamed).items()}


def _steps(terms: Terms) -> list[str]:
    return list(server_table(signed=terms.signed))


def _entries(values: dict[ClientId, bytes]) -> tuple[_Entry, ...]:
    return tuple(_Entry(client, values[client]) for client in sorted(values))


def _dict(entries: tuple[_Entry, ...]) -> dict[ClientId, bytes]:
    return {entry.client: bytes(entry.data) for entry in entries}
