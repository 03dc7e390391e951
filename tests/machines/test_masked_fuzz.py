"""Bytes that were tampered with, message type by message type: a typed error or the right sum, nothing else."""

from __future__ import annotations

import contextlib
import copy
import random
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import PrivflError, ProtocolError, RemoteProtocolError, WireError
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.machine import client_table
from privfl.secagg.messages import MESSAGES
from privfl.secagg.server import MaskedServer
from privfl.sums import SumTask

CLIENTS = (0, 1, 2, 3)
CREDENTIALS, DIRECTORY = generate_identities(CLIENTS)
# One task is played many times here, which no client's own memory would allow.
CREDENTIALS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}
SCHEMES = {"signed": MaskedSum(DIRECTORY), "semi-honest": MaskedSum(mode="semi-honest")}
TASK = SumTask(b"fuzz", CLIENTS, 2, 5, Ring(24), 1000)
VECTORS = {c: np.arange(5) * (c + 1) for c in CLIENTS}
UPWARD = {row.sends.__name__ for row in client_table(signed=True) if row.sends}
NAMES = [message.__name__ for message in MESSAGES]
SECONDS = 10.0
"""A thousand times what one mutation takes: beyond it, something hangs."""
SHARED = {id(DIRECTORY): DIRECTORY, id(TASK): TASK}


class Table:
    """Four clients and a server, stopped where one message is under way."""

    def __init__(self, mode: str) -> None:
        scheme = SCHEMES[mode]
        self.clients = {c: scheme.client(TASK, c, VECTORS[c], credentials=CREDENTIALS[c]) for c in CLIENTS}
        self.server: MaskedServer = scheme.server(TASK)
        self.up = {c: session.start() for c, session in self.clients.items()}
        self.down: dict[int, bytes] = {}

    def fork(self) -> Table:
        return copy.deepcopy(self, dict(SHARED))

    def deliver_up(self) -> None:
        """A message that the server refuses costs its sender the round."""
        for client, message in self.up.items():
            with contextlib.suppress(RemoteProtocolError, WireError):
                self.server.receive(client, message)
        self.up = {}

    def deliver_down(self) -> None:
        """A client that refuses a message, or ignores it as one of an earlier step, sends nothing from then on."""
        for client, message in self.down.items():
            with contextlib.suppress(ProtocolError, WireError):
                answer = self.clients[client].receive(message)
                if answer is not None:
                    self.up[client] = answer
        self.down = {}

    def finish(self) -> bool:
        """Play on; whether a sum was opened. If one was, it is the right one."""
        try:
            while self.server.result is None:
                self.deliver_down()
                self.deliver_up()
                for client in set() if self.server.ready else self.server.awaiting:
                    self.server.drop(client)
                self.down = dict(self.server.advance())
        except PrivflError:
            assert self.server.result is None
            return False
        result = self.server.result
        np.testing.assert_array_equal(result.total, sum(VECTORS[c] for c in sorted(result.survivors)))
        return True


def stopped_at(mode: str, name: str) -> tuple[Table, bytes]:
    """A table where client 1's (or for client 1) honest message of this type is under way."""
    kind = next(message.KIND for message in MESSAGES if message.__name__ == name)
    table = Table(mode)
    while True:
        mail = table.up if name in UPWARD else table.down
        if 1 in mail and int.from_bytes(mail[1][5:7], "little") == kind:
            return table, mail[1]
        if table.up:
            table.deliver_up()
            table.down = dict(table.server.advance())
        else:
            table.deliver_down()


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def extend(rng: random.Random, data: bytearray) -> None:
    data += rng.randbytes(rng.randrange(1, 40))


def remove(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 9)]


def insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randrange(1, 9))


def fill(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    span = min(rng.randrange(1, 9), len(data) - at)
    data[at : at + span] = bytes([rng.choice((0, 255))]) * span


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [flip, flip, flip, fill, cut, extend, remove, insert]


def fuzz(mode: str, name: str, count: int) -> None:
    table, honest = stopped_at(mode, name)
    assert table.fork().finish()
    rng = random.Random(f"{mode} {name}")
    for _ in range(count):
        data = bytearray(honest)
        rng.choice(MUTATIONS)(rng, data)
        if data == honest:
            continue
        started = time.monotonic()
        deliver(table, name, bytes(data))
        assert time.monotonic() - started < SECONDS


def deliver(table: Table, name: str, message: bytes) -> None:
    """Put the message in the honest one's place, and play on if its receiver takes it."""
    if accepted(table, name, message):
        fork = table.fork()
        (fork.up if name in UPWARD else fork.down)[1] = message
        fork.finish()


def accepted(table: Table, name: str, message: bytes) -> bool:
    """Whether the receiver takes the message; if not, it says so with the one error for it."""
    try:
        if name in UPWARD:
            copy.deepcopy(table.server, dict(SHARED)).receive(1, message)
        else:
            copy.deepcopy(table.clients[1], dict(SHARED)).receive(message)
    except (ProtocolError, WireError):
        return False
    return True


def cases() -> list[Any]:
    unsigned = {"ConsistencyCheck", "Signatures"}
    return [(m, n) for m in SCHEMES for n in NAMES if m == "signed" or n not in unsigned]


@pytest.mark.parametrize(("mode", "name"), cases())
def test_mutated_messages(mode: str, name: str) -> None:
    fuzz(mode, name, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("mode", "name"), cases())
def test_ten_thousand_mutations(mode: str, name: str) -> None:
    fuzz(mode, name, 10_000)


@pytest.mark.parametrize(("mode", "name"), cases())
def test_every_truncation(mode: str, name: str) -> None:
    """Whatever is cut off, the message changes nothing, and the whole one is taken afterwards."""
    table, honest = stopped_at(mode, name)
    for size in {*range(0, len(honest), 7), len(honest) - 1}:
        receiver = copy.deepcopy(table.server if name in UPWARD else table.clients[1])
        sender = (1,) if name in UPWARD else ()
        with pytest.raises(WireError):
            receiver.receive(*sender, honest[:size])
        receiver.receive(*sender, honest)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit(name: str) -> None:
    table, honest = stopped_at("signed", name)
    for bit in range(8 * len(honest)):
        data = bytearray(honest)
        data[bit // 8] ^= 1 << bit % 8
        deliver(table, name, bytes(data))
