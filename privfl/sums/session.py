"""The session core that sums with several steps share: tables, dispatch, repeats, locks, save and restore.

A party is a table of `Transition`s and one handler for each message; `ClientMachine` (client.py) and `ServerMachine`
(server.py) do the rest, the same for every sum:

- Bytes that are cut short, misrouted, for another client, of another session or of a step that is not due change
  nothing: `WireError`. Neither does a list of clients that a transport sends to those that dropped out too.
- The same bytes again get the same answer again. A message of an earlier step is ignored.
- A client that accepted a message of the step that is due, and then fails, is aborted for good. A server drops and
  blames the sender of such a message (`RemoteProtocolError`) and goes on.
- A failure of the key directory itself changes nothing: the message may be delivered again.
- Every public method holds the session's lock, because engines deliver messages from several threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from privfl.crypto import KeyDirectory, VerifyKey
from privfl.errors import PrivflError, StateError, WireError
from privfl.wire import ClientId, Message, Reader, field_pieces, read_fields

MessageType = type[Message]
_T = TypeVar("_T")

ABORTED: Final = "aborted"
"""Where every error in an accepted step leads a client, from any state, for good."""

CLOSED: Final = "closed"
"""Where too few survivors lead a server, from any step, for good."""

_HASH_BYTES: Final = 32
_TAKEN: Final = b"privfl/1 restored state"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of a party's table: a state, the message that is due in it, the answer, and the next state.

    Attributes:
        state: The state of a client, or the step of a server.
        receives: The type of message that is due: a client awaits one from the server, a server one from each client
            that it awaits. None at a client's start.
        sends: The type of message that the party sends next. None where a server opens the sum.
        then: The state or step that follows.
    """

    state: str
    receives: MessageType | None
    sends: MessageType | None
    then: str


TransitionTable = tuple[Transition, ...]


class Guard:
    """A lock that one thread may take again, and that a copy of its owner does not share."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __deepcopy__(self, memo: object) -> Guard:
        return Guard()


class Interrupted(Exception):
    """A message gets no answer and changes nothing: a key directory failed by itself, or it is about other clients.

    `failure` is what the caller gets.
    """

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


class SteadyDirectory:
    """A key directory that separates its own failures (`Interrupted`) from its answers about a client."""

    def __init__(self, inner: KeyDirectory) -> None:
        self._inner = inner

    def verify_key(self, client: ClientId) -> VerifyKey:
        """The client's key; raises `RemoteProtocolError` for a stranger."""
        try:
            return self._inner.verify_key(client)
        except PrivflError:
            raise
        except Exception as error:
            raise Interrupted(error) from error


# --- saved states ----------------------------------------------------------------------------------------------------


def pack_state(label: bytes, session: bytes, fields: object) -> bytes:
    """Return a saved state: label | session 32 | fields | SHA-256 of all that.

    Args:
        label: The kind of state.
        session: The digest that the state belongs to, 32 bytes.
        fields: The state, a wired dataclass.
    """
    pieces = [label, session, *field_pieces(fields)]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b"".join((*pieces, digest.digest()))


def unpack_state(label: bytes, session: bytes, data: bytes) -> bytes:
    """Return the body of a saved state.

    Args:
        label: The kind of state.
        session: The digest that the state belongs to, 32 bytes.
        data: Bytes from `pack_state`.

    Raises:
        StateError: The bytes were altered or belong to other terms.
    """
    if not isinstance(data, bytes):
        raise StateError(f"a saved state is bytes, not {type(data).__name__}")
    whole, digest = memoryview(data)[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if not data.startswith(label) or hashlib.sha256(whole).digest() != digest:
        raise StateError("not the state of this kind of session, or an altered one")
    rest = whole[len(label) :]
    if rest[:_HASH_BYTES] != session:
        raise StateError("this state belongs to a sum under other terms")
    return bytes(rest[_HASH_BYTES:])


def pack_layer(label: bytes, fields: object, *, inner: str) -> bytes:
    """Return a saved state that holds another: label | fields | SHA-256.

    Args:
        label: The kind of state.
        fields: A wired dataclass.
        inner: The name of the field that holds the inner state, or nothing; see `layer_pieces`.
    """
    return b"".join(layer_pieces(label, fields, inner=inner))


def layer_pieces(label: bytes, fields: object, *, inner: str) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a saved state that holds another, which a file takes one after the other.

    The inner state ends with a hash of its own. The outer hash covers that hash in the place of the inner state, so no
    byte of a long state is hashed twice.

    Args:
        label: The kind of state.
        fields: A wired dataclass.
        inner: The name of the field that holds the inner state, or nothing.
    """
    return label, *field_pieces(fields), _layer_digest(label, fields, inner)


def unpack_layer(label: bytes, of: type[_T], data: bytes, *, inner: str) -> _T:
    """Return the fields of a saved state that holds another, whose own hash is checked where it is restored.

    Args:
        label: The kind of state.
        of: The wired dataclass.
        data: Bytes from `pack_layer`.
        inner: The name of the field that holds the inner state.

    Raises:
        StateError: The bytes are of another kind, were cut short, or were altered outside of the inner state.
    """
    if not data.startswith(label):
        raise StateError("another kind of state")
    try:
        reader = Reader(memoryview(data)[len(label) : -_HASH_BYTES])
        fields = read_fields(of, reader)
        reader.done()
    except WireError as error:
        raise StateError(f"not in its canonical form: {error}") from error
    if data[-_HASH_BYTES:] != _layer_digest(label, fields, inner):
        raise StateError("it was altered")
    return fields


def _layer_digest(label: bytes, fields: Any, inner: str) -> bytes:
    digest = hashlib.sha256(label)
    for piece in field_pieces(dataclasses.replace(fields, **{inner: getattr(fields, inner)[-_HASH_BYTES:]})):
        digest.update(piece)
    return digest.digest()


def state_name(data: bytes) -> bytes:
    """The 32 bytes under which a `TaskMemory` notes that a saved state was restored, or left behind.

    Args:
        data: A state of `pack_state`, whose last bytes are the hash of all others.
    """
    return hashlib.sha256(_TAKEN + data[-_HASH_BYTES:]).digest()
