"""Sessions under several threads: messages are taken one by one, and a client signs one list of survivors."""

import copy
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import PrivflError
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.messages import Bitmap, Survivors
from privfl.sums import SumTask
from privfl.wire import SERVER

CLIENTS = tuple(range(6))


def at_once(calls: list[Callable[[], Any]]) -> None:
    """Make all calls in threads that start together."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> None:
        gate.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def until(
    scheme: MaskedSum, task: SumTask, credentials: Any, step: str, vectors: Any
) -> tuple[Any, Any, dict[int, bytes]]:
    server = scheme.server(task)
    sessions = {c: scheme.client(task, c, vectors[c], credentials=credentials.get(c)) for c in CLIENTS}
    for c in CLIENTS:
        server.receive(c, sessions[c].start())
    mail = dict(server.advance())
    while server.step != step:
        for c, message in mail.items():
            server.receive(c, sessions[c].receive(message))
        mail = dict(server.advance())
    return server, sessions, mail


def test_vectors_from_several_threads_give_the_sum_of_one() -> None:
    length = 500_000
    scheme = MaskedSum(mode="semi-honest", share_threshold=4)
    task = SumTask(b"threads", CLIENTS, 4, length, Ring(32), 9)
    server, sessions, mail = until(scheme, task, {}, "MaskedInput", {c: np.full(length, c) for c in CLIENTS})
    answers = {c: sessions[c].receive(message) for c, message in mail.items()}
    before = server.to_bytes()
    for c, answer in answers.items():
        server.receive(c, answer)
    for _ in range(15):
        again = scheme.resume(task, before)
        calls = [lambda c=c, s=again: s.receive(c, answers[c]) for c in CLIENTS]
        at_once([*calls, *calls[:2]])  # two of them come twice
        assert again.to_bytes() == server.to_bytes()


class SlowKey:
    """A signing key in a device that takes its time."""

    def __init__(self, key: Any) -> None:
        self._key, self.public = key, key.public

    def sign(self, *parts: Any) -> bytes:
        time.sleep(0.1)
        return bytes(self._key.sign(*parts))


@pytest.mark.parametrize("same", [False, True], ids=["two lists", "one list twice"])
def test_a_client_signs_one_list_whatever_the_threads(*, same: bool) -> None:
    credentials, directory = generate_identities(CLIENTS)
    credentials[0] = dataclasses.replace(credentials[0], signing=SlowKey(credentials[0].signing))  # type: ignore[arg-type]
    scheme, task = MaskedSum(directory), SumTask(b"lists", CLIENTS, 5, 1, Ring(32), 9)
    _, sessions, _ = until(scheme, task, credentials, "ConsistencyCheck", {c: np.ones(1, np.int64) for c in CLIENTS})
    session = scheme.terms(task).digest()
    lists = [
        Survivors(Bitmap.of(6, places)).to_bytes(sender=SERVER, task=session)
        for places in (range(6), range(6 if same else 5))
    ]
    signed: list[bytes] = []
    refused: list[PrivflError] = []

    def ask(message: bytes) -> None:
        try:
            signed.append(sessions[0].receive(message))
        except PrivflError as error:
            refused.append(error)

    at_once([lambda m=m: ask(m) for m in lists])
    assert len(set(signed)) == 1
    assert (len(signed), len(refused)) == ((2, 0) if same else (1, 1))


def test_only_one_of_several_closes_a_step() -> None:
    scheme = MaskedSum(mode="semi-honest", share_threshold=4)
    task = SumTask(b"close", CLIENTS, 4, 3, Ring(32), 9)
    server, sessions, mail = until(scheme, task, {}, "ShareKeys", {c: np.full(3, c) for c in CLIENTS})
    for c, message in mail.items():
        server.receive(c, sessions[c].receive(message))
    closed: list[Any] = []

    def close() -> None:
        try:
            closed.append(server.advance())
        except PrivflError as error:
            closed.append(error)

    at_once([close] * 4)
    assert sum(isinstance(outcome, dict) for outcome in closed) == 1
    assert server.step == "MaskedInput"


def test_a_copy_of_a_session_has_a_lock_of_its_own() -> None:
    scheme = MaskedSum(mode="semi-honest")
    server = scheme.server(SumTask(b"copy", CLIENTS, 4, 3, Ring(32), 9))
    fork = copy.deepcopy(server)
    with server._guard:
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(fork.ready))
        thread.start()
        thread.join(5)
        assert done == [False]
