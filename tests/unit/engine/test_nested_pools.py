"""A run with workers inside a process of a pool, of any kind: the result is that of a run in this process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from privfl.engine import ProcessExecutor
from privfl.experiment import Experiment
from privfl.fl.chunks import Chunk, ChunkAnswer


def trained(workers: int) -> str:
    return Experiment(rounds=2, overrides={"engine.workers": workers}).run().reports[-1].model


def within(context: str) -> Iterator[str]:
    with multiprocessing.get_context(context).Pool(1) as pool:
        yield from pool.map(trained, [2, 1])


def within_futures(context: str) -> Iterator[str]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(context)) as pool:
        yield from pool.map(trained, [2, 1])


def within_threads(context: str) -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(trained, [2, 1])


def within_workers(context: str) -> Iterator[str]:
    def work(model: Any, clients: Chunk, order: bytes, **more: Any) -> ChunkAnswer:
        return ChunkAnswer(clients, np.frombuffer(trained(2).encode(), np.uint8).astype(np.int64)[None])

    with ProcessExecutor(2) as executor:
        for answer in executor.run(work, np.zeros(1), [(0,), (1,)], order=b""):
            yield bytes(answer.rows[0].astype(np.uint8)).decode()


@pytest.mark.parametrize("nest", [within, within_futures, within_threads, within_workers])
def test_workers_inside_a_pool_train_the_same_model(nest: Callable[[str], Iterator[str]]) -> None:
    assert set(nest("fork")) == {trained(0)}


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_inside_a_started_pool_train_the_same_model(context: str) -> None:
    assert {*within(context), *within_futures(context)} == {trained(0)}
