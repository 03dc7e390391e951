"""Every dropout pattern of four clients, and random ones of many: the exact sum, or `TooFewSurvivors`."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import TooFewSurvivors
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask, run_sum
from privfl.wire import ClientId

CREDENTIALS, DIRECTORY = generate_identities(range(60))
# One task is played many times here, which no client's own memory would allow.
CREDENTIALS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}
RING = Ring(32)
STAYS = 9


def run(scheme: MaskedSum, task: SumTask, falls: dict[ClientId, int]) -> Ints | None:
    """The sum under one pattern (client -> the step from which it is silent), checked; None if nothing was opened."""
    rng = np.random.default_rng(len(task.clients))
    vectors = {c: rng.integers(-task.bound, task.bound, task.length, endpoint=True) for c in task.clients}
    try:
        result = run_sum(scheme, task, vectors, credentials=CREDENTIALS, drop=lambda c, step: falls[c] <= step)
    except TooFewSurvivors:
        return None
    uploaded = {c for c in task.clients if falls[c] > 2}  # steps 0 advertise, 1 share, 2 upload, 3 and 4 unmask
    assert result.survivors == uploaded
    np.testing.assert_array_equal(result.total, sum(vectors[c] for c in sorted(uploaded)))
    assert not result.blamed
    return result.total


@pytest.mark.parametrize("mode", ["signed", "semi-honest"])
def test_every_pattern_of_four(mode: str) -> None:
    """Each client falls silent at any of the steps, or never: 6^4 patterns in signed mode, 5^4 without signatures.

    With threshold 3 the sum is opened exactly when three clients give their shares, whoever fell silent before.
    """
    signed = mode == "signed"
    scheme = MaskedSum(DIRECTORY) if signed else MaskedSum(mode="semi-honest", share_threshold=3)
    task = SumTask(b"round", (0, 1, 2, 3), 2, 3, RING, 1000)
    steps = 5 if signed else 4
    opened = 0
    for pattern in itertools.product((*range(steps), STAYS), repeat=4):
        enough = pattern.count(STAYS) >= 3
        assert (run(scheme, task, dict(enumerate(pattern))) is not None) == enough, pattern
        opened += enough
    assert opened == 1 + 4 * steps


@pytest.mark.parametrize("pattern", list(itertools.product((2, 3, 4, STAYS), repeat=3)))
def test_the_least_number_of_vectors_is_not_the_threshold(pattern: tuple[int, ...]) -> None:
    """min_survivors counts vectors in the sum, the threshold clients that help to open it."""
    task = SumTask(b"round", (0, 1, 2, 3), 4, 1, RING, 1000)
    falls = dict(enumerate((*pattern, STAYS)))
    enough = min(pattern) > 2 and list(falls.values()).count(STAYS) >= 3
    assert (run(MaskedSum(DIRECTORY), task, falls) is not None) == enough


@pytest.mark.parametrize("seed", range(12))
def test_random_patterns_of_many(seed: int) -> None:
    rng = random.Random(seed)
    clients = tuple(sorted(rng.sample(range(60), rng.randint(5, 60))))
    task = SumTask(b"round", clients, 2, 5, RING, 1000)
    scheme = MaskedSum(DIRECTORY) if seed % 2 else MaskedSum(mode="semi-honest")
    chance = rng.choice([0.05, 0.1, 0.3])
    falls = {c: rng.randrange(5) if rng.random() < chance else STAYS for c in clients}
    threshold = scheme.terms(task).threshold
    last = 4 if seed % 2 else 3
    enough = sum(step > last for step in falls.values()) >= threshold
    assert (run(scheme, task, falls) is not None) == enough


@pytest.mark.parametrize("seed", range(8))
def test_random_patterns_on_a_ring(seed: int) -> None:
    """On a ring the sum opens as long as every secret that is needed has enough holders left."""
    rng = random.Random(seed)
    clients = tuple(sorted(rng.sample(range(60), rng.randint(30, 60))))
    task = SumTask(b"round", clients, 2, 5, RING, 1000)
    scheme = MaskedSum(DIRECTORY, graph=16, share_threshold=9, corrupt=0, dropout=0.3)
    falls = {c: rng.randrange(5) if rng.random() < 0.1 else STAYS for c in clients}
    assert run(scheme, task, falls) is not None


def test_a_gap_in_the_ring_opens_nothing() -> None:
    """Three in a row fall silent on a ring of degree 6: the server stops before it could cut the sum in two."""
    scheme = MaskedSum(DIRECTORY, graph=6, share_threshold=4, corrupt=0, dropout=0.5)
    task = SumTask(b"round", tuple(range(30)), 2, 5, RING, 1000)
    clients = {c: scheme.client(task, c, np.zeros(5, np.int64), credentials=CREDENTIALS[c]) for c in task.clients}
    server = scheme.server(task)
    uplink = {c: session.start() for c, session in clients.items()}
    for client, message in uplink.items():
        server.receive(client, message)
    uplink = {c: clients[c].receive(m) or b"" for c, m in server.advance().items()}
    gap = set(server._graph._order[10:13].tolist())
    for client in set(uplink) - gap:
        server.receive(client, uplink[client])
    assert not server.ready
    for client in gap:
        server.drop(client)
    with pytest.raises(TooFewSurvivors):
        server.advance()


def test_a_client_without_enough_neighbors_is_left_in_peace() -> None:
    """Its neighbors fell silent here and there: nobody asks it for what it would refuse, and the rest goes on."""
    scheme = MaskedSum(DIRECTORY, graph=8, share_threshold=5, corrupt=0, dropout=0.5)
    task = SumTask(b"round", tuple(range(40)), 2, 5, RING, 1000)
    clients = {c: scheme.client(task, c, np.ones(5, np.int64), credentials=CREDENTIALS[c]) for c in task.clients}
    server = scheme.server(task)
    uplink = {c: session.start() for c, session in clients.items()}
    for client, message in uplink.items():
        server.receive(client, message)
    uplink = {c: clients[c].receive(m) or b"" for c, m in server.advance().items()}
    order = server._graph._order.tolist()
    gone = {order[i] for i in (18, 19, 21, 22)}  # four of the eight neighbors of order[20]
    for client in set(uplink) - gone:
        server.receive(client, uplink[client])
    mail = server.advance()
    assert order[20] not in mail
    assert order[0] in mail
