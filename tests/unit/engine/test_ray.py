"""Ray's actors: the bits of the loop, exact partial sums, named clients, and actors that die. `make ray` runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CODEC, a_plan
from each_client import each

ray = pytest.importorskip("ray", reason="Ray is tested in an environment of its own: make ray")

from privfl.codec import Vector  # noqa: E402
from privfl.dp import FlatClip  # noqa: E402
from privfl.engine import LoopExecutor  # noqa: E402
from privfl.engine.ray import RayExecutor  # noqa: E402
from privfl.errors import ClientFailed, ConfigError, TooFewSurvivors  # noqa: E402
from privfl.fl.chunks import Chunking  # noqa: E402
from privfl.fl.client import ClientUpdate, Executor  # noqa: E402
from privfl.fl.encoding import UpdateEncoding  # noqa: E402
from privfl.fl.linear import LinearModel, LinearTrain  # noqa: E402
from privfl.fl.round import Parts, run_round  # noqa: E402
from privfl.fl.state import ServerState  # noqa: E402
from privfl.ring import Ints  # noqa: E402
from privfl.sums import PlainSum  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = LinearModel("softmax", 4, 3)
COHORT = tuple(range(40))


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # functions of tests are pickled by their names
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=path)
    yield
    ray.shutdown()


def rows(client: int) -> Any:
    rng = np.random.default_rng(client)
    return rng.normal(size=(6, 4)), rng.integers(0, 3, 6).astype(float)


class BySession(PlainSum):
    """A plain sum whose vectors go through messages."""


def after(executor: Executor, chunking: Chunking, scheme: PlainSum, train: Any = None, **options: Any) -> Any:
    start = MODEL.initial("uniform", seed=1)
    encoding = UpdateEncoding(MODEL.length, CODEC, FlatClip(4.0))
    plan = a_plan(scheme, start, cohort=COHORT, chunking=chunking, encoding=encoding)
    parts = Parts(train or LinearTrain(MODEL, rows, 0.2, batch_size=4), scheme, executor)
    outcome = run_round(ServerState(start), plan, parts, **options).outcome
    executor.close()
    return outcome.state.model.tobytes(), outcome.survivors


def some_drop(client: int, step: int) -> bool:
    return client % 3 == 0


@pytest.mark.parametrize("chunking", [Chunking(), Chunking("single", 7), Chunking("batched", 7)])
@pytest.mark.parametrize("scheme", [PlainSum(), BySession()], ids=["added", "sent"])
def test_the_model_is_that_of_the_loop_to_the_last_bit(chunking: Chunking, scheme: PlainSum) -> None:
    for options in ({}, {"drop": some_drop}):
        expected = after(LoopExecutor(), chunking, PlainSum(), **options)
        assert after(RayExecutor(2), chunking, scheme, **options) == expected


def test_states_go_in_and_out() -> None:
    def growing(model: Vector, client: int, order: bytes, state: bytes) -> tuple[Ints, bytes]:
        return np.array([len(state), client]), state + bytes([client])

    seen = []
    for executor in (LoopExecutor(), RayExecutor(2)):
        states = dict.fromkeys(COHORT, b"")
        for size in (1, 3):
            got = dict(each(executor, growing, np.zeros(3), COHORT, order=b"", states=states, size=size))
        seen.append(({client: vector.tolist() for client, vector in got.items()}, states))
        executor.close()
    assert seen[0] == seen[1]


def test_a_client_that_raises_is_named() -> None:
    def failing(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        if client == 9:
            raise ZeroDivisionError("nine")
        return ClientUpdate(np.zeros(len(model)), 1)

    with pytest.raises(ClientFailed, match="client 9 failed: ZeroDivisionError in failing"):
        after(RayExecutor(2), Chunking("single", 4), PlainSum(), train=failing)


def test_a_killed_actor_costs_a_retry_and_not_the_run(tmp_path: Path) -> None:
    train = LinearTrain(MODEL, rows, 0.2, batch_size=4)

    def dying(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        if client == 12 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), 9)
        return train(model, client, round, rng)

    expected = after(LoopExecutor(), Chunking(), PlainSum())
    assert after(RayExecutor(2), Chunking(), PlainSum(), train=dying) == expected
    assert (tmp_path / "died").exists()


def test_a_client_that_kills_every_actor_ends_the_round() -> None:
    def dying(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        os.kill(os.getpid(), 9)
        return ClientUpdate(np.zeros(len(model)), 1)

    with pytest.raises(ClientFailed, match="died, 2 times"):
        after(RayExecutor(1, retries=1), Chunking("single", 40), PlainSum(), train=dying)


def test_wrong_options_and_no_client_are_refused() -> None:
    with pytest.raises(ConfigError):
        RayExecutor(0)
    with pytest.raises(ConfigError):
        RayExecutor(1, retries=-1)
    with pytest.raises(TooFewSurvivors), RayExecutor(1) as executor:
        list(each(executor, lambda *_: np.zeros(1, np.int64), np.zeros(3), [], order=b""))
