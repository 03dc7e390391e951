"""Runs all parties of a sum in one process, with dropouts where a test or a simulation wants them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from privfl.errors import ConfigError, PrivflError, ProtocolError, RemoteProtocolError, TooFewSurvivors, WireError
from privfl.ring import Ints
from privfl.sums.base import (
    ClientSession,
    Entropy,
    Opening,
    SecureSum,
    ServerSession,
    SumPolicy,
    SumResult,
    SumTask,
    identity,
)
from privfl.wire import ClientId

Drop = Callable[[ClientId, int], bool]
"""(client, step) -> whether the client falls silent from that message on; step 0 is its first message."""

Tap = Callable[[Literal["up", "down"], ClientId, bytes], None]
"""Sees every message that crosses the wire: for byte counts and for pictures of what the server saw."""

Vectors = Mapping[ClientId, Ints] | Iterable[tuple[ClientId, Ints]]


def never(client: ClientId, step: int) -> bool:
    """The drop pattern of clients that all stay."""
    return False


def ignore(direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
    """The tap that sees nothing."""


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
    """The sum of `vectors` (int64 `[task.length]` by client) over the clients that stay.

    `vectors` is read once, in its own order, so that it may be a generator that trains clients one by one; a client
    that is missing from it never spoke. A client whose session refuses to go on has dropped out, as it would have over
    a network. Raises `TooFewSurvivors` (from the first refusal, if there was one), and `ConfigError` for a vector
    outside the task.
    """
    server = scheme.server(task, opening=opening)
    sessions: dict[ClientId, ClientSession] = {}
    met: set[ClientId] = set()
    pairs = vectors.items() if isinstance(vectors, Mapping) else vectors
    for client, vector in pairs:
        if client in met:
            raise ConfigError(f"client {client} has two vectors")
        met.add(client)
        if credentials is not None and client not in credentials:
            raise ConfigError(f"client {client} has no credentials")
        keys = credentials[client] if credentials is not None else None
        session = scheme.client(task, client, vector, credentials=keys, policy=policy, opening=opening, entropy=entropy)
        if not drop(client, 0):
            sessions[client] = session
            _deliver(server, client, session.start(), tap)
    step = 0
    refusal: PrivflError | None = None
    while server.result is None:
        step += 1
        try:
            messages = server.advance()
        except TooFewSurvivors as error:
            raise error from refusal
        for client, message in messages.items():
            if client not in sessions:
                continue
            if drop(client, step):
                del sessions[client]
                continue
            tap("down", client, message)
            try:
                answer = sessions[client].receive(message)
            except (ProtocolError, WireError) as error:
                refusal = refusal or error
                del sessions[client]
                continue
            if answer is not None:
                _deliver(server, client, answer, tap)
    return server.result


def _deliver(server: ServerSession, client: ClientId, message: bytes, tap: Tap) -> None:
    tap("up", client, message)
    try:
        server.receive(client, message)
    except RemoteProtocolError:
        return  # the server has dropped and blamed this client, and the others go on
