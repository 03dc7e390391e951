"""Small CKKS sums, and who takes part in them."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from privfl.crypto import Credentials, MemoryDirectory, generate_identities
from privfl.ring import Ints, Ring
from privfl.sums import SumTask

People = tuple[dict[int, Credentials], MemoryDirectory]


def task_of(clients: int, least: int, context: bytes = b"machine", length: int = 20) -> SumTask:
    return SumTask(context, tuple(range(clients)), least, length, Ring(23), 1000)


def vectors_of(task: SumTask) -> dict[int, Ints]:
    rng = np.random.default_rng(7)
    return {c: rng.integers(-1000, 1000, task.length) for c in task.clients}


def sixty_people() -> People:
    credentials, directory = generate_identities(range(60))
    # One task is played many times here, which no client's own memory would allow.
    return {
        client: dataclasses.replace(own, tasks=SimpleNamespace(begin=len)) for client, own in credentials.items()
    }, directory
