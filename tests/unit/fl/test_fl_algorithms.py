"""FedProx, SCAFFOLD, FedNova and local layers against short loops of their papers, through the three sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import Dataset
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment import Experiment
from privfl.fl.algorithms import FedNova, FedProx, LocalLayers, Scaffold
from privfl.fl.client import client_rng
from privfl.fl.client_state import Stateful, unpack_state
from privfl.fl.linear import minibatches
from privfl.fl.sampling import FixedSizeSampler, seeded_uniforms
from privfl.sums import Drop

CLIENTS, ROUNDS, RATE, BATCH, EPOCHS, COHORT = 6, 7, 0.2, 7, 2, 4
FEATURES = 4


def data() -> Dataset:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(150, FEATURES)).astype(np.float32)
    labels = (features @ [1.0, -2.0, 0.5, 0.0] + 0.3 * rng.normal(size=150) > 0).astype(np.int64)
    return Dataset("points", "binary", features, labels, classes=("a", "b"))


def experiment(runs: Path, algorithm: str, **changes: Any) -> Experiment:
    settings = {
        "name": algorithm, "rounds": ROUNDS, "seed": 4, "data.clients": CLIENTS, "data.partition": "quantity:0.7",
        "data.min_examples": 8, "client.learning_rate": RATE, "client.epochs": EPOCHS, "client.batch_size": BATCH,
        "client.algorithm": algorithm, "cohort.sampling": "fixed-size", "cohort.size": COHORT,
    }  # fmt: skip
    if algorithm == "local-layers":
        settings["client.local_layers"] = ["bias"]
    objects = {name: changes.pop(name) for name in ("dropouts",) if name in changes}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return Experiment(data=data(), runs=runs, overrides=settings, **objects)


def somebody(round: int, attempt: int) -> Drop:
    return lambda client, step: (client + round) % 5 == 0


# --- the reference: logistic regression in six lines, and each paper's loop over it

Gradient = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def gradient(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    residual = 1 / (1 + np.exp(-(x @ w[:-1] + w[-1]))) - y
    return np.append(x.T @ residual, residual.sum()) / len(y)


class Loop:
    """The rounds of a paper's algorithm: cohorts, batches and examples are those of the experiment."""

    def __init__(self, run: Experiment) -> None:
        self.rows = [tuple(np.asarray(a, float) for a in run.federation.train(c)) for c in range(CLIENTS)]
        self.model, self.own = np.zeros(FEATURES + 1), [np.zeros(FEATURES + 1) for _ in range(CLIENTS)]

    def cohort(self, round: int) -> tuple[int, ...]:
        return FixedSizeSampler(COHORT).sample(CLIENTS, seeded_uniforms(4, round))

    def local(self, client: int, round: int, start: np.ndarray, pull: Callable[[np.ndarray], np.ndarray]) -> Any:
        (x, y), w = self.rows[client], start.copy()
        batches = minibatches(len(y), BATCH, EPOCHS, None, client_rng(4, round, client))
        for batch in batches:
            w -= RATE * (gradient(w, x[batch], y[batch]) + pull(w))
        return w, len(batches), len(y)


def fedprox(loop: Loop) -> np.ndarray:
    for round in range(1, ROUNDS + 1):
        x = loop.model
        found = [loop.local(c, round, x, lambda w, x=x: 0.3 * (w - x)) for c in loop.cohort(round)]
        loop.model = np.average([w for w, _, _ in found], axis=0, weights=[n for *_, n in found])
    return loop.model


def scaffold(loop: Loop) -> np.ndarray:
    """Karimireddy et al. 2020, algorithm 1 with option II and a server rate of 1."""
    c = np.zeros(FEATURES + 1)
    for round in range(1, ROUNDS + 1):
        x, moves, changes = loop.model, [], []
        for client in loop.cohort(round):
            y, steps, _ = loop.local(client, round, x, lambda w, i=client, c=c: c - loop.own[i])
            new = loop.own[client] - c + (x - y) / (steps * RATE)
            moves.append(y - x)
            changes.append(new - loop.own[client])
            loop.own[client] = new
        loop.model, c = x + np.mean(moves, axis=0), c + COHORT / CLIENTS * np.mean(changes, axis=0)
    return loop.model


def fednova(loop: Loop) -> np.ndarray:
    """Wang et al. 2020, equation 8 with a_i = (1, ..., 1)."""
    for round in range(1, ROUNDS + 1):
        found = [loop.local(c, round, loop.model, lambda w: 0.0 * w) for c in loop.cohort(round)]
        p = np.array([n for *_, n in found]) / sum(n for *_, n in found)
        effective = sum(share * steps for share, (_, steps, _) in zip(p, found, strict=True))
        d = sum(share * (w - loop.model) / steps for share, (w, steps, _) in zip(p, found, strict=True))
        loop.model = loop.model + effective * d
    return loop.model


def local_layers(loop: Loop) -> np.ndarray:
    """FedPer with the bias as the personal layer."""
    for round in range(1, ROUNDS + 1):
        found = []
        for client in loop.cohort(round):
            start = np.append(loop.model[:-1], loop.own[client][-1])
            w, _, n = loop.local(client, round, start, lambda w: 0.0 * w)
            loop.own[client] = w
            found.append((w, n))
        loop.model = np.append(np.average([w[:-1] for w, _ in found], axis=0, weights=[n for _, n in found]), 0.0)
    return loop.model[:-1]


REFERENCES = {"fedprox": fedprox, "scaffold": scaffold, "fednova": fednova, "local-layers": local_layers}


@pytest.mark.parametrize("algorithm", ["fedprox", "scaffold", "fednova"])
def test_an_algorithm_trains_its_clients_in_batches(tmp_path: Path, algorithm: str) -> None:
    options: dict[str, Any] = {"dropouts": somebody, "rounds": 4}
    alone = experiment(tmp_path / "alone", algorithm, **options)
    batched = {"cohort__training": "batched", "cohort__chunk": 3} | options
    together = experiment(tmp_path / "together", algorithm, **batched)
    model = together.run().model
    np.testing.assert_allclose(model, alone.run().model, atol=2e-6)
    others = {"processes": {"engine__workers": 2}, "masked": {"sum__scheme": "masked"}}
    for name, changes in others.items():
        other = experiment(tmp_path / name, algorithm, **changes, **batched)
        assert other.run().model.tobytes() == model.tobytes()
        for client in range(CLIENTS if algorithm == "scaffold" else 0):
            states = [run.store.states().read(client) for run in (together, other)]
            assert states[0] == states[1]
            own = unpack_state(alone.store.states().read(client)).get("control", np.zeros(FEATURES + 1))
            np.testing.assert_allclose(unpack_state(states[0]).get("control", 0 * own), own, atol=1e-5)


@pytest.mark.parametrize("algorithm", REFERENCES)
def test_an_algorithm_is_the_loop_of_its_paper(tmp_path: Path, algorithm: str) -> None:
    changes = {"client__proximal": 0.3} if algorithm == "fedprox" else {}
    run = experiment(tmp_path, algorithm, **changes)
    model = run.run().model
    loop = Loop(run)
    np.testing.assert_allclose(model, REFERENCES[algorithm](loop), atol=2e-5)
    plain = experiment(tmp_path, "fedavg").run().model
    assert np.abs(model - plain[: len(model)]).max() > 1e-3  # and no other algorithm
    states = run.store.states()
    for client in range(CLIENTS if algorithm in ("scaffold", "local-layers") else 0):
        state = unpack_state(states.read(client))
        own = state["control"] if algorithm == "scaffold" else state["local"]
        expected = loop.own[client] if algorithm == "scaffold" else loop.own[client][-1:]
        np.testing.assert_allclose(own, expected, atol=2e-5)


@pytest.mark.parametrize("algorithm", REFERENCES)
def test_an_algorithm_gives_one_model_in_the_three_sums(tmp_path: Path, algorithm: str) -> None:
    models = []
    for scheme in ("plain", "masked", "ckks"):
        run = experiment(tmp_path / scheme, algorithm, sum__scheme=scheme, rounds=3, dropouts=somebody)
        models.append(run.run().model)
    assert models[0].tobytes() == models[1].tobytes() == models[2].tobytes()


@pytest.mark.parametrize("algorithm", ["scaffold", "local-layers"])
def test_workers_change_no_bit(tmp_path: Path, algorithm: str) -> None:
    runs = [experiment(tmp_path / str(w), algorithm, engine__workers=w, cohort__dropout=0.3) for w in (0, 1, 2)]
    results = [run.run() for run in runs]
    assert len({result.model.tobytes() for result in results}) == 1
    assert len({tuple(run.store.states().read(c) for c in range(CLIENTS)) for run in runs}) == 1
    assert any(len(report.dropouts) for report in results[0])


def test_clients_with_their_own_layers_are_evaluated_with_them(tmp_path: Path) -> None:
    run = experiment(tmp_path, "local-layers", client__learning_rate=1.0)
    result = run.run()
    correct = count = 0
    for client in range(CLIENTS):
        features, labels = run.federation.local_test(client)
        own = unpack_state(run.store.states().read(client)).get("local", np.zeros(1))
        correct += int(((features @ result.model + own > 0) == (labels > 0)).sum())
        count += len(labels)
    assert result.accuracy == pytest.approx(correct / count)


def test_a_tuned_copy_is_evaluated_next_to_the_model(tmp_path: Path) -> None:
    run = experiment(tmp_path, "fedavg", client__tuning=3, rounds=1)
    figures = run.run().evaluation
    plain = experiment(tmp_path / "plain", "fedavg", rounds=1).run().evaluation
    assert figures["accuracy"] == plain["accuracy"]
    assert figures["tuned_loss"] < figures["loss"]
    assert run.evaluate(run.model) == figures  # the same randomness every time


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client__proximal": 0.1}, "client.proximal is for"),
        ({"client__local_layers": ["bias"]}, "client.local_layers is for"),
        ({"client__algorithm": "local-layers", "client__local_layers": None}, "needs client.local_layers"),
        ({"client__algorithm": "local-layers", "client__local_layers": ["head"]}, "no layer 'head'"),
        ({"client__algorithm": "local-layers", "client__local_layers": ["bias", "weights"]}, "nothing would be sent"),
        ({"client__algorithm": "scaffold", "server__weighting": "examples"}, "server.weighting"),
        ({"client__algorithm": "scaffold", "client__update": "gradient"}, "client.update"),
        ({"client__tuning": 1, "data__test": "public"}, "client.tuning"),
        ({"client__algorithm": "scaffold", "sum__rotation": True}, "no rotation"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        experiment(tmp_path, changes.pop("client__algorithm", "fedavg"), **changes).run()


@pytest.mark.parametrize("algorithm", ["scaffold", "fednova"])
def test_blocks_and_steps_are_refused_with_noise(tmp_path: Path, algorithm: str) -> None:
    noise = {"privacy__placement": "central", "privacy__noise_multiplier": 1.0, "privacy__clip_norm": 1.0}
    with pytest.raises(PrivacyError, match="more than updates"):
        experiment(tmp_path, algorithm, **noise)


@pytest.mark.parametrize("algorithm", ["fedprox", "local-layers"])
def test_the_others_run_with_noise(tmp_path: Path, algorithm: str) -> None:
    noise = {"privacy__placement": "central", "privacy__noise_multiplier": 1.0, "privacy__clip_norm": 1.0}
    result = experiment(tmp_path, algorithm, rounds=2, privacy__adjacency="zero_out", **noise).run()
    assert result.epsilon is not None
    assert result.epsilon.epsilon > 0


def test_algorithms_are_objects_too(tmp_path: Path) -> None:
    def run(name: str, algorithm: Any) -> bytes:
        clients = {"data.clients": CLIENTS}
        run = Experiment(data=data(), runs=tmp_path, name=name, rounds=2, algorithm=algorithm, overrides=clients)
        return run.run().model.tobytes()

    objects = {"fedprox": FedProx(), "scaffold": Scaffold(), "fednova": FedNova()}
    for name, algorithm in objects.items():
        named = Experiment(
            data=data(), runs=tmp_path, name=f"{name} by name", rounds=2,
            overrides={"data.clients": CLIENTS, "client.algorithm": name},
        ).run()  # fmt: skip
        assert run(name, algorithm) == named.model.tobytes()
    with pytest.raises(ConfigError, match="say the same"):
        Experiment(data=data(), algorithm=Scaffold(), overrides={"client.algorithm": "fedprox"})
    with pytest.raises(ConfigError, match="`algorithm` needs method"):
        Experiment(data=data(), algorithm="scaffold")  # type: ignore[arg-type]


def test_a_training_of_ones_own_cannot_be_corrected() -> None:
    for algorithm in (FedProx(), Scaffold(), FedNova(), LocalLayers(("bias",))):
        with pytest.raises(ConfigError, match="no `corrected`"):
            algorithm.method(lambda *_: None, np.zeros(3))  # type: ignore[arg-type, return-value]
        with pytest.raises(ConfigError, match="no `corrected`"):
            algorithm.method(Stateful(lambda *_: None), np.zeros(3))  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="mu must be"):
        FedProx(0.0)
