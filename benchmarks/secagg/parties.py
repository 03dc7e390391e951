"""One masked sum in one process, with the seconds of each party kept apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from privfl.crypto import generate_identities
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask

BITS = 32


@dataclass(frozen=True)
class Played:
    """Seconds of the median client and of the server, and the bytes of one client."""

    clients: int
    length: int
    dropped: int
    degree: int
    threshold: int
    client_seconds: float
    server_seconds: float
    bytes_up: int
    bytes_down: int


def play(
    clients: int,
    length: int,
    *,
    dropped: float = 0.0,
    threads: int = 1,
    dropout: float = 0.1,
    corrupt: float = 0.05,
    tell: Callable[[str], None] = lambda step: None,
) -> Played:
    """A whole round in which the fraction `dropped` falls silent instead of uploading; the sum is checked.

    Planned for the fractions `dropout` and `corrupt`; `tell` hears of each step that begins.
    """
    credentials, directory = generate_identities(range(clients))
    scheme = MaskedSum(directory, threads=threads, dropout=dropout, corrupt=corrupt)
    task = SumTask(b"benchmark", tuple(range(clients)), 2, length, Ring(BITS), 1000)
    vector = np.random.default_rng(0).integers(-1000, 1000, length)
    gone = set(range(0, clients, max(1, round(1 / dropped)))) if dropped else set()
    while len(gone) > int(dropped * clients):
        gone.pop()
    sessions = {c: scheme.client(task, c, vector, credentials=credentials[c]) for c in task.clients}
    server = scheme.server(task)
    spent, served, up, down = dict.fromkeys(task.clients, 0.0), 0.0, 0, 0
    mail: dict[int, bytes | None] = dict.fromkeys(task.clients)
    watched = clients - 1
    while server.result is None:
        step = server.state.step
        tell(step)
        for client, message in mail.items():
            if client in gone and step == "MaskedInput":
                continue
            start = time.perf_counter()
            answer = sessions[client].start() if message is None else sessions[client].receive(message)
            spent[client] += time.perf_counter() - start
            if client == watched:
                up, down = up + len(answer or b""), down + len(message or b"")
            start = time.perf_counter()
            server.receive(client, answer or b"")
            served += time.perf_counter() - start
            if client in gone and step == "ShareKeys":
                del sessions[client]
        start = time.perf_counter()
        mail = dict(server.advance())
        served += time.perf_counter() - start
    np.testing.assert_array_equal(server.result.total, vector * (clients - len(gone)))
    terms = scheme.terms(task)
    middle = statistics.median(spent[c] for c in task.clients if c not in gone)
    return Played(clients, length, len(gone), terms.degree, terms.threshold, middle, served, up, down)
