"""The session core that sums with several steps share: tables, dispatch, repeats, locks, save and restore.

A party is a table of `Transition`s and one handler for each message; `ClientMachine` (client.py) and `ServerMachine`
(server.py) do the rest, the same for every sum:

- Bytes that are cut short, misrouted, for another client, of another session or of a step that is not due change
  nothing: `WireError`.
- The same bytes again get the same answer again. A message of an earlier step is ignored.
- A client that accepted a message of the step that is due, and then fails, is aborted for good. A server drops and
  blames the sender of such a message (`RemoteProtocolError`) and goes on.
- A failure of the key directory itself changes nothing: the message may be delivered again.
- Every public method holds the session's lock, because engines deliver messages from several threads.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Final

from privfl.crypto import KeyDirectory, VerifyKey
from privfl.errors import PrivflError, StateError
from privfl.wire import ClientId, Message

Kind = type[Message]

ABORTED: Final = "aborted"
"""Where every error in an accepted step leads a client, from any state, for good."""

CLOSED: Final = "closed"
"""Where too few survivors lead a server, from any step, for good."""

_HASH_BYTES: Final = 32
_TAKEN: Final = b"privfl/1 restored state"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of a party's table.

    Attributes:
        state: The state of a client, or the step of a server.
        receives: The message that is due: the server's, or one of each awaited client. None at a client's start.
        sends: The message that follows it. None where a server opens the sum.
        then: The state or step that follows.
    """

    state: str
    receives: Kind | None
    sends: Kind | None
    then: str


Table = tuple[Transition, ...]


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
    """A key directory failed by itself; `failure` is what it raised."""

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


def pack_state(label: bytes, session: bytes, body: bytes) -> bytes:
    """Return a saved state: label | session 32 | body | SHA-256 of all that.

    Args:
        label: The kind of state.
        session: The digest that the state belongs to, 32 bytes.
        body: The state.
    """
    whole = label + session + body
    return whole + hashlib.sha256(whole).digest()


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
    whole, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if not whole.startswith(label) or hashlib.sha256(whole).digest() != digest:
        raise StateError("not the state of this kind of session, or an altered one")
    rest = whole[len(label) :]
    if rest[:_HASH_BYTES] != session:
        raise StateError("this state belongs to a sum under other terms")
    return rest[_HASH_BYTES:]


def state_name(data: bytes) -> bytes:
    """The 32 bytes under which a `TaskMemory` notes that a saved state was restored, or left behind."""
    return hashlib.sha256(_TAKEN + data).digest()
