"""States handed in and out by executors: each client's own, of any size, whatever process trains it."""

from __future__ import annotations

import numpy as np
import pytest
from each_client import each

from privfl.codec import Vector
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.fl.client import Executor
from privfl.ring import Ints

COHORT = tuple(range(17))
MODEL = np.linspace(0.0, 1.0, 8)


def growing(model: Vector, client: int, order: bytes, state: bytes) -> tuple[Ints, bytes]:
    """A contribution of the state's length and sum; the new state is longer, and differs from client to client."""
    seen = np.frombuffer(state, np.uint8).astype(np.int64)
    return np.array([len(seen), seen.sum(), client]), state + bytes([client]) * (1 + client * int(order))


def rounds(executor: Executor, sizes: tuple[int, ...]) -> tuple[list[dict[int, list[int]]], dict[int, bytes]]:
    states, answers = dict.fromkeys(COHORT, b""), []
    for size in sizes:
        got = each(executor, growing, MODEL, COHORT, order=b"%d" % size, states=states)
        answers.append({client: vector.tolist() for client, vector in got})
    executor.close()
    return answers, states


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_states_and_answers_are_those_of_the_loop(workers: int) -> None:
    sizes = (1, 3, 20000, 1, 1)  # states of 300 kB pass, larger than what a pipe holds
    expected = rounds(LoopExecutor(), sizes)
    assert rounds(ProcessExecutor(workers), sizes) == expected
    assert max(map(len, expected[1].values())) > 300_000
    assert [answer[16][0] for answer in expected[0]] == [0, 17, 17 + 49, 17 + 49 + 320001, 17 + 49 + 320001 + 17]


def test_a_work_without_states_is_called_without_one() -> None:
    def work(model: Vector, client: int, order: bytes) -> Ints:
        return np.array([client])

    for executor in (LoopExecutor(), ProcessExecutor(2)):
        assert {c: v.tolist() for c, v in each(executor, work, MODEL, COHORT, order=b"")} == {c: [c] for c in COHORT}
        executor.close()
