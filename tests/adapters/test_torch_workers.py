"""torch in forked workers: one thread, the bits of the loop, and a typed error where it would hang otherwise.

Each case has an interpreter of its own, whose torch has two threads and has used them before anything is forked. It
sees no GPU: torch trains in no forked process whose parent has trained next to one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import multiprocessing, os, threading, time
import numpy as np
import torch
from torch import nn
from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain
from privfl.adapters.torch.state import one_thread
from each_client import each
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.engine.pool import do_pieces
from privfl.errors import ConfigError, PrivflError
from privfl.experiment.workers import single_threaded
from privfl.fl.client import client_rng

torch.set_num_threads(2)
BIG = torch.randn(1200, 1200)
BIG @ BIG  # the threads of this process start here
X = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
Y = np.arange(256) % 10
MODULE = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10))

def rows(client):
    return X[client::4], Y[client::4]

def a_train(threads=1):
    return TorchTrain(MODULE, rows, optimizer=Sgd(0.1), batch_size=32, threads=threads)

def as_work(train):
    def work(model, client, order):
        delta = train(model, client, 0, client_rng(0, 0, client)).delta
        return (2.0**30 * np.asarray(delta, np.float64)).astype(np.int64)
    return work

def run(executor, work, model=None):
    model = a_train().initial() if model is None else model
    try:
        with_all = dict(each(executor, work, model, range(4), order=b""))
        return [with_all[client].tobytes() for client in range(4)]
    except PrivflError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        executor.close()
"""
CASES = {
    "the bits of the loop": """
        train = a_train()
        expected = run(LoopExecutor(), as_work(train))
        for workers in (1, 2):
            assert run(ProcessExecutor(workers, initializer=single_threaded), as_work(train)) == expected
        assert torch.get_num_threads() == 2
    """,
    "as many threads as torch has": """
        train = a_train(None)
        assert isinstance(run(LoopExecutor(), as_work(train)), list)
        refused = run(ProcessExecutor(2, initializer=single_threaded), as_work(train))
        assert "threads=None computes with 2 torch threads" in refused and "engine.workers = 0" in refused, refused
    """,
    "two threads": """
        refused = run(ProcessExecutor(2, initializer=single_threaded), as_work(a_train(2)))
        assert "threads=2 computes with 2 torch threads, and a forked process has one: set threads=1" in refused
    """,
    "no initializer": """
        train = a_train()
        expected = run(LoopExecutor(), as_work(train))
        assert run(ProcessExecutor(2), as_work(train)) == expected
        assert "set threads=1" in run(ProcessExecutor(2), as_work(a_train(None)))
    """,
    "a training of one's own": """
        def own(model, client, order):
            return (1e3 * (BIG @ BIG)[0, :50].double()).numpy().astype(np.int64)

        assert isinstance(run(ProcessExecutor(2, initializer=single_threaded), own, np.zeros(50)), list)

        def greedy(model, client, order):
            torch.set_num_threads(2)
            return own(model, client, order)

        refused = run(ProcessExecutor(2, initializer=single_threaded), greedy, np.zeros(50))
        assert "a worker process computes with one torch thread, not 2" in refused, refused
    """,
    "another thread that computes": """
        stop = threading.Event()

        image, kernel = torch.randn(16, 8, 40, 40), torch.randn(16, 8, 3, 3)

        def busy():
            while not stop.is_set():
                BIG @ BIG
                nn.functional.conv2d(image, kernel)

        thread = threading.Thread(target=busy)
        train = a_train()
        expected = run(LoopExecutor(), as_work(train))
        thread.start()
        for _ in range(3):
            assert run(ProcessExecutor(2, initializer=single_threaded), as_work(train)) == expected
        stop.set()
        thread.join()
    """,
    "pieces of work": """
        measure = TorchMeasure(MODULE, rows)
        model = a_train().initial()

        def work(number):
            return [torch.get_num_threads(), float((BIG @ BIG).sum()) != 0.0, sorted(measure(model, number).values)]

        answers = dict(do_pieces(work, range(4), 2, initializer=single_threaded))
        expected = [1, True, sorted(measure(model, 0).values)]
        assert answers == {number: expected for number in range(4)}, answers
    """,
    "a pool of one's own": """
        def job(threads):
            return run(LoopExecutor(), as_work(a_train(threads)))

        expected = job(1)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(job, (1,)).get(timeout=30) == expected
            try:
                raise AssertionError(pool.apply_async(job, (None,)).get(timeout=30))
            except ConfigError as error:
                assert "set threads=1" in str(error)
            pool.terminate()
            pool.join()
    """,
}
LATE = """
import sys
from privfl.engine.pool import do_pieces
from privfl.experiment.workers import single_threaded

def work(number):
    assert "torch" in sys.modules or number >= 0
    import torch
    return torch.get_num_threads()

assert dict(do_pieces(work, range(2), 2, initializer=single_threaded)) == {0: 1, 1: 1}
assert "torch" not in sys.modules
"""


def finish(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("case", CASES)
def test_torch_in_forked_workers(case: str) -> None:
    finish(BEGIN + textwrap.dedent(CASES[case]))


def test_torch_imported_in_a_worker_has_one_thread() -> None:
    finish(LATE)
