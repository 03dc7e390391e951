"""A masked sum whose messages can be held, altered and replayed between any two steps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from privfl.crypto import Credentials, MemoryDirectory, TasksInMemory, generate_identities
from privfl.errors import RemoteProtocolError
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedClient, MaskedSum
from privfl.sums import SumPolicy, SumTask
from privfl.wire import ClientId, Message

CREDENTIALS, DIRECTORY = generate_identities(range(40))


class Play:
    """Clients 0 .. n-1 and an honest server; `mail` is what the server has sent and nobody has opened yet."""

    def __init__(
        self, clients: int = 5, *, scheme: MaskedSum | None = None, context: bytes = b"round 1", length: int = 4
    ) -> None:
        self.scheme = scheme or MaskedSum(DIRECTORY)
        self.task = SumTask(context, tuple(range(clients)), 2, length, Ring(32), 1 << 20)
        self.session = self.scheme.terms(self.task).digest()
        rng = np.random.default_rng(7)
        self.vectors = {c: rng.integers(-self.task.bound, self.task.bound, length) for c in self.task.clients}
        self.clients = {c: self.client(c) for c in self.task.clients}
        self.server = self.scheme.server(self.task)
        self.mail: dict[ClientId, bytes] = {}
        self.uplink: dict[ClientId, bytes] = {}

    def client(self, client: ClientId, **changes: object) -> MaskedClient:
        """A fresh session of `client`, which remembers no other task unless the test says so."""
        fresh = {"credentials": CREDENTIALS[client], "policy": SumPolicy(), "tasks": TasksInMemory()}
        settings: dict[str, object] = {**fresh, **changes}
        return self.scheme.client(self.task, client, self.vectors[client], **settings)  # type: ignore[arg-type]

    def start(self) -> Play:
        """Everybody advertises."""
        self.uplink = {c: session.start() for c, session in self.clients.items()}
        return self.send()

    def send(self, silent: frozenset[ClientId] = frozenset()) -> Play:
        """What the clients have said reaches the server, but for the silent ones; it closes the step."""
        for client, message in self.uplink.items():
            if client not in silent:
                with contextlib.suppress(RemoteProtocolError):  # it has been dropped and blamed
                    self.server.receive(client, message)
        self.mail = dict(self.server.advance())
        self.uplink = {}
        return self

    def answer(self) -> Play:
        """Everybody opens its mail."""
        for client, message in self.mail.items():
            answer = self.clients[client].receive(message)
            assert answer is not None
            self.uplink[client] = answer
        return self

    def until(self, step: int) -> Play:
        """Honest play until the server's message of `step` is in the mail: 1 roster, 2 boxes, 3 survivors ..."""
        self.start()
        for _ in range(step - 1):
            self.answer().send()
        return self

    def finish(self) -> Ints:
        """Honest play to the end; the sum, checked against its survivors' vectors."""
        while self.server.result is None:
            self.answer().send()
        result = self.server.result
        np.testing.assert_array_equal(result.total, sum(self.vectors[c] for c in sorted(result.survivors)))
        return result.total

    def down(self, message: Message) -> bytes:
        """A message in the server's name."""
        return message.to_bytes(sender=0xFFFF_FFFF, task=self.session)

    def fork(self) -> Play:
        """A copy that goes on by itself."""
        return copy.deepcopy(self)


@pytest.fixture
def play() -> Callable[..., Play]:
    """Make a `Play`."""
    return Play


@pytest.fixture
def identities() -> tuple[Mapping[ClientId, Credentials], MemoryDirectory]:
    """Forty clients' credentials, and their directory."""
    return CREDENTIALS, DIRECTORY
