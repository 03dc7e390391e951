"""MaskedSum gives, bit for bit, what PlainSum gives over the same survivors."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.ring import Ints, Ring
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum, SumTask, run_sum
from privfl.wire import ClientId

CREDENTIALS, DIRECTORY = generate_identities(range(200))
# One task is played many times here, which no client's own memory would allow.
CREDENTIALS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}


def schemes() -> dict[str, MaskedSum]:
    return {
        "signed": MaskedSum(DIRECTORY),
        "semi-honest": MaskedSum(mode="semi-honest"),
        "ring": MaskedSum(DIRECTORY, graph=6, share_threshold=4, corrupt=0, dropout=0.5),
        "packed": MaskedSum(DIRECTORY, packed=True),
        "threads": MaskedSum(DIRECTORY, threads=2),
    }


def vectors_for(task: SumTask, seed: int) -> dict[ClientId, Ints]:
    rng = np.random.default_rng(seed)
    return {c: rng.integers(-task.bound, task.bound, task.length, endpoint=True) for c in task.clients}


@pytest.mark.parametrize("bits", [8, 16, 17, 24, 32, 40, 64])
@pytest.mark.parametrize("name", list(schemes()))
def test_masked_equals_plain(name: str, bits: int) -> None:
    ring = Ring(bits)
    clients = tuple(sorted(random.Random(bits).sample(range(200), 9)))
    task = SumTask(b"round 1", clients, 2, 1001, ring, (ring.half - 1) // 9)
    vectors = vectors_for(task, bits)
    gone = {clients[1]: 2, clients[7]: 3}

    def drop(client: ClientId, step: int) -> bool:
        return gone.get(client, 99) == step

    masked = run_sum(schemes()[name], task, vectors, credentials=CREDENTIALS, drop=drop)
    plain = run_sum(PlainSum(), task, {c: vectors[c] for c in masked.survivors})
    assert masked.survivors == set(clients) - {clients[1]}  # the other one fell silent after its upload
    np.testing.assert_array_equal(masked.total, plain.total)
    assert masked.total.dtype == plain.total.dtype == np.int64
