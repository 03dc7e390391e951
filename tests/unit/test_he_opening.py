"""What an opener lets out of its hands, and a server that adds more frames than fit a word unreduced."""

from typing import Any

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.errors import CapacityError
from privfl.he import CkksSum, plan_for
from privfl.ring import Ints, Ring
from privfl.sums import KeyedOpening, SumTask, run_sum


def a_sum(clients: int, bits: int, **changes: Any) -> tuple[Ints, Ints]:
    """(what was opened, the true sum)."""
    bound = (Ring(bits).half - 1) // clients
    task = SumTask(b"unit", tuple(range(clients)), 1, 10, Ring(bits), bound)
    credentials, directory = generate_identities(task.clients)
    vectors = {c: np.full(10, bound - c) for c in task.clients}
    return run_sum(CkksSum(directory), task, vectors, credentials=credentials, **changes).total, sum(vectors.values())  # type: ignore[return-value]


def test_an_opening_may_draw_bytes_that_every_opener_would_draw() -> None:
    drawn: list[bytes] = []

    def make(entropy: Any) -> Any:
        def opening(total: Ints, survivors: frozenset[int]) -> Ints:
            drawn.append(entropy(10))
            return total - np.frombuffer(drawn[-1], np.uint8)

        return opening

    found, exact = a_sum(3, 23, opening=KeyedOpening(make))
    assert np.array_equal(found, exact - np.frombuffer(drawn[0], np.uint8))


@pytest.mark.parametrize("shift", [1 << 22, -(1 << 23)])
def test_an_opened_sum_beyond_the_ring_is_refused(shift: int) -> None:
    with pytest.raises(CapacityError, match=rf"reaches {shift}, beyond a ring of 23 bits"):
        a_sum(3, 23, opening=lambda total, survivors: total * 0 + shift)


def test_residues_are_reduced_before_a_word_is_full() -> None:
    task = SumTask(b"", tuple(range(40)), 1, 10, Ring(40), 1)
    assert (1 << 64) // plan_for(task).modulus < 40
    found, exact = a_sum(40, 40)
    assert np.array_equal(found, exact)
