"""FedBuff: its schedule, its figures against a loop of the paper, equal over the sums, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from builders import CODEC, NONCE, a_plan, an_encoding, central

from privfl.codec import Vector
from privfl.crypto import Credentials, MemoryDirectory
from privfl.dp import Everyone, FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError, PrivacyError
from privfl.fl.arrivals import SeededTimes, buffers
from privfl.fl.bases import Base
from privfl.fl.buffered import BufferedRun, polynomial
from privfl.fl.chunks import Chunking
from privfl.fl.client import client_rng
from privfl.fl.client_state import Stateful
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.optimizers import ServerSGD
from privfl.fl.plan import model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.he import CkksSum
from privfl.secagg import MaskedSum
from privfl.sums import PlainSum

MODEL = LinearModel("softmax", 4, 3)
CLIENTS, SIZE, CONCURRENCY, ROUNDS = 14, 4, 5, 8
TIMES = SeededTimes(3, spread=0.5, stragglers=0.3, slowdown=6.0, availability=0.7, period=2.0)


def rows(client: int) -> Any:
    rng = np.random.default_rng(client)
    return rng.normal(size=(6, 4)), rng.integers(0, 3, 6).astype(float)


TRAIN = LinearTrain(MODEL, rows, 0.5, epochs=3, batch_size=4)
ENCODING = UpdateEncoding(MODEL.length, CODEC, FlatClip(100.0))


def a_run(parts: Parts, **changes: Any) -> BufferedRun:
    values: dict[str, Any] = {
        "population": CLIENTS,
        "parts": parts,
        "encoding": ENCODING,
        "times": TIMES,
        "size": SIZE,
        "concurrency": CONCURRENCY,
        "seed": 7,
        "nonce": NONCE,
    }
    return BufferedRun(**values | changes)


def models(run: BufferedRun) -> list[Vector]:
    return [result.state.model for result in run.run(MODEL.initial("uniform", seed=1), ROUNDS)]


def test_the_model_is_that_of_the_papers_loop() -> None:
    """Nguyen et al. 2022, algorithm 1, in floats: w <- w + eta/K times the sum of s(age) times the updates."""
    current, history = MODEL.initial("uniform", seed=1), {}
    history[0] = current
    expected = []
    for buffer in islice(buffers(CLIENTS, SIZE, CONCURRENCY, TIMES, seed=7), ROUNDS):
        step = np.zeros(MODEL.length)
        for arrival in buffer.arrivals:
            update = TRAIN(history[arrival.base], arrival.client, 0, client_rng(7, buffer.round, arrival.client))
            step += update.delta / np.sqrt(1.0 + (buffer.round - 1 - arrival.base))
        current = current + 0.7 * step / SIZE
        history[buffer.round] = current
        expected.append(current)
    got = models(a_run(Parts(TRAIN, PlainSum(), LoopExecutor(), ServerSGD(0.7))))
    assert np.abs(np.array(got) - np.array(expected)).max() < 2e-5


def test_the_model_is_equal_over_sums_executors_and_chunks() -> None:
    expected = [model.tobytes() for model in models(a_run(Parts(TRAIN, PlainSum(), LoopExecutor())))]
    people = {client: Credentials.generate(client) for client in range(CLIENTS)}
    directory = MemoryDirectory({client: own.signing.public for client, own in people.items()})
    for scheme, credentials in ((MaskedSum(directory), people), (CkksSum(directory), people)):
        run = a_run(Parts(TRAIN, scheme, LoopExecutor(), credentials=credentials))
        assert [model.tobytes() for model in models(run)] == expected
    for size in (1, 3):
        with ProcessExecutor(2) as executor:
            run = a_run(Parts(TRAIN, PlainSum(), executor), chunking=Chunking(size=size))
            assert [model.tobytes() for model in models(run)] == expected
    batched = models(a_run(Parts(TRAIN, PlainSum(), LoopExecutor()), chunking=Chunking("batched", 3)))
    np.testing.assert_allclose(batched[-1], np.frombuffer(expected[-1]), atol=1e-4)


def by_hand(count: int) -> list[tuple[int, list[tuple[int, int]], float]]:
    """The same schedule, with a list of those that train in place of a heap, and every event looked for."""
    choice, training, busy, filled, found = np.random.default_rng([7, 6]), [], set(), [], []
    time, job = 0.0, 0
    while len(found) < count:
        free = [c for c in range(CLIENTS) if c not in busy and TIMES.available(c, time)]
        while len(training) < CONCURRENCY and free:
            client = free.pop(int(choice.integers(len(free))))
            training.append((time + TIMES.seconds(client, job), client, len(found)))
            busy.add(client)
            job += 1
        first = min(training)
        training.remove(first)
        time = first[0]
        filled.append((first[1], first[2]))
        if len(filled) == SIZE:
            found.append((len(found) + 1, sorted(filled), time))
            busy -= {client for client, _ in filled}
            filled = []
    return found


def test_the_schedule_is_the_one_made_by_hand() -> None:
    got = list(islice(buffers(CLIENTS, SIZE, CONCURRENCY, TIMES, seed=7), 40))
    assert [(b.round, [(a.client, a.base) for a in b.arrivals], b.time) for b in got] == by_hand(40)
    ages = [b.round - 1 - a.base for b in got for a in b.arrivals]
    assert min(ages) == 0
    assert max(ages) > 2
    for buffer in got:
        assert len({arrival.client for arrival in buffer.arrivals}) == SIZE
        assert all(arrival.base < buffer.round and arrival.time <= buffer.time for arrival in buffer.arrivals)
    for before, after in pairwise(got):
        assert after.time > before.time
        assert all(arrival.base >= before.oldest for arrival in after.arrivals)  # its model is still there


def test_times_have_speeds_stragglers_and_availability() -> None:
    times = SeededTimes(1, spread=0.2, stragglers=0.25, slowdown=10.0, availability=0.6, period=5.0)
    means = np.array([np.mean([times.seconds(client, job) for job in range(20)]) for client in range(400)])
    assert 0.15 < np.mean(means > 4.0) < 0.35
    assert np.mean([times.available(client, 12.0) for client in range(2000)]) == pytest.approx(0.6, abs=0.04)
    assert times.available(3, 5.1) == times.available(3, 9.9)
    assert all(SeededTimes(1).available(client, 3.0) for client in range(20))
    fast = Counter(a.client for b in islice(buffers(30, 5, 10, times, seed=0), 60) for a in b.arrivals)
    slow = [client for client in range(30) if means[client] > 4.0]
    quick = [client for client in range(30) if means[client] <= 4.0]
    assert np.mean([fast[client] for client in quick]) > 2 * np.mean([fast[client] for client in slow])


def test_the_plan_names_base_models_and_weights() -> None:
    results = list(a_run(Parts(TRAIN, PlainSum(), LoopExecutor())).run(MODEL.initial(), 5))
    hashes = {0: model_hash(MODEL.initial())} | {r.round: model_hash(r.state.model) for r in results}
    for result in results:
        plan = result.plan
        assert plan.sampling == Everyone()
        for base, age in zip(plan.bases, result.ages, strict=True):
            assert base == Base(hashes[result.round - 1 - age], polynomial(age))
        assert type(plan).from_bytes(plan.to_bytes()) == plan


def test_noise_states_and_weights_by_examples_are_refused() -> None:
    parts = Parts(TRAIN, PlainSum(), LoopExecutor())
    with pytest.raises(ConfigError, match="weighs updates by their age"):
        a_run(parts, encoding=dataclasses.replace(ENCODING, weighting="examples", max_weight=10))
    with pytest.raises(ConfigError, match="keep no states"):
        a_run(Parts(Stateful(lambda m, c, r, g, s: (TRAIN(m, c, r, g), s)), PlainSum(), LoopExecutor()))
    bases = (Base("ab" * 32, 1.0),) * 3
    with pytest.raises(PrivacyError, match="who arrives follows from the speed"):
        a_plan(bases=bases, mechanism=central(), encoding=an_encoding())
    for changes in ({"bases": bases[:2]}, {"bases": bases, "state_rounds": (1, 0, 0)}):
        with pytest.raises(ConfigError, match="bases must name a model"):
            a_plan(**changes)
    for options in ({"model_hash": "x" * 64}, {"weight": 0.0}, {"weight": 1.1}, {"weight": 1}):
        with pytest.raises(ConfigError):
            Base(**{"model_hash": "ab" * 32, "weight": 0.5} | options)


@pytest.mark.parametrize(
    "options",
    [{"spread": -1.0}, {"stragglers": 1.5}, {"slowdown": 0.5}, {"availability": 0.0}, {"period": float("nan")}],
)
def test_wrong_times_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SeededTimes(0, **options)


@pytest.mark.parametrize(("population", "size", "concurrency"), [(5, 0, 1), (5, 1, 0), (5, 3, 3)])
def test_wrong_sizes_are_refused(population: int, size: int, concurrency: int) -> None:
    with pytest.raises(ConfigError, match="need a population of"):
        next(buffers(population, size, concurrency, TIMES, seed=0))


def test_one_round_takes_the_base_models_that_it_is_given() -> None:
    old, new = MODEL.initial("uniform", seed=1), MODEL.initial("uniform", seed=2)
    bases = (Base(model_hash(old), 0.5), Base(model_hash(new), 1.0), Base(model_hash(old), 0.25))
    plan = a_plan(None, new, encoding=ENCODING, bases=bases)
    outcome = run_round(
        ServerState(new), plan, Parts(TRAIN, PlainSum(), LoopExecutor()), bases={model_hash(old): old}
    ).outcome
    steps = [
        base.weight * TRAIN(old if i != 1 else new, i, 3, client_rng(7, 3, i)).delta for i, base in enumerate(bases)
    ]
    np.testing.assert_allclose(outcome.state.model, new + np.mean(steps, axis=0), atol=1e-4)
