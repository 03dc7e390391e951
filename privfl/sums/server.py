"""The server's half of the session core; the rules are in session.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from privfl.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.sums.base import Dispute, SumResult
from privfl.sums.noise import MemberCount
from privfl.sums.session import CLOSED, Guard, Interrupted, MessageType, TransitionTable
from privfl.wire import ClientId, check_client, peek


@dataclass(slots=True)
class SumProgress:
    """The state that every server session keeps of its clients.

    Attributes:
        step: The step that is open, or where the session has ended.
        awaiting: The clients whose message of this step has not come.
        answered: The clients whose message of this step was taken.
        blamed: The clients that broke the rules, and how.
        undecided: Bad shares that either the dealer or the holder spoiled.
    """

    step: str
    awaiting: set[ClientId]
    answered: set[ClientId] = field(default_factory=set)
    blamed: dict[ClientId, str] = field(default_factory=dict)
    undecided: tuple[Dispute, ...] = ()


class ServerMachine(ABC):
    """The server's session: a table, a function that takes each message, and the parts that all sums share.

    Args:
        table: The server's table, in the order of its steps.
        session: The 32 bytes in the header of every message.
        progress: The clients' progress, at first or from a saved state.
    """

    def __init__(self, table: TransitionTable, *, session: bytes, progress: SumProgress) -> None:
        self._table, self._session, self._progress = table, session, progress
        self._steps = list(dict.fromkeys(row.state for row in table))
        self._guard = Guard()
        self._result: SumResult | None = None

    @abstractmethod
    def _taker(self, kind: MessageType) -> Callable[[ClientId, memoryview], None]:
        """The function that takes the body of a message of this kind. It changes nothing before its last failure."""

    @abstractmethod
    def _max_length(self, kind: MessageType) -> int:
        """The maximum length, in bytes, of an honest message of this kind."""

    @abstractmethod
    def _check(self) -> None:
        """Raise `TooFewSurvivors` if this step cannot be closed now. It changes nothing."""

    @abstractmethod
    def _close(self) -> tuple[str, dict[ClientId, bytes]]:
        """Close the step that `_check` let pass: the step that follows, and its messages."""

    @property
    def step(self) -> str:
        """The name of the open step, or of the final state."""
        return self._progress.step

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """Clients whose message of the present step has not come."""
        with self._guard:
            return frozenset(self._progress.awaiting)

    @property
    def blamed(self) -> Mapping[ClientId, str]:
        """The clients that broke the rules, and how."""
        with self._guard:
            return dict(self._progress.blamed)

    @property
    def undecided(self) -> tuple[Dispute, ...]:
        """The bad shares that either the dealer or the holder spoiled."""
        with self._guard:
            return self._progress.undecided

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once there is one."""
        return self._result

    @property
    def members(self) -> MemberCount | None:
        """The members of noise that needs the roster; None in a sum without such noise."""
        return None

    @property
    def ready(self) -> bool:
        """True if `advance()` would succeed now: enough clients have answered this step."""
        with self._guard:
            if self._progress.step not in self._steps:
                return False
            try:
                self._check()
            except TooFewSurvivors:
                return False
            return True

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Take one client's message of this step.

        The first message of a client counts. Further ones, and those of earlier steps, are ignored.

        Args:
            sender: The client.
            message: The bytes.

        Raises:
            WireError: The bytes are cut, misrouted, or of a step that is not due; nothing has changed.
            RemoteProtocolError: The sender broke the rules, and has been dropped and blamed; or nothing is awaited from
                it, and nothing has changed.
            LocalProtocolError: This sum is over.
        """
        with self._guard:
            kind, due = self._due()
            header, body = peek(message, max_length=max(map(self._max_length, [*self._passed(), *due])))
            if (header.sender, header.task) != (sender, self._session):
                raise WireError("the header names another sender or session")
            if any(header.kind == passed.KIND for passed in self._passed()):
                return
            if kind is None:
                raise LocalProtocolError("this sum is over")
            if header.kind != kind.KIND:
                raise WireError(f"a message of kind {header.kind:#06x} is not due in step {self._progress.step!r}")
            if len(message) > self._max_length(kind):
                raise WireError(f"{len(message)} bytes, at most {self._max_length(kind)} allowed")
            self._take(kind, sender, body)

    def drop(self, client: ClientId) -> None:
        """Declare that a client has dropped out: its message of this step is no longer awaited."""
        with self._guard:
            self._progress.awaiting.discard(check_client(client))

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step: the clients that have not answered have dropped out. Returns the next step's messages.

        Raises:
            LocalProtocolError: Too few clients have answered yet, and others are awaited: nothing has changed. Wait
                for them, or `drop` those that will not answer. Or this sum is over.
            TooFewSurvivors: Too few clients have answered, and no other is awaited. This sum is over.
            RemoteProtocolError: What the clients sent does not open; see the scheme. This sum is over unless clients
                are still awaited.
        """
        with self._guard:
            progress = self._progress
            if progress.step not in self._steps:
                raise LocalProtocolError("this sum is over")
            try:
                self._check()
                then, messages = self._close()
            except TooFewSurvivors as error:
                if progress.awaiting:
                    raise LocalProtocolError(self._early(error)) from error
                self._end(CLOSED)
                raise
            except RemoteProtocolError:
                if not progress.awaiting:
                    self._end(CLOSED)
                raise
            except BaseException:
                self._end(CLOSED)
                raise
            self._end(then)
            progress.awaiting = set(messages)
            return messages

    def _early(self, error: TooFewSurvivors) -> str:
        return (
            f"advance() comes too early in step {self._progress.step!r}: {error.survivors} of at least "
            f"{error.threshold} are there, and {len(self._progress.awaiting)} clients are awaited; wait for them, or "
            "drop() those that will not answer"
        )

    def _end(self, then: str) -> None:
        self._progress.step, self._progress.awaiting, self._progress.answered = then, set(), set()

    def _due(self) -> tuple[MessageType | None, list[MessageType]]:
        """The message that this step collects; None once the sum was opened."""
        step = self._progress.step
        if step == CLOSED:
            raise LocalProtocolError("this sum is over")
        due = [row.receives for row in self._table if row.state == step and row.receives is not None]
        return (due[0] if due else None), due

    def _passed(self) -> list[MessageType]:
        """The messages of all earlier steps."""
        step = self._progress.step
        earlier = self._steps[: self._steps.index(step)] if step in self._steps else self._steps
        return [row.receives for row in self._table if row.state in earlier and row.receives is not None]

    def _take(self, kind: MessageType, sender: ClientId, body: memoryview) -> None:
        progress = self._progress
        if sender in progress.answered:
            return
        if sender not in progress.awaiting:
            raise RemoteProtocolError(f"nothing is awaited from client {sender}", sender=sender)
        try:
            self._taker(kind)(sender, body)
        except Interrupted as error:
            raise error.failure from None
        except (WireError, RemoteProtocolError) as error:
            reason = f"{kind.__name__}: {error}"
            progress.awaiting.discard(sender)
            progress.blamed[sender] = reason
            raise RemoteProtocolError(f"client {sender}: {reason}", sender=sender) from error
        progress.awaiting.discard(sender)
        progress.answered.add(sender)
