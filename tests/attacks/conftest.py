"""A masked and a CKKS sum whose messages can be held, altered and replayed between any two steps."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privfl.crypto import Credentials, MemoryDirectory, TasksInMemory, generate_identities
from privfl.errors import LocalProtocolError, RemoteProtocolError, WireError
from privfl.he import CkksSum, plan_for
from privfl.he.client import CkksClient
from privfl.he.messages import AskOpener, Frame, FrameHeader, digest
from privfl.he.packing import pack
from privfl.he.seal import SealCipher
from privfl.he.server import CkksServer
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum
from privfl.secagg.client import MaskedClient
from privfl.sums import SumPolicy, SumTask
from privfl.wire import SERVER, ClientId, Message, decode

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
                with contextlib.suppress(RemoteProtocolError, WireError):  # dropped and blamed, or not taken
                    self.server.receive(client, message)
        for client in set() if self.server.ready else self.server.awaiting:
            self.server.drop(client)
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


class CkksRoom:
    """Clients 0 .. n-1 of a CKKS sum and an honest server; what one party says can be altered before it arrives."""

    def __init__(
        self, clients: int = 5, *, least: int = 3, length: int = 300, bits: int = 23, context: bytes = b"round 1"
    ) -> None:
        ring = Ring(bits)
        self.task = SumTask(context, tuple(range(clients)), least, length, ring, (ring.half - 1) // clients)
        self.credentials, self.directory = generate_identities(self.task.clients)
        self.scheme, self.plan = CkksSum(self.directory), plan_for(self.task)
        rng = np.random.default_rng(1)
        self.vectors: dict[ClientId, Ints] = {c: rng.integers(-1000, 1000, length) for c in self.task.clients}
        self.open()

    def open(self) -> None:
        """Fresh sessions, which remember no task."""
        self.server: CkksServer = self.scheme.server(self.task)
        self.sessions: dict[ClientId, CkksClient] = {
            c: self.scheme.client(
                self.task, c, self.vectors[c], credentials=self.credentials[c], tasks=SimpleNamespace(begin=len)
            )
            for c in self.task.clients
        }
        self.refusals: list[RemoteProtocolError] = []
        self.frames: dict[ClientId, bytes] = {}

    def until(self, state: str, alter: Callable[[ClientId, bytes], bytes] | None = None) -> dict[ClientId, bytes]:
        """Play until the server has asked for `state`; its messages are returned, not delivered.

        `alter` may change what a client says to the server; what the server then raises is kept in `refusals`.
        """
        answers: dict[ClientId, bytes] = {c: session.start() for c, session in self.sessions.items()}
        while True:
            for client, answer in answers.items():
                if self.server.step == "frame":
                    self.frames[client] = answer
                try:
                    self.server.receive(client, alter(client, answer) if alter else answer)
                except RemoteProtocolError as error:
                    self.refusals.append(error)
            if self.server.result is not None:
                return {}
            messages = dict(self.server.advance())
            if self.server.step == state:
                return messages
            answers = {client: self.answer(client, message) for client, message in messages.items()}

    def answer(self, client: ClientId, message: bytes) -> bytes:
        """What one client says to one message of the server."""
        answer = self.sessions[client].receive(message)
        assert answer is not None
        return answer

    def ask(self) -> AskOpener:
        """Honest play until the first opener is asked."""
        (message,) = self.until("open").values()
        return self.read(AskOpener, message)

    def upload(self) -> CkksRoom:
        """Honest play until the server awaits the frames, which are ready."""
        self.frames = {client: self.answer(client, message) for client, message in self.until("frame").items()}
        return self

    def frame(self, client: ClientId) -> Frame:
        """A client's frame, taken apart."""
        return self.read(Frame, self.frames[client])

    def resigned(self, client: ClientId, /, *, block: bytes | None = None, **changes: Any) -> bytes:
        """A client's frame with changes, signed properly by that client."""
        frame = self.frame(client)
        body = bytes(frame.block) if block is None else block
        header: FrameHeader = dataclasses.replace(frame.header, block=digest(body), **changes)
        header = header.sign(self.task.digest(), self.credentials[client].signing)
        return Frame(header, body).to_bytes(sender=client, task=self.task.digest())

    def sealed(self, client: ClientId, values: Ints) -> bytes:
        """A frame of other `values`, of any length and size, made by that client with all that it knows."""
        held = self.sessions[client]._secrets
        assert held is not None
        assert held.cipher is not None
        block, seeds = held.cipher.ckks.encrypt(values)
        tag = held.cipher.tagger.sign(held.cipher.tagger.block(block), client)
        return self.resigned(client, block=pack(block, self.plan.residue_bytes), seeds=seeds, tag=tag)

    def finish(self, survivors: set[ClientId]) -> None:
        """The frames that are awaited come in, and the sum is that of `survivors`."""
        for client in sorted(self.server.awaiting & self.frames.keys()):
            self.server.receive(client, self.frames[client])
        while self.server.result is None:
            for client, message in self.server.advance().items():
                self.server.receive(client, self.answer(client, message))
        self.check(survivors)

    def check(self, survivors: set[ClientId]) -> None:
        """The sum has ended with the exact total of `survivors`."""
        result = self.server.result
        assert result is not None
        assert result.survivors == survivors
        np.testing.assert_array_equal(result.total, sum(self.vectors[c] for c in survivors))

    def refuses(self, client: ClientId, lie: Message | bytes, error: type[Exception], match: str) -> Any:
        """The client refuses what the server says, for good, and keeps no key; the error."""
        session = self.sessions[client]
        message = lie if isinstance(lie, bytes) else lie.to_bytes(sender=SERVER, task=self.task.digest())
        with pytest.raises(error, match=match) as raised:
            session.receive(message)
        assert session.state == "aborted"
        with pytest.raises(LocalProtocolError):
            session.receive(message)
        assert not reachable(session, SealCipher), "an aborted session keeps no key"
        return raised.value

    @staticmethod
    def read(kind: type[Any], message: bytes) -> Any:
        """The one message of this kind."""
        return decode(message, [kind], max_length=1 << 30)[1]


def reachable(root: object, *kinds: type) -> list[object]:
    """Every instance of `kinds` that can be reached from `root`, modules and classes left aside."""
    seen, todo, found = {id(root)}, [root], []
    while todo:
        thing = todo.pop()
        if isinstance(thing, kinds):
            found.append(thing)
        for other in gc.get_referents(thing):
            if (
                id(other) not in seen
                and not isinstance(other, type)
                and type(other).__name__ not in ("module", "function")
            ):
                seen.add(id(other))
                todo.append(other)
    return found


@pytest.fixture(name="reachable")
def fixture_reachable() -> Callable[..., list[object]]:
    """The search through all that an object holds."""
    return reachable


@pytest.fixture
def ckks() -> type[CkksRoom]:
    """Make a `CkksRoom`."""
    return CkksRoom
