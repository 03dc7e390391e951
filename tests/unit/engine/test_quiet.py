"""Workers are forked while no other thread is inside a library call, whose locks a child would find taken for good."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from privfl.engine.quiet import quiet

BUSY = """
import sys, threading
import numpy as np
from each_client import One, each
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.engine.pool import do_pieces

A = np.random.default_rng(0).normal(size=(400, 400))
B = A.astype(np.float32)
stop = threading.Event()

def busy(product):
    while not stop.is_set():
        product()

products = [lambda: A @ A, lambda: B.T @ B, lambda: A @ A.T]
threads = [threading.Thread(target=busy, args=(product,)) for product in products[: int(sys.argv[1])]]

def work(model, client, order):
    return (1e3 * (A @ A)[client]).astype(np.int64)

expected = {client: answer.tobytes() for client, answer in each(LoopExecutor(), work, A[0], range(3), order=b"")}
for thread in threads:
    thread.start()
try:
    with ProcessExecutor(2) as executor:
        got = each(executor, work, A[0], range(3), order=b"")
        assert {client: answer.tobytes() for client, answer in got} == expected
    assert dict(do_pieces(lambda n: float((B @ B.T)[0, n]) != 0.0, range(3), 2)) == {0: True, 1: True, 2: True}
finally:
    stop.set()
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_of_a_process_whose_threads_multiply_matrices(threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUSY, str(threads)],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_interpreter_is_as_before() -> None:
    before = sys.getswitchinterval()
    for active in (False, True):
        with quiet(active=active):
            assert (sys.getswitchinterval() > 100) == active
        assert sys.getswitchinterval() == before
