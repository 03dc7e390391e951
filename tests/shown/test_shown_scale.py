"""Scale of a simulation: a round over a million clients by index, and a client's memory at 10^8 values."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from builders import a_plan

from privfl.codec import FixedPoint, Vector
from privfl.dp import ElementClip, FlatClip
from privfl.engine import LoopExecutor
from privfl.fl.client import ClientUpdate
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.sampling import FixedSizeSampler, PoissonSampler, sampled, seeded_uniforms
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

MODEL = LinearModel("softmax", 64, 10)
X = np.random.default_rng(0).normal(size=(50, 64))
Y = np.arange(50.0) % 10


def rows(client: int) -> Any:
    """Twenty examples by the number of a client: no list of clients exists anywhere."""
    return np.roll(X, client % 50, axis=0)[:20], np.roll(Y, client % 50)[:20]


def one_round(population: int, round: int, kind: str) -> float:
    """The seconds of one round with 20 clients (on average), per client, sampling and plan included."""
    start, sampler = MODEL.initial(), FixedSizeSampler(20) if kind == "fixed size" else PoissonSampler(20 / population)
    encoding = UpdateEncoding(MODEL.length, FixedPoint.fit(Ring(40), clip_norm=8.0, cohort=80), FlatClip(8.0))
    parts = Parts(LinearTrain(MODEL, rows, batch_size=10), PlainSum(), LoopExecutor())
    began = time.process_time()
    plan = RoundPlan(
        run=bytes(16),
        round=round,
        model_hash=model_hash(start),
        cohort=sampled(sampler, population, seeded_uniforms(0, round)),
        population=population,
        sampling=sampler.declare(population),
        survivor_rule=SurvivorRule(1.0),
        encoding=encoding,
        scheme=PlainSum.name,
        seed=0,
    )
    run_round(ServerState(start), plan, parts)
    return (time.process_time() - began) / max(1, len(plan.cohort))


def ratio(rounds: int, kind: str) -> float:
    """Processor time of a round over a million clients, divided by that of one over a thousand, turn by turn."""
    pairs = [(one_round(1000, number, kind), one_round(10**6, number, kind)) for number in range(1, rounds)]
    small, large = zip(*pairs[3:], strict=True)
    return statistics.median(large) / statistics.median(small)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed size", "poisson"])
def test_a_round_over_a_million_clients_costs_what_one_over_a_thousand_does(kind: str) -> None:
    assert min(ratio(60, kind) for _ in range(3)) <= 1.2


def test_a_large_population_is_sampled_uniformly_and_without_replacement() -> None:
    sampler, population = FixedSizeSampler(50), 1 << 16
    counts = np.zeros(16)
    for round in range(400):
        cohort = sampled(sampler, population, seeded_uniforms(3, round))
        assert len(set(cohort)) == 50
        assert list(cohort) == sorted(cohort)
        assert 0 <= cohort[0] <= cohort[-1] < population
        counts += np.bincount(np.array(cohort) * 16 // population, minlength=16)
    expected = 400 * 50 / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-squared with 15 degrees: beyond it 1 in 10,000


def peaks(length: int, dtype: Any, clip: Any) -> tuple[float, float]:
    """The peaks of a client's memory, next to the model and in vectors of 8-byte entries: until its first message."""
    model: Vector = np.zeros(length, dtype)

    def train(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        delta = np.empty(length, dtype)
        delta[:] = 1e-3
        return ClientUpdate(delta, 1)

    plan = a_plan(None, model, encoding=UpdateEncoding(length, FixedPoint(2.0**10, Ring(31)), clip))
    order = plan.to_bytes()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        client = ClientRound.trained(order, model, 0, contribution=Contribution(train, PlainSum()))
        made = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        client.start()
        sent = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return (made - before) / length / 8, (sent - before) / length / 8


LENGTHS = [10**6, pytest.param(10**8, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("clip", ["entries", "norm"])
def test_a_clients_peak_of_memory_is_at_most_three_vectors(length: int, clip: str) -> None:
    rule = ElementClip(8.0, length) if clip == "entries" else FlatClip(1.0)
    for dtype in (np.float32, np.float64):
        assert max(peaks(length, dtype, rule)) <= 3.1  # a tenth for the pieces that a pass works on
