"""A thousand clients on a planned ring, dropouts at every step, all in one process."""

import random

import numpy as np
import pytest

from privfl.crypto import generate_identities
from privfl.ring import Ring
from privfl.secagg import MaskedSum
from privfl.sums import SumTask, run_sum

CLIENTS = 1000


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["signed", "semi-honest"])
def test_a_thousand_clients(mode: str) -> None:
    """40 of them fall silent, eight in each step; those that had uploaded by then are in the sum."""
    credentials, directory = generate_identities(range(CLIENTS))
    settings = {"corrupt": 0.02, "dropout": 0.05}
    scheme = MaskedSum(directory, **settings) if mode == "signed" else MaskedSum(mode="semi-honest", **settings)
    task = SumTask(b"a thousand", tuple(range(CLIENTS)), 900, 50, Ring(32), 1000)
    assert 0 < scheme.terms(task).degree < 100
    rng = np.random.default_rng(1)
    vectors = {c: rng.integers(-1000, 1001, 50) for c in task.clients}
    gone = {c: at % 5 for at, c in enumerate(random.Random(1).sample(task.clients, 40))}
    result = run_sum(scheme, task, vectors, credentials=credentials, drop=lambda c, step: step >= gone.get(c, 9))
    assert result.survivors == {c for c in task.clients if gone.get(c, 9) > 2}
    assert not result.blamed
    np.testing.assert_array_equal(result.total, sum(vectors[c] for c in result.survivors))
