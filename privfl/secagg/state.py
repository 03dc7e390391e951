"""The state of both parties between two messages, and its canonical bytes.

The bytes are a label | session 32 | fields as in wire.py | SHA-256 of all that (privfl/sums/session.py). A server's
hold what it has seen and nothing it has not: masked sums, sealed boxes, public keys, shares. A client's hold the
secrets of this one sum, and before its third message its vector; never its signing key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.shamir import SHARE_BYTES
from privfl.errors import StateError, WireError
from privfl.ring import Words
from privfl.secagg.machine import SERVER_DONE, server_table
from privfl.secagg.messages import MEMBERS, Bitmap
from privfl.secagg.terms import Terms
from privfl.sums.base import MAX_CLIENTS
from privfl.sums.server import SumProgress
from privfl.sums.session import CLOSED, pack_state, unpack_state
from privfl.wire import (
    CLIENT,
    U8,
    U32,
    Blob,
    ClientId,
    Fixed,
    IdSet,
    ListOf,
    Reader,
    Struct,
    read_fields,
    wired,
)

SERVER_LABEL: Final = b"privfl/1 masked-sum server state"
CLIENT_LABEL: Final = b"privfl/1 masked-sum client state"
_IDS: Final = IdSet(MAX_CLIENTS)


@dataclass(slots=True, kw_only=True)
class ServerState(SumProgress):
    """Everything that changes in a server session.

    Attributes:
        terms: What the parties agreed on.
        session: The digest of the terms.
        total: The running sum of masked vectors.
        adverts: Keys and signature of each client that advertised.
        hashes: The hash that each dealer's seed must have.
        boxes: What each dealer sent for its holders.
        uploaded: The clients whose vector is in `total`.
        signatures: Each client's signature over the list of survivors.
        unmasks: Each holder's last message.
    """

    terms: Terms
    session: bytes
    total: Words = field(repr=False)
    adverts: dict[ClientId, bytes] = field(default_factory=dict)
    hashes: dict[ClientId, bytes] = field(default_factory=dict)
    boxes: dict[ClientId, bytes] = field(default_factory=dict)
    uploaded: set[ClientId] = field(default_factory=set)
    signatures: dict[ClientId, bytes] = field(default_factory=dict)
    unmasks: dict[ClientId, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class _Entry:
    client: int = wired(CLIENT)
    data: bytes | memoryview = wired(Blob(1 << 32))


@dataclass(frozen=True, slots=True)
class _ServerForm:
    step: int = wired(U8)
    total: bytes | memoryview = wired(Blob(1 << 36))
    awaiting: tuple[int, ...] = wired(_IDS)
    answered: tuple[int, ...] = wired(_IDS)
    uploaded: tuple[int, ...] = wired(_IDS)
    adverts: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    hashes: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    boxes: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    signatures: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    unmasks: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))
    blamed: tuple[_Entry, ...] = wired(ListOf(Struct(_Entry), MAX_CLIENTS))


def dump_state(state: ServerState) -> bytes:
    """The canonical bytes; a session that has opened its sum or given up has none (`StateError`)."""
    if state.step in (SERVER_DONE, CLOSED):
        raise StateError("this sum is over, and there is nothing to resume")
    form = _ServerForm(
        _steps(state.terms).index(state.step),
        state.total.data if state.uploaded else b"",
        tuple(sorted(state.awaiting)),
        tuple(sorted(state.answered)),
        tuple(sorted(state.uploaded)),
        _entries(state.adverts),
        _entries(state.hashes),
        _entries(state.boxes),
        _entries(state.signatures),
        _entries(state.unmasks),
        _entries({client: reason.encode() for client, reason in state.blamed.items()}),
    )
    return pack_state(SERVER_LABEL, state.session, form)


def load_state(state: ServerState, data: bytes) -> None:
    """Fill a fresh `state` from the bytes of an older one.

    Args:
        state: A state under the same terms.
        data: The bytes.

    Raises:
        StateError: The bytes were altered, or belong to other terms.
    """
    body = unpack_state(SERVER_LABEL, state.session, data)
    try:
        reader = Reader(body)
        form = read_fields(_ServerForm, reader)
        reader.done()
        total = np.frombuffer(form.total, state.total.dtype).copy()
        state.step = _steps(state.terms)[form.step]
    except (WireError, ValueError, IndexError) as error:
        raise StateError(f"the state is not in its canonical form: {error}") from error
    if len(total) != (state.terms.task.length if form.uploaded else 0):
        raise StateError(f"the state holds {len(total)} values, the task {state.terms.task.length}")
    if form.uploaded:  # and zeros before
        state.total = total
    state.awaiting, state.answered, state.uploaded = set(form.awaiting), set(form.answered), set(form.uploaded)
    state.adverts, state.hashes, state.boxes = _dict(form.adverts), _dict(form.hashes), _dict(form.boxes)
    state.signatures = _dict(form.signatures)
    state.unmasks = _dict(form.unmasks)
    state.blamed = {client: reason.decode() for client, reason in _dict(form.blamed).items()}


def _steps(terms: Terms) -> list[str]:
    return [row.state for row in server_table(signed=terms.signed)]


def _entries(values: dict[ClientId, bytes]) -> tuple[_Entry, ...]:
    return tuple(_Entry(client, values[client]) for client in sorted(values))


def _dict(entries: tuple[_Entry, ...]) -> dict[ClientId, bytes]:
    return {entry.client: bytes(entry.data) for entry in entries}


# --- clients ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Peer:
    """The record that a client keeps of one holder (possibly itself).

    Attributes:
        client: The holder.
        mask: The key of the pairwise mask.
        shared: The agreed secret of the box keys.
        key_share: The holder's share of its mask key that this client holds, or None.
        seed_share: The holder's share of its self-mask seed that this client holds, or None.
    """

    client: ClientId
    mask: bytes = field(default=b"", repr=False)
    shared: bytes = field(default=b"", repr=False)
    key_share: bytes | None = field(default=None, repr=False)
    seed_share: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PeerForm:
    """A `Peer` as it is saved; an empty blob stands for None.

    Attributes:
        place: The holder's place in the roster.
        client: As in `Peer`.
        mask: As in `Peer`.
        shared: As in `Peer`.
        key_share: As in `Peer`.
        seed_share: As in `Peer`.
    """

    place: int = wired(U32)
    client: int = wired(CLIENT)
    mask: bytes | memoryview = wired(Blob(KEY_BYTES), secret=True)
    shared: bytes | memoryview = wired(Blob(KEY_BYTES), secret=True)
    key_share: bytes | memoryview = wired(Blob(SHARE_BYTES), secret=True)
    seed_share: bytes | memoryview = wired(Blob(SHARE_BYTES), secret=True)


@dataclass(frozen=True, slots=True)
class ClientForm:
    """A client's session as it is saved.

    Attributes:
        mask_secret: The secret of its mask key.
        box_secret: The secret of its box key.
        seed: Its self-mask seed.
        words: Its vector, until it is sent.
        roster: The digest of the roster; empty before there is one.
        size: The number of clients in the roster.
        place: Its place in the roster.
        peers: Its records of the holders.
        sharers: The clients that shared.
        survivors: The clients whose vectors are in the sum.
    """

    mask_secret: bytes = wired(Fixed(KEY_BYTES), secret=True)
    box_secret: bytes = wired(Fixed(KEY_BYTES), secret=True)
    seed: bytes | memoryview = wired(Blob(KEY_BYTES), secret=True)
    words: bytes | memoryview = wired(Blob(1 << 36), secret=True)
    roster: bytes | memoryview = wired(Blob(32))
    size: int = wired(U32)
    place: int = wired(U32)
    peers: tuple[PeerForm, ...] = wired(ListOf(Struct(PeerForm), MAX_CLIENTS))
    sharers: Bitmap = wired(MEMBERS)
    survivors: Bitmap = wired(MEMBERS)


def peer_forms(peers: dict[int, Peer]) -> tuple[PeerForm, ...]:
    """Peers by place, as they are saved."""
    return tuple(
        PeerForm(place, peer.client, peer.mask, peer.shared, peer.key_share or b"", peer.seed_share or b"")
        for place, peer in peers.items()
    )


def peers_of(forms: tuple[PeerForm, ...]) -> dict[int, Peer]:
    """Peers by place, as they were before they were saved."""
    return {
        form.place: Peer(
            form.client,
            bytes(form.mask),
            bytes(form.shared),
            bytes(form.key_share) or None,
            bytes(form.seed_share) or None,
        )
        for form in forms
    }
