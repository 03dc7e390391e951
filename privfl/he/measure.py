"""What a CKKS sum costs on this machine: the figures of `CkksSpeed`, measured on small sums."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from privfl.crypto import SigningKey, generate_identities
from privfl.he.ckks_sum import CkksSum
from privfl.he.plan import CkksSpeed, plan_ckks
from privfl.ring import Ring
from privfl.sums import SumTask, run_sum
from privfl.wire import ClientId

_SHORT: Final = 4096
_LONG: Final = 16 * _SHORT
_CLIENTS: Final = 5
_REPEATS: Final = 5

Times = tuple[float, float, float]
"""Seconds of one client's frame, of the server for each frame, of the opening."""


def measure_ckks_speed(bits: int = 31) -> CkksSpeed:
    """This machine's figures for a ring of `bits`, the best of a few tries, in about a second.

    Whole sums are played, so that hashes, tags, checks and copies count, and each message's answer is timed. Raises
    `MissingExtra` without TenSEAL, and `CapacityError` for a ring that is too wide.
    """
    _play(1, _LONG, bits)  # the first sum tests TenSEAL and fills caches
    seal_short, _, open_short = _best(1, _SHORT, bits)
    seal_one, _, open_one = _best(1, _LONG, bits)
    seal_many, server, open_many = _best(_CLIENTS, _LONG, bits)
    check, values = _verification(), _LONG - _SHORT
    encrypt = max(0.0, min(seal_one, seal_many) - seal_short) / values
    expand = max(0.0, (open_many - open_one) / (_CLIENTS - 1) - 2 * check) / _LONG
    return CkksSpeed(
        encrypt=encrypt,
        add=max(0.0, server - 2 * check) / _LONG,
        open=max(0.0, (open_one - open_short) / values - expand),
        expand=expand,
        verification=check,
        setup=max(0.0, seal_short - 2 * check - encrypt * _SHORT),
    )


def _best(clients: int, length: int, bits: int) -> Times:
    frame, server, opening = zip(*(_play(clients, length, bits) for _ in range(_REPEATS)), strict=True)
    return min(frame), min(server), min(opening)


def _play(clients: int, length: int, bits: int) -> Times:
    """One sum; a client's answer takes from the message down to the message up, the server's work until the next."""
    credentials, directory = generate_identities(range(clients))
    ring = Ring(bits)
    task = SumTask(b"measure", tuple(range(clients)), 1, length, ring, (ring.half - 1) // clients)
    vector = np.arange(length) % 3 - 1
    size = plan_ckks(length, clients, ring).bytes_up
    seen: list[tuple[float, str, int]] = []

    def tap(direction: str, client: ClientId, message: bytes) -> None:
        seen.append((time.process_time(), direction, len(message)))

    run_sum(
        CkksSum(directory, min_vectors=1), task, dict.fromkeys(task.clients, vector), credentials=credentials, tap=tap
    )
    seen.append((time.process_time(), "end", 0))
    moments = [moment for moment, _, _ in seen]
    frames = [at for at, (_, direction, length) in enumerate(seen) if direction == "up" and length == size]
    return (
        min(moments[at] - moments[at - 1] for at in frames),
        sum(moments[at + 1] - moments[at] for at in frames) / clients,
        moments[-2] - moments[-3],
    )


def _verification() -> float:
    signing = SigningKey(bytes(32))
    signature = signing.sign("measure")
    spent = []
    for _ in range(50):
        start = time.process_time()
        signing.public.verify(signature, "measure")
        spent.append(time.process_time() - start)
    return min(spent)
