"""t - 1 colluding clients and the whole transcript: two inputs with one sum look the same."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from privfl.crypto import add_keystreams, generate_identities
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.secagg.messages import MaskedInput
from privfl.sums import SumTask
from privfl.wire import HEADER_BYTES

LENGTH = 100_000
CLIENTS = (0, 1, 2, 3, 4)
COLLUDERS = (2, 3, 4)  # t - 1 of them, for t = 4 of 5
CREDENTIALS, DIRECTORY = generate_identities(CLIENTS)
# One task is played many times here, which no client's own memory would allow.
CREDENTIALS = {client: replace(own, tasks=SimpleNamespace(begin=len)) for client, own in CREDENTIALS.items()}


def adversary_view(bits: int, world: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """What is left of client 0's upload once the colluders have taken off every mask they know, and the sum."""
    ring = Ring(bits)
    task = SumTask(b"view", CLIENTS, 2, LENGTH, ring, (ring.half - 1) // 5)
    scheme = MaskedSum(DIRECTORY)
    high = np.full(LENGTH, task.bound)
    vectors = {c: np.zeros(LENGTH, np.int64) for c in CLIENTS}
    vectors[0], vectors[1] = (high, -high) if world == 0 else (-high, high)  # one sum, opposite inputs
    clients = {c: scheme.client(task, c, vectors[c], credentials=CREDENTIALS[c]) for c in CLIENTS}
    server = scheme.server(task)
    uplink = {c: session.start() for c, session in clients.items()}
    upload, known = b"", []
    while server.result is None:
        if server.state.step == "MaskedInput":
            upload = uplink[0]
            known = [peer.mask for c in COLLUDERS for peer in clients[c]._peers.values() if peer.client == 0]
        for client, message in uplink.items():
            server.receive(client, message)
        uplink = {c: clients[c].receive(m) or b"" for c, m in server.advance().items()}
    values = MaskedInput.from_body(memoryview(upload)[HEADER_BYTES:]).values
    words = ring.unpack(values, LENGTH).copy()
    add_keystreams(words, [], known)  # client 0, the lowest, had added all of them
    return ring.mask(words), server.result.total


def chi_square(values: npt.NDArray[Any], bins: int) -> float:
    """Standard deviations by which the chi-square statistic of uniformity is off its mean."""
    counts = np.bincount(values, minlength=bins)
    expected = len(values) / bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (bins - 1)) / math.sqrt(2 * (bins - 1))


@pytest.mark.parametrize("bits", [8, 12, 32])
def test_colluders_cannot_tell_inputs_with_equal_sum_apart(bits: int) -> None:
    views = [adversary_view(bits, world) for world in (0, 1)]
    np.testing.assert_array_equal(views[0][1], views[1][1])
    for view, _ in views:
        for shift in range(0, bits, 8):  # each byte of the word
            part = (view >> np.asarray(shift, view.dtype)) & np.asarray(min(255, 2 ** (bits - shift) - 1), view.dtype)
            assert abs(chi_square(part.astype(np.int64), min(256, 2 ** (bits - shift)))) < 6
    if bits <= 12:  # 10^5 draws reach every value, the greatest included
        for view, _ in views:
            assert set(np.unique(view).tolist()) == set(range(2**bits))
            assert int(view.max()) == 2**bits - 1
    means = [float(view.astype(np.float64).mean()) for view, _ in views]
    assert abs(means[0] - means[1]) < 6 * 2**bits / math.sqrt(6 * LENGTH)


def test_without_its_own_mask_the_test_would_see_through() -> None:
    """The statistic above does find a vector that is not masked."""
    assert chi_square(np.full(LENGTH, 25), 256) > 1000
