"""The server streams: what it holds does not grow with the number of clients."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask

LENGTH = 400_000


@pytest.mark.parametrize("clients", [4, 12])
def test_server_memory_is_at_most_three_vectors(clients: int) -> None:
    """Over a whole round, one client silent; a message on its way in is its caller's, and counts here too."""
    task = SumTask(b"", tuple(range(clients)), 2, LENGTH, Ring(32), 10)
    scheme = MaskedSum(mode="semi-honest", share_threshold=2)
    sessions = {c: scheme.client(task, c, np.ones(LENGTH, np.int64)) for c in task.clients}
    uplink = {c: session.start() for c, session in sessions.items()}
    tracemalloc.start()
    try:
        server = scheme.server(task)
        peak = 0
        while server.result is None:
            silent = server.state.step == "MaskedInput"
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0] - server.state.total.nbytes
            for client, message in uplink.items():
                if not (silent and client == 1):
                    server.receive(client, message)
            mail = server.advance()
            peak = max(peak, tracemalloc.get_traced_memory()[1] - held)
            uplink = {c: sessions[c].receive(m) or b"" for c, m in mail.items()}
    finally:
        tracemalloc.stop()
    assert server.result.total.sum() == (clients - 1) * LENGTH
    assert LENGTH * 4 < peak <= 3 * LENGTH * 4 + 500_000
