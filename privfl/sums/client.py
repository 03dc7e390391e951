"""The client's half of the session core; the rules are in session.py."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from privfl.crypto import TaskMemory
from privfl.errors import (
    ConfigError,
    LocalProtocolError,
    PlanRejected,
    RemoteProtocolError,
    StateError,
    WireError,
)
from privfl.sums.session import (
    ABORTED,
    Guard,
    Interrupted,
    MessageType,
    Transition,
    TransitionTable,
    pack_state,
    state_name,
    unpack_state,
)
from privfl.wire import (
    CLIENT,
    SERVER,
    U8,
    U16,
    U32,
    Addressed,
    Blob,
    ClientId,
    Fixed,
    Message,
    Reader,
    peek,
    read_fields,
    wired,
)

_HASH_BYTES: Final = 32
_LONGEST: Final = 1 << 36


@dataclass(frozen=True, slots=True)
class _ClientForm:
    client: int = wired(CLIENT)
    restored: int = wired(U32)  # how often: a session that is restored and saved again has another state
    state: int = wired(U8)
    kind: int = wired(U16)
    message: bytes = wired(Fixed(_HASH_BYTES))
    answer: bytes | memoryview = wired(Blob(_LONGEST), secret=True)
    body: bytes | memoryview = wired(Blob(_LONGEST), secret=True)


@dataclass(slots=True)
class _Exchange:
    """The last message that was answered: its kind, the message or its SHA-256, and the answer, unless it is kept
    elsewhere.
    """

    kind: int
    message: bytes | None
    digest: bytes
    answer: bytes | None = field(repr=False)

    def repeats(self, message: bytes | memoryview) -> bool:
        if self.message is not None:
            return self.message == message
        return hashlib.sha256(message).digest() == self.digest


class ClientMachine(ABC):
    """One client's session: a table, a handler for each message, and the parts that all sums share.

    Args:
        table: The client's table; its first row is the start.
        label: The first bytes of a saved state.
        me: The client.
        session: The 32 bytes in the header of every message.
        task: The digest of the task, which `start` notes in `tasks`.
        tasks: What this client took part in, and which saved states were restored. None remembers nothing.
    """

    def __init__(
        self,
        table: TransitionTable,
        label: bytes,
        *,
        me: ClientId,
        session: bytes,
        task: bytes,
        tasks: TaskMemory | None,
    ) -> None:
        self._table, self._label, self._me, self._session = table, label, me, session
        self._task, self._tasks = task, tasks
        self._guard = Guard()
        self._state = table[0].state
        self._last: _Exchange | None = None
        self._saved: bytes | None = None
        self._restored = 0
        kinds = [row.receives for row in table if row.receives is not None]
        self._addressed = {kind.KIND for kind in kinds if issubclass(kind, Addressed)}
        self._states = list(dict.fromkeys([*(row.state for row in table), *(row.then for row in table)]))

    @abstractmethod
    def _first(self) -> Message:
        """The message of `start`."""

    @abstractmethod
    def _handler(self, kind: MessageType) -> Callable[[Any], Message]:
        """The function that answers a message of this kind. It changes nothing of the session before its
        last failure.
        """

    @abstractmethod
    def _max_length(self) -> int:
        """The maximum length, in bytes, of a message of the server."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop every secret: an ended session has nothing left to give."""

    @abstractmethod
    def _dump(self) -> bytes:
        """The bytes that `_load` needs, canonical, without any long-term key."""

    @abstractmethod
    def _load(self, body: bytes) -> None:
        """Take over what `_dump` gave; raises `WireError` or `ValueError` for anything else."""

    @property
    def state(self) -> str:
        """A state of the table, or "aborted"."""
        return self._state

    @property
    def finished(self) -> bool:
        """True once the last message has been sent; an aborted session never is."""
        return self._state != ABORTED and all(row.state != self._state for row in self._table)

    @property
    def last_message(self) -> bytes | None:
        """The last message that this session sent: a restored session may have to send it again."""
        with self._guard:
            return self._last.answer if self._last is not None else None

    def start(self) -> bytes:
        """Return the first message. Raises `LocalProtocolError` unless it is the first call.

        Raises `PlanRejected` for a task that this client has begun before, and that ends the session. The task alone is
        remembered, so this holds for every scheme, threshold and graph.
        """
        with self._guard:
            if self._state != self._table[0].state:
                raise LocalProtocolError(f"start() in state {self._state!r}")
            try:
                if self._tasks is not None:
                    self._tasks.begin(self._task)
                answer = self._first()
            except BaseException:  # a task that could not be noted has not begun
                self._abort()
                raise
            return self._answered(0, b"", answer, self._table[0].then)

    def receive(self, message: bytes) -> bytes | None:
        """The answer to the server's next message, or None for one of an earlier step.

        The same bytes again get the same answer again.

        Raises:
            WireError: The bytes are cut, misrouted, for another client, or of a step that is not due; nothing has
                changed.
            RemoteProtocolError: The server, or a client behind it, broke the rules. The session is over, unless the
                server sent two different messages in one step, of which the second one changes nothing.
            TooFewSurvivors: Too few clients are left; the session is over.
            LocalProtocolError: The session has not started, or is over.
        """
        with self._guard:
            self._check_begun()
            header, body = peek(message, max_length=self._max_length())
            if (header.sender, header.task) != (SERVER, self._session):
                raise WireError("the header names another sender or session")
            if header.kind in self._addressed and Addressed.receiver_of(body) != self._me:
                raise WireError("the message is for another client")
            due = {row.receives.KIND: row for row in self._table if row.state == self._state and row.receives}
            row = due.get(header.kind)
            if row is None or (self._last is not None and self._last.kind == header.kind):
                return self._again(header.kind, message, over=not due)
            return self._answer(row, body, message)

    def to_bytes(self, *, repeats: bool = True) -> bytes:
        """Return the state that a restored session needs, without long-term keys. Keep it as secret as the vector.

        Save it after every call of `start` and `receive`, before the answer is sent. One state is restored at most
        once, and not at all after this session has answered another message.

        Args:
            repeats: True holds the last answer, too, which a restored session sends again for the same message. False
                leaves it out, for a caller that keeps it with the state.

        Raises:
            StateError: The session has not started, or was aborted.
        """
        with self._guard:
            if self._last is None or self._state == ABORTED:
                raise StateError("this session has not started, or was aborted: there is nothing to save")
            last = self._last
            digest = last.digest if last.message is None else hashlib.sha256(last.message).digest()
            answer = last.answer if repeats and last.answer is not None else b""
            form = _ClientForm(
                self._me, self._restored, self._states.index(self._state), last.kind, digest, answer, self._dump()
            )
            data = pack_state(self._label, self._session, form)
            self._saved = state_name(data)
            return data

    def restore(self, data: bytes) -> None:
        """Become the session that `to_bytes` saved, and note that this was done.

        Raises:
            StateError: The bytes were altered, cut short, or belong to other terms; or this state was restored before,
                or its session went on without it.
            ConfigError: This session remembers nothing, so it could not refuse a second restoration.
        """
        with self._guard:
            if self._tasks is None:
                raise ConfigError("a saved state is restored at most once: give a task memory that notes it")
            if self._last is not None:
                raise LocalProtocolError("only a session that has not started can be restored")
            body = unpack_state(self._label, self._session, data)
            try:
                reader = Reader(body)
                form = read_fields(_ClientForm, reader)
                reader.done()
                if form.client != self._me:
                    raise WireError(f"it is that of client {form.client}")
                self._load(bytes(form.body))
                state, restored = self._states[form.state], form.restored + 1
            except (WireError, ValueError, IndexError) as error:
                raise StateError(f"the state is not in its canonical form: {error}") from error
            try:
                self._tasks.begin(state_name(data))
            except PlanRejected as error:
                raise StateError(
                    f"this state was restored before, or its session went on without it: {error}"
                ) from error
            self._state, self._restored = state, restored
            self._last = _Exchange(form.kind, None, form.message, bytes(form.answer) or None)

    def _check_begun(self) -> None:
        if self._last is None and self._state != ABORTED:
            raise LocalProtocolError("this session has not started")
        if self._state == ABORTED:
            raise LocalProtocolError("this session is over")

    def _again(self, kind: int, message: bytes, *, over: bool) -> bytes | None:
        """A message that is not due: the last one again, an older one, or one that comes too soon."""
        if self._last is not None and kind == self._last.kind:
            if self._last.repeats(message) and self._last.answer is None:
                raise WireError("the answer to this message was kept apart from the session: send that one again")
            if self._last.repeats(message):
                return self._last.answer
            raise RemoteProtocolError("the server sent two different messages in one step")
        passed = self._states[: self._states.index(self._state)]
        if any(row.receives is not None and kind == row.receives.KIND for row in self._table if row.state in passed):
            return None
        if over:
            raise LocalProtocolError("this session is over")
        raise WireError(f"a message of kind {kind:#06x} is not due in state {self._state!r}")

    def _answer(self, row: Transition, body: memoryview, message: bytes) -> bytes:
        assert row.receives is not None  # noqa: S101 - only such rows are due
        try:
            answer = self._handler(row.receives)(row.receives.from_body(body))
            self._leave_saved()
        except Interrupted as error:
            raise error.failure from None
        except WireError as error:
            self._abort()
            raise RemoteProtocolError(f"{row.receives.__name__}: {error}") from error
        except BaseException:
            self._abort()
            raise
        sent = self._answered(row.receives.KIND, message, answer, row.then)
        if self.finished:
            self._forget()
        return sent

    def _leave_saved(self) -> None:
        """Note, before the answer leaves, that the saved state must not be restored from here on."""
        saved, self._saved = self._saved, None
        if saved is None or self._tasks is None:
            return
        try:
            self._tasks.begin(saved)
        except PlanRejected as error:
            raise LocalProtocolError(f"this session goes on elsewhere, from its saved state: {error}") from error

    def _answered(self, kind: int, message: bytes, answer: Message, then: str) -> bytes:
        sent = answer.to_bytes(sender=self._me, task=self._session)
        self._last, self._state = _Exchange(kind, bytes(message), b"", sent), then
        return sent

    def _abort(self) -> None:
        self._state, self._last = ABORTED, None
        self._forget()
        with contextlib.suppress(LocalProtocolError):  # a session that was saved is over too, wherever it is restored
            self._leave_saved()
