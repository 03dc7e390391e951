"""Runs all parties of a sum in one process, with dropouts where a test or a simulation wants them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from privfl.errors import ConfigError, PrivflError, ProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ints, Opening
from privfl.sums.base import (
    ClientSession,
    Entropy,
    SecureSum,
    ServerSession,
    SumPolicy,
    SumResult,
    SumTask,
    identity,
)
from privfl.wire import ClientId

Drop = Callable[[ClientId, int], bool]
"""(client, step) -> whether the client drops out from that message on; step 0 is its first message."""

Tap = Callable[[Literal["up", "down"], ClientId, bytes], None]
"""Sees every message that crosses the wire: for byte counts and for pictures of what the server saw."""

Vectors = Mapping[ClientId, Ints] | Iterable[tuple[ClientId, Ints]]


def never(client: ClientId, step: int) -> bool:
    """Return False: the drop pattern of clients that all stay.

    Args:
        client: The client.
        step: The number of its message.
    """
    return False


def ignore(direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
    """Do nothing: the tap that sees no message.

    Args:
        direction: "up" from a client, "down" from the server.
        client: The client.
        message: The bytes.
    """


def run_sum(
    scheme: SecureSum,
    task: SumTask,
    vectors: Vectors,
    *,
    credentials: Mapping[ClientId, Any] | None = None,
    policy: SumPolicy = SumPolicy(),
    opening: Opening = identity,
    drop: Drop = never,
    tap: Tap = ignore,
    entropy: Entropy = os.urandom,
) -> SumResult:
    """Run all parties of a sum in this process, and return the sum of the survivors' vectors.

    A client whose session raises an error has dropped out, as it would have over a network.

    Args:
        scheme: The sum.
        task: The task.
        vectors: int64 `[task.length]` by client. They are read once, in the order of the mapping: a generator may train
            clients one by one. A client without a vector never sends a message.
        credentials: Each client's keys, where the sum needs them.
        policy: The minima that each client insists on.
        opening: Applied to the sum where it is opened, such as central noise.
        drop: (client, step) -> whether the client drops out from that message on.
        tap: Called with every message.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        TooFewSurvivors: No sum is opened; from the first refusal, if there was one.
        ConfigError: A vector is outside the task.
    """
    server = scheme.server(task, opening=opening)

    def sessions() -> Iterator[tuple[ClientId, ClientSession]]:
        for client, vector in vectors.items() if isinstance(vectors, Mapping) else vectors:
            if credentials is not None and client not in credentials:
                raise ConfigError(f"client {client} has no credentials")
            keys = credentials[client] if credentials is not None else None
            yield (
                client,
                scheme.client(task, client, vector, credentials=keys, policy=policy, opening=opening, entropy=entropy),
            )

    return drive(server, sessions(), drop=drop, tap=tap)


def drive(
    server: ServerSession,
    sessions: Iterable[tuple[ClientId, ClientSession]],
    *,
    drop: Drop = never,
    tap: Tap = ignore,
) -> SumResult:
    """Carry every message of one sum between the parties, in one process.

    Args:
        server: The server's side.
        sessions: The clients' sides, read once and in their own order; each is started as it comes.
        drop: Which client drops out at which step.
        tap: Sees every message.

    Returns:
        The opened sum.

    Raises:
        TooFewSurvivors: If nothing can be opened, from the first refusal of a client if there was one.
        ConfigError: If a client has two sessions.
    """
    live: dict[ClientId, ClientSession] = {}
    met: set[ClientId] = set()
    refusal: PrivflError | None = None
    for client, session in sessions:
        if client in met:
            raise ConfigError(f"client {client} has two vectors")
        met.add(client)
        if drop(client, 0):
            continue
        try:
            first = session.start()
        except _REFUSALS as error:
            refusal = refusal or error
            continue
        live[client] = session
        _deliver(server, client, first, tap)
    step = 0
    while server.result is None:
        step += 1
        try:
            messages = _advance(server)
        except TooFewSurvivors as error:
            raise error from refusal
        for client in [client for client in messages if client in live and drop(client, step)]:
            del live[client]
        refused = _exchange(server, live, messages, tap)
        refusal = refusal or refused
    return server.result


_REFUSALS: Final = (ProtocolError, WireError)
"""What a client's session raises when it refuses to go on."""


def _advance(server: ServerSession) -> Mapping[ClientId, bytes]:
    """Close the step. Here, nobody who has not answered yet will."""
    if not server.ready:
        for client in server.awaiting:
            server.drop(client)
    return server.advance()


def _exchange(
    server: ServerSession, sessions: dict[ClientId, ClientSession], messages: Mapping[ClientId, bytes], tap: Tap
) -> PrivflError | None:
    """Give the messages to the sessions and their answers to the server; the first refusal, which ends a session."""
    refusal: PrivflError | None = None
    for client, message in messages.items():
        if client not in sessions:
            continue
        tap("down", client, message)
        try:
            answer = sessions[client].receive(message)
        except _REFUSALS as error:
            refusal = refusal or error
            del sessions[client]
            continue
        if answer is not None:
            _deliver(server, client, answer, tap)
    return refusal


def _deliver(server: ServerSession, client: ClientId, message: bytes, tap: Tap) -> None:
    tap("up", client, message)
    try:
        server.receive(client, message)
    except (RemoteProtocolError, WireError):
        return  # the server takes nothing from this client in this step, and the others go on
