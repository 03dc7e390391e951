"""Chunks of a cohort: encoded, trained and summed at once, with the result of one client after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CODEC, a_plan, an_encoding, central
from hypothesis import given
from hypothesis import strategies as st

from privfl.codec import FixedPoint, Vector
from privfl.dp import AdaptiveClip, ElementClip, FlatClip, LayerClip, Mechanism
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ClientFailed, ConfigError, PlanRejected, RemoteProtocolError
from privfl.experiment import Experiment
from privfl.fl.batches import BatchedWork
from privfl.fl.chunks import ChunkAnswer, Chunking
from privfl.fl.client import ClientUpdate, Executor
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.client_state import Stateful
from privfl.fl.encode_all import add_all, encode_all
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.linear import LinearKind, LinearModel, LinearTrain
from privfl.fl.plan import model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.server_round import ServerRound
from privfl.fl.slots import Metric
from privfl.fl.state import ServerState
from privfl.fl.traffic import Traffic
from privfl.ring import Ring
from privfl.rotation import Rotation
from privfl.sums import PlainSum
from privfl.sums.driver import ignore

COUNTING = {"count_bound": 1000, "metrics": (Metric("loss", 10.0),)}
ENCODINGS: dict[str, dict[str, Any]] = {
    "flat": {},
    "flat with weights": {"weighting": "examples", "max_weight": 20},
    "flat that counts": {"weighting": "examples", "max_weight": 20} | COUNTING,
    "metrics with units": {"metrics": (Metric("loss", 2.0, units=100),)},
    "entries that count": {"clip": ElementClip(0.5, 6)} | COUNTING,
    "entries": {"clip": ElementClip(0.25, 6)},
    "layers": {"clip": LayerClip((0, 2, 6), (0.5, 0.5))},
    "adaptive": {
        "clip": AdaptiveClip(0.5, units=1 << 12, indicator_units=1 << 6),
        "codec": AdaptiveClip(0.5, units=1 << 12, indicator_units=1 << 6).codec(Ring(40)),
    },
    "stochastic": {"rounding": "stochastic"},
    "rotated": {"rotation": Rotation(6, 5)},
    "long": {"codec": FixedPoint(2.0**48, Ring(62))},
}


@pytest.mark.parametrize("changes", ENCODINGS.values(), ids=list(ENCODINGS))
@given(data=st.data())
def test_a_chunk_is_encoded_as_each_client_alone(changes: dict[str, Any], data: st.DataObject) -> None:
    encoding = an_encoding(6, **changes)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    seed, count = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 5))
    rng, updates = np.random.default_rng(seed), []
    for _ in range(count):
        delta = (rng.normal(size=6) * 10.0 ** data.draw(st.sampled_from([-8, -2, 0, 1, 30]))).astype(dtype)
        if data.draw(st.booleans()):
            delta[2] = data.draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
        loss = data.draw(st.sampled_from([0.0, 1.5, 99.0, float("nan")]))
        updates.append(ClientUpdate(delta, data.draw(st.integers(0, 30)), {"loss": loss}))
    together = encode_all(encoding, updates, [np.random.default_rng(place) for place in range(count)])
    alone = [encoding.encode(update, np.random.default_rng(place)) for place, update in enumerate(updates)]
    np.testing.assert_array_equal(together, np.stack(alone))
    added = add_all(encoding, updates)
    assert added is None or added.tolist() == together.sum(axis=0).tolist()


SHORT: dict[str, tuple[dict[str, Any], int]] = {
    "flat": ({}, 6),
    "flat in parts": ({}, 20_000),
    "flat with weights": (ENCODINGS["flat with weights"], 20_000),
    "flat that counts": (ENCODINGS["flat that counts"], 6),
    "entries that count": ({"clip": ElementClip(0.5, 20_000)} | COUNTING, 20_000),
    "metrics with units": (ENCODINGS["metrics with units"], 6),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SHORT)
def test_updates_within_the_clip_are_added_as_they_are_encoded(name: str, dtype: Any) -> None:
    changes, length = SHORT[name]
    codec = {"codec": FixedPoint(2.0**20, Ring(40))}
    encoding, rng = an_encoding(length, **codec | changes), np.random.default_rng(3)
    vectors = [rng.normal(size=length).astype(dtype) for _ in range(7)]
    bound = encoding.clip.max_abs if isinstance(encoding.clip, ElementClip) else encoding.clip.clip_norm
    for fraction in (0.3, 0.98, 1.0, 1.5):
        updates = []
        for place, vector in enumerate(vectors):
            size = np.abs(vector).max() if isinstance(encoding.clip, ElementClip) else np.linalg.norm(vector)
            updates.append(ClientUpdate((vector * (bound * fraction / size)).astype(dtype), place + 18, {"loss": 0.7}))
        rngs = [np.random.default_rng(0) for _ in updates]
        added = add_all(encoding, updates)
        assert (added is None) == (fraction >= 1.0)
        if added is not None:
            assert added.tolist() == encode_all(encoding, updates, rngs).sum(axis=0).tolist()
    odd = {"not finite": np.full(length, np.nan, dtype), "long": np.full(length, 10 * bound, dtype)}
    for vector in odd.values():
        assert add_all(encoding, [*updates[:2], ClientUpdate(vector, 3, {"loss": 0.7})]) is None


@given(
    st.lists(st.lists(st.floats(-3, 3, width=32), min_size=9, max_size=9), min_size=1, max_size=6),
    st.sampled_from([0.5, 1.0, 7.0]),
)
def test_rows_are_encoded_as_each_alone_at_the_edge_of_the_norm(rows: list[list[float]], norm: float) -> None:
    matrix = np.array(rows)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix *= norm / np.where(lengths, lengths, 1.0)  # on the bound, where rounding decides
    for scale in (4.0, 2.0**16, 2.0**40):
        codec = FixedPoint(scale, Ring(62))
        expected = np.stack([codec.encode(row, max_norm=norm) for row in matrix])
        np.testing.assert_array_equal(codec.encode_rows(matrix, max_norm=norm), expected)


def random_rows(clients: int, features: int, kind: LinearKind, seed: int = 0) -> Any:
    """Clients of different sizes, one of them without examples."""
    rng = np.random.default_rng(seed)
    sizes = [0, *rng.integers(1, 23, clients - 1).tolist()]
    x = [rng.normal(size=(size, features)) for size in sizes]
    high = 3 if kind == "softmax" else 2
    y = [rng.normal(size=n) if kind == "linear" else rng.integers(0, high, n).astype(float) for n in sizes]
    return lambda client: (x[client], y[client])


OPTIONS: list[dict[str, Any]] = [
    {"batch_size": 5},
    {"batch_size": 5, "epochs": 3},
    {"batch_size": 4, "steps": 7},
    {},
    {"batch_size": 1},
]


@pytest.mark.parametrize("kind", ["linear", "logistic", "softmax"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_linear_models_train_at_once_as_each_alone(kind: LinearKind, options: dict[str, Any], l2: float) -> None:
    model = LinearModel(kind, 4, 3 if kind == "softmax" else 1, l2)
    train = LinearTrain(model, random_rows(6, 4, kind), 0.2, **options)
    start, cohort = model.initial("uniform", seed=3), (5, 0, 2, 4)

    def rngs() -> list[np.random.Generator]:
        return [np.random.default_rng(client) for client in cohort]

    together = train.train_cohort(start, cohort, 1, rngs())
    alone = [train(start, client, 1, rng) for client, rng in zip(cohort, rngs(), strict=True)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.delta, other.delta, rtol=1e-9, atol=1e-12)
        assert (one.examples, one.steps) == (other.examples, other.steps)
        assert one.metrics == pytest.approx(other.metrics)
    assert [bool(update.delta.any()) for update in together] == [True, False, True, True]


def test_linear_models_refuse_examples_of_another_width() -> None:
    train = LinearTrain(LinearModel("softmax", 4, 3), lambda client: (np.zeros((3, 5)), np.zeros(3)))
    start = train.model.initial()
    calls = [lambda rng: train(start, 0, 1, rng), lambda rng: train.train_cohort(start, (0,), 1, [rng])]
    for call in calls:
        with pytest.raises(ConfigError, match="the model takes 4 features, and an example has 5"):
            call(np.random.default_rng(0))


def test_fedsgd_is_not_trained_in_batches() -> None:
    train = LinearTrain(LinearModel("linear", 4), random_rows(3, 4, "linear"), update="gradient")
    with pytest.raises(ConfigError, match=r"client\.update"):
        train.check_cohort()


MODEL = LinearModel("softmax", 4, 3)
ROWS = random_rows(12, 4, "softmax")
TRAIN = LinearTrain(MODEL, ROWS, 0.2, batch_size=5)
COHORT = tuple(range(12))


def outcome_of(
    executor: Executor, chunking: Chunking, *, train: Any = TRAIN, scheme: Any = None, **changes: Any
) -> tuple[Any, dict[str, Any]]:
    """The outcome of one round over twelve clients, and what it said about its traffic and its faults."""
    scheme, start = scheme or PlainSum(), MODEL.initial("uniform", seed=1)
    options = {name: changes.pop(name) for name in ("drop", "tap") if name in changes}
    on_client_error = changes.pop("on_client_error", "raise")
    encoding = UpdateEncoding(MODEL.length, CODEC, FlatClip(4.0))
    plan = a_plan(
        scheme,
        start,
        cohort=COHORT,
        chunking=chunking,
        **{"encoding": encoding, "mechanism": Mechanism("none")} | changes,
    )
    failed: dict[int, str] = {}
    traffic = Traffic(options.pop("tap", ignore))
    parts = Parts(train, scheme, executor, on_client_error=on_client_error)
    outcome = run_round(ServerState(start), plan, parts, tap=traffic, failed=failed, **options).outcome
    executor.close()
    return outcome, {"up": traffic.up, "down": traffic.down, "failed": failed}


@pytest.mark.parametrize("kind", ["single", "batched"])
@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_the_model_is_that_of_the_loop_within_a_kind_and_a_size(kind: Any, size: int) -> None:
    expected, said = outcome_of(LoopExecutor(), Chunking(kind, size))
    for executor in (ProcessExecutor(1), ProcessExecutor(2)):
        outcome, told = outcome_of(executor, Chunking(kind, size))
        assert outcome.state.model.tobytes() == expected.state.model.tobytes()
        assert (outcome.survivors, told) == (expected.survivors, said)
    alone, _ = outcome_of(LoopExecutor(), Chunking())
    if kind == "single":
        assert expected.state.model.tobytes() == alone.state.model.tobytes()
    np.testing.assert_allclose(expected.state.model, alone.state.model, atol=1e-4)


class BySession(PlainSum):
    """A plain sum whose vectors go through messages, as those of any class that overrides something do."""


def some_drop(client: int, step: int) -> bool:
    return client in (0, 7) and step >= 0


@pytest.mark.parametrize("mechanism", [Mechanism("none"), central(0.5), Mechanism("local", 2.0, source="simulation")])
@pytest.mark.parametrize("size", [1, 5])
def test_rows_that_are_added_give_the_outcome_of_messages(mechanism: Mechanism, size: int) -> None:
    for drop in ({}, {"drop": some_drop}):
        added, said = outcome_of(LoopExecutor(), Chunking(size=size), mechanism=mechanism, **drop)
        assert PlainSum().adds_rows
        assert not BySession().adds_rows
        sent, told = outcome_of(LoopExecutor(), Chunking(size=size), scheme=BySession(), mechanism=mechanism, **drop)
        assert added.state.model.tobytes() == sent.state.model.tobytes()
        assert (added.survivors, said, added.caveats) == (sent.survivors, told, sent.caveats)
        assert len(added.survivors) == (10 if drop else 12)


def test_a_tap_that_looks_at_messages_gets_them() -> None:
    seen: list[int] = []
    outcome, said = outcome_of(
        LoopExecutor(), Chunking(size=4), tap=lambda direction, client, message: seen.append(len(message))
    )
    assert len(seen) == 12
    assert sum(seen) == said["up"]
    assert outcome.state.model.tobytes() == outcome_of(LoopExecutor(), Chunking())[0].state.model.tobytes()


@dataclasses.dataclass
class Faulty:
    """Batched training in which some clients raise, alone or together."""

    bad: frozenset[int] = frozenset()
    together: bool = False
    chunks: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    def __call__(self, model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return TRAIN(model, client, round, rng)

    def check_cohort(self) -> None:
        """Always."""

    def train_cohort(
        self, model: Vector, clients: tuple[int, ...], round: int, rngs: Sequence[np.random.Generator]
    ) -> list[ClientUpdate]:
        self.chunks.append(clients)
        if self.bad & set(clients) or (self.together and len(clients) > 1):
            raise ZeroDivisionError("nine")
        return TRAIN.train_cohort(model, clients, round, rngs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_chunk_that_fails_names_the_client_whose_fault_it_is(workers: int) -> None:
    executor: Executor = ProcessExecutor(workers) if workers else LoopExecutor()
    with pytest.raises(ClientFailed, match=r"client 9 failed: ZeroDivisionError in train_cohort") as caught:
        outcome_of(executor, Chunking("batched", 6), train=Faulty(frozenset({9})))
    assert caught.value.client == 9


def test_a_chunk_that_fails_without_a_client_that_does_is_an_error_too() -> None:
    with pytest.raises(ClientFailed, match=r"each client of the chunk \(0, 1, 2, 3, 4, 5\) trains, and all at once"):
        outcome_of(LoopExecutor(), Chunking("batched", 6), train=Faulty(together=True))


def test_clients_at_fault_drop_out_of_their_chunk() -> None:
    train = Faulty(frozenset({9, 11}))
    outcome, said = outcome_of(LoopExecutor(), Chunking("batched", 6), train=train, on_client_error="drop")
    assert said["failed"] == {9: "ZeroDivisionError", 11: "ZeroDivisionError"}
    assert outcome.survivors == set(COHORT) - {9, 11}
    assert train.chunks[-1] == (6, 7, 8, 10)
    with pytest.raises(ClientFailed, match="the training of every client"):
        outcome_of(LoopExecutor(), Chunking("batched", 6), train=Faulty(frozenset(COHORT)), on_client_error="drop")


@dataclasses.dataclass
class Returning:
    """A training at once that returns `answers`, whatever they are."""

    answers: Any

    def train_cohort(self, *given: Any) -> Any:
        return self.answers

    def check_cohort(self) -> None:
        pass


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (Returning([np.zeros(3)]), r"a training returns ClientUpdate\(delta, examples\), not a ndarray"),
        (Returning(None), "a list with a ClientUpdate for each client, not a NoneType"),
        (
            Stateful(Returning([(np.zeros(3), {})])),
            r"a training returns ClientUpdate\(delta, examples\), not a ndarray",
        ),  # type: ignore[arg-type]
        (Stateful(Returning([np.zeros(3)])), r"a pair \(ClientUpdate, state\) for each client, not a ndarray"),  # type: ignore[arg-type]
    ],
    ids=["vector", "none", "pair", "no-pair"],
)
def test_a_batched_training_returns_updates(train: Any, reason: str) -> None:
    states = [b""] if isinstance(train, Stateful) else None
    with pytest.raises(ClientFailed, match=f"client 0 failed: ConfigError: .*{reason}"):
        BatchedWork(train, PlainSum(), drops=False)(np.zeros(3), (0,), a_plan(cohort=(0, 1, 2)), states, None)


def test_a_training_without_batches_is_refused() -> None:
    def alone(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return TRAIN(model, client, round, rng)

    with pytest.raises(ClientFailed, match=r"cohort\.training = 'batched' needs a training with `train_cohort`"):
        outcome_of(LoopExecutor(), Chunking("batched", 3), train=alone)


def test_a_client_that_trains_alone_refuses_a_batched_plan() -> None:
    start = MODEL.initial()
    encoding = UpdateEncoding(MODEL.length, CODEC, FlatClip(4.0))
    plan = a_plan(None, start, encoding=encoding, chunking=Chunking("batched", 8))
    with pytest.raises(PlanRejected, match=r"set cohort\.training = 'single'"):
        ClientRound.trained(plan.to_bytes(), start, 0, contribution=Contribution(TRAIN, PlainSum()))


@pytest.mark.parametrize("options", [{"kind": "whole"}, {"size": 0}, {"size": True}, {"size": 1 << 17}])
def test_wrong_chunks_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Chunking(**options)


def test_chunks_are_cut_in_the_order_of_the_cohort() -> None:
    assert Chunking(size=2).of((1, 3, 4, 9, 12)) == [(1, 3), (4, 9), (12,)]
    assert Chunking(size=9).of(()) == []


def test_rows_beyond_the_bound_or_of_nobody_are_refused() -> None:
    start = MODEL.initial()
    plan = a_plan(None, start, encoding=UpdateEncoding(MODEL.length, CODEC, FlatClip(4.0)))
    server = ServerRound(ServerState(start), plan, scheme=PlainSum())
    assert model_hash(start) == plan.model_hash
    rows = np.zeros((2, MODEL.length), np.int64)
    rows[1, 3] = plan.task(PlainSum()).bound + 1
    with pytest.raises(ConfigError, match="beyond the task's bound"):
        server.take(ChunkAnswer((0, 1), rows))
    with pytest.raises(ConfigError, match="beyond the task's bound"):
        ChunkAnswer((0, 1), rows).sum(plan.task(PlainSum()), frozenset({0, 1}))
    with pytest.raises(RemoteProtocolError, match="nothing is awaited from client 9"):
        server.take(ChunkAnswer((9,), rows[:1]))
    server.take(ChunkAnswer((0,), rows[:1]))
    with pytest.raises(RemoteProtocolError, match="nothing is awaited from client 0"):
        server.take(ChunkAnswer((0,), rows[:1]))


def test_a_configuration_trains_in_batches(tmp_path: Path) -> None:
    models = {}
    for name, overrides in {
        "single": {},
        "batched": {"cohort.training": "batched", "cohort.chunk": 8},
        "workers": {"cohort.training": "batched", "cohort.chunk": 8, "engine.workers": 2},
    }.items():
        settings = {"data.name": "digits", "data.clients": 20, "client.batch_size": 10} | overrides
        experiment = Experiment(rounds=2, runs=tmp_path / name, overrides=settings)
        experiment.run()
        models[name] = experiment.model
    np.testing.assert_allclose(models["single"], models["batched"], atol=1e-5)
    assert models["batched"].tobytes() == models["workers"].tobytes()


def test_local_layers_are_not_trained_in_batches() -> None:
    local = {"client.algorithm": "local-layers", "client.local_layers": ["bias"]}
    with pytest.raises(ConfigError, match=r"set cohort\.training = 'single'"):
        Experiment(overrides={"data.name": "digits", "cohort.training": "batched"} | local)
