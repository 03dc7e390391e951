"""The sum without secrecy: the server reads every vector. The yardstick for the others, and their simplest reader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from privfl.checks import check_type
from privfl.errors import ConfigError, LocalProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.observers import Views
from privfl.ring import Ints, Opening
from privfl.sums.base import Entropy, SumPolicy, SumResult, SumTask, identity
from privfl.sums.checks import checked_rows, checked_total, checked_vector
from privfl.sums.noise import refuse_noise
from privfl.sums.server import ServerMachine, SumProgress
from privfl.sums.session import MessageType, Transition, TransitionTable
from privfl.sums.shortfall import OpensByCount
from privfl.wire import HEADER_BYTES, Blob, ClientId, Message, check_client, wired

_LABEL = b"privfl/1 plain-sum transcript"
_CAVEAT = "plain sum: the server saw every client's vector"


@dataclass(frozen=True, slots=True)
class Upload(Message):
    """A client's whole vector, reduced modulo the ring and packed."""

    KIND: ClassVar[int] = 0x0101
    values: bytes | memoryview = wired(Blob(1 << 32), secret=True)


_TABLE: Final[TransitionTable] = (Transition("upload", Upload, None, "opened"),)


class PlainSum(OpensByCount):
    """Sums vectors that the server sees: for tests, for trusted servers, and as a baseline."""

    name: str = "plain-sum/1"
    opener: Literal["server", "client"] = "server"
    messages_per_client: int = 1
    roster_noise: bool = False

    @property
    def adds_rows(self) -> bool:
        """True: in one process the server takes vectors as they are, see `PlainServer.add_rows`.

        A class that overrides something is asked for its messages instead.
        """
        return type(self) is PlainSum

    @property
    def views(self) -> Views:
        """The server sees every vector, and everybody else what is published."""
        return {"outsider": "release", "participant": "release", "server": "vectors"}

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """None: the task is all that the parties share."""
        return {}

    def min_survivors_of(self, cohort: int, min_survivors: int) -> int:
        """Return `min_survivors` itself, which may be 0: a sum without secrecy may open any number of vectors.

        Args:
            cohort: The number of clients of the sum.
            min_survivors: What its task asks for.

        Raises:
            ConfigError: The task asks for more vectors than there are clients.
        """
        if not 0 <= min_survivors <= cohort:
            raise ConfigError(f"min_survivors must be in [0, {cohort}], not {min_survivors}: lower it")
        return min_survivors

    def client(
        self,
        task: SumTask,
        me: ClientId,
        vector: Ints,
        *,
        credentials: Any = None,
        policy: SumPolicy = SumPolicy(),
        opening: Opening = identity,
        entropy: Entropy = os.urandom,
    ) -> PlainClient:
        """See `SecureSum.client`: the session sends `vector` in its first message; keys, opening and entropy are not
        used.
        """
        check_type("task", task, SumTask)
        check_type("policy", policy, SumPolicy)
        policy.check(task)
        return PlainClient(task, check_client(me), checked_vector(task, me, vector))

    def server(self, task: SumTask, *, opening: Opening = identity) -> PlainServer:
        """See `SecureSum.server`: the session adds vectors as they come."""
        check_type("task", task, SumTask)
        return PlainServer(task, opening)


class PlainClient:
    """Sends one message, and holds nothing afterwards.

    Args:
        task: The sum, as all parties agreed on it.
        me: This client.
        vector: Its contribution, integers `[task.length]`, within `task.bound`.
    """

    def __init__(self, task: SumTask, me: ClientId, vector: Ints) -> None:
        refuse_noise(task.noise, PlainSum.name)
        self._task, self._me = task, me
        self._vector: Ints | None = vector

    @property
    def finished(self) -> bool:
        """True after the upload."""
        return self._vector is None

    def start(self) -> bytes:
        """The upload."""
        if self._vector is None:
            raise LocalProtocolError("start() was called twice")
        ring, vector, self._vector = self._task.ring, self._vector, None
        packed = ring.pack(ring.reduce(vector))
        return Upload(packed).to_bytes(sender=self._me, task=self._task.digest())

    def receive(self, message: bytes) -> bytes | None:
        """Nothing is due, before or after the upload: a `WireError`, and nothing has changed."""
        raise WireError("the server has nothing to say in a plain sum")


class PlainServer(ServerMachine):
    """Holds one running total for any number of clients.

    Args:
        task: The sum, as all parties agreed on it.
        opening: Applied to the opened sum before it is released, such as central noise.
    """

    def __init__(self, task: SumTask, opening: Opening) -> None:
        refuse_noise(task.noise, PlainSum.name)
        super().__init__(_TABLE, session=task.digest(), progress=SumProgress("upload", set(task.clients)))
        self._task, self._opening = task, opening
        self._survivors: set[ClientId] = set()
        self._total = task.ring.zeros(task.length)
        self._seen = False

    def receive(self, sender: ClientId, message: bytes) -> None:
        """See `ServerMachine.receive`: adds one vector; even a refused message counts as seen."""
        self._seen = True
        super().receive(sender, message)

    def add_rows(self, clients: Sequence[ClientId], rows: Ints, *, added: bool) -> int:
        """Take the vectors of several clients of this process without messages; the sum is that of their messages.

        Args:
            clients: Whose vectors these are.
            rows: int64 `[clients, length]`, each within the task's bound.
            added: True if `rows` holds their sum alone, `[1, length]`, of vectors that were checked before.

        Returns:
            The bytes that the messages would have had.

        Raises:
            ConfigError: A vector is beyond the bound; nothing has changed.
            RemoteProtocolError: Nothing is awaited from one of the clients; nothing has changed.
        """
        with self._guard:
            for client in clients:
                if client not in self._progress.awaiting:
                    raise RemoteProtocolError(f"nothing is awaited from client {client}", sender=client)
            if not added:
                checked_rows(self._task, clients, rows)
            if clients:
                self._seen = True
                ring = self._task.ring
                ring.add(self._total, ring.reduce(rows[0] if len(rows) == 1 else rows.sum(axis=0)))
                self._survivors.update(clients)
                self._progress.awaiting.difference_update(clients)
                self._progress.answered.update(clients)
            return len(clients) * self._max_length(Upload)

    def _taker(self, kind: MessageType) -> Callable[[ClientId, memoryview], None]:
        return self._add

    def _max_length(self, kind: MessageType) -> int:
        return HEADER_BYTES + 8 + self._task.ring.packed_bytes(self._task.length)

    def _add(self, sender: ClientId, body: memoryview) -> None:
        ring, bound = self._task.ring, self._task.bound
        words = ring.unpack(Upload.from_body(body).values, self._task.length)
        # Moved up by the bound, entries in [-bound, bound] are the words of [0, 2*bound]. What the server sees it can
        # check: beyond the bound the sum could leave the ring and come out wrong.
        if int(ring.mask(words + words.dtype.type(bound)).max()) > 2 * bound:
            raise WireError(f"an entry is beyond the task's bound of {bound}")
        ring.add(self._total, words)
        self._survivors.add(sender)

    def _check(self) -> None:
        if len(self._survivors) < self._task.min_survivors:
            raise TooFewSurvivors(len(self._survivors), self._task.min_survivors, self._seen)

    def _close(self) -> tuple[str, dict[ClientId, bytes]]:
        ring, survivors = self._task.ring, frozenset(self._survivors)
        total = ring.center(ring.mask(self._total))
        self._total = ring.zeros(0)  # the opened sum takes its place
        total = checked_total(self._task, total, len(survivors))
        total = self._opening(total, survivors)
        ids = b"".join(c.to_bytes(4, "little") for c in sorted(survivors))
        transcript = hashlib.sha256(_LABEL + self._task.digest() + ids).digest()
        self._result = SumResult(total, survivors, transcript, dict(self._progress.blamed), caveats=(_CAVEAT,))
        return "opened", {}
