"""What a server needs to sum 200 clients of a million parameters: a few vectors, however many clients there are.

A vector here is float64 or int64 `[10^6]`: 8 MB. tracemalloc sees all that numpy allocates.
"""

import tracemalloc

import numpy as np
import pytest

from privfl.codec import FixedPoint
from privfl.dp import ElementClip, Everyone
from privfl.engine import LoopExecutor
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

LENGTH = 1_000_000
VECTOR = 8 * LENGTH
DELTA = np.full(LENGTH, 0.25, np.float32)


def the_same(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(DELTA, 1)


def peak(clients: int) -> tuple[float, np.ndarray]:
    """Vectors above the base at the worst moment of a whole round, in one process with its clients; and the model."""
    parts = Parts(the_same, PlainSum(), LoopExecutor())
    model = np.zeros(LENGTH, np.float32)
    plan = RoundPlan(
        run=bytes(16),
        round=1,
        model_hash=model_hash(model),
        cohort=tuple(range(clients)),
        population=clients,
        sampling=Everyone(),
        survivor_rule=SurvivorRule(1.0),
        encoding=UpdateEncoding(LENGTH, FixedPoint(2.0**16, Ring(32)), ElementClip(1.0, LENGTH)),
        scheme=PlainSum().name,
        seed=0,
    )
    tracemalloc.start()
    try:
        base, _ = tracemalloc.get_traced_memory()
        outcome = run_round(ServerState(model), plan, parts).outcome
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (most - base) / VECTOR, outcome.state.model


@pytest.mark.slow
def test_200_clients_of_a_million_parameters_take_less_than_five_vectors() -> None:
    vectors, model = peak(200)
    assert vectors < 5
    np.testing.assert_array_equal(model, DELTA)


def test_the_peak_does_not_grow_with_the_clients() -> None:
    few, many = peak(3)[0], peak(15)[0]
    assert many < 5
    assert abs(many - few) < 0.1
