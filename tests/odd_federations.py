"""Strategies of hypothesis for small federations of odd data, models and settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.data.sets import Grouping
from privfl.fl.client import ClientUpdate
from privfl.fl.metrics import MetricSums

Case = dict[str, Any]
"""The arguments of an `Experiment`."""


def column(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(size=count)
    if kind == "constant":
        return np.full(count, 3.25)
    if kind == "missing":
        return np.where(rng.random(count) < 0.3, np.nan, values)
    if kind == "infinite":
        return np.where(np.arange(count) == 0, np.inf, values)
    return values * float(kind)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    rng, count = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from([3, 7, 20, 60]))
    common = st.sampled_from(["1", "1", "1", "1e-3", "30", "constant"])
    odd = st.sampled_from(["1e-30", "1e6", "1e30", "3e38", "missing", "infinite"])
    kinds = draw(st.lists(common, min_size=1, max_size=3)) + draw(
        st.lists(odd, max_size=1) if draw(st.booleans()) else st.just([])
    )
    with np.errstate(all="ignore"):
        features = np.stack([column(kind, count, rng) for kind in kinds], axis=1).astype(np.float32)
    task = draw(st.sampled_from(["binary", "multiclass", "regression"]))
    if task == "regression":
        spread, offset = draw(
            st.sampled_from([(1.0, 0.0), (50.0, 150.0), (1e-9, 0.0), (1e9, 1e9), (0.0, 5.0), (1e30, 0)])
        )
        targets, classes = (offset + spread * rng.normal(size=count)).astype(np.float32), ()
    else:
        classes = ("a", "b") if task == "binary" else ("a", "b", "c", "d")
        odd_labels = draw(st.sampled_from([None, None, None, None, "one class", "signed", "from 1"]))
        targets = rng.integers(len(classes) - (task == "multiclass"), size=count)
        targets = {"one class": targets * 0, "signed": 2 * targets - 1, "from 1": targets + 1}.get(
            odd_labels or "", targets
        )
    groups = Grouping("site", np.sort(rng.integers(3, size=count)), ("x", "y", "z"))
    test = np.arange(0, count, 4) if draw(st.booleans()) else np.zeros(0, np.int64)
    return Dataset("odd", task, features, targets, classes=classes, test=test, groupings=(groups,))  # type: ignore[arg-type]


@dataclass
class OwnTrain:
    """A training of one's own: for each client an update, an oddity, a weight and a loss."""

    deltas: list[np.ndarray]
    oddities: list[Any]
    weights: list[Any]
    losses: list[float | None]

    def __call__(self, model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        with np.errstate(all="ignore"):
            delta, wrong = self.deltas[client] * (1 if client % 2 else round), self.oddities[client]
        if wrong is KeyError:
            raise KeyError("of client's own")
        if isinstance(wrong, float):
            delta = np.where(np.arange(len(delta)) == 0, wrong, delta)
        length = len(delta)
        shape = {"length": (length + 1,), "matrix": (1, length)}.get(str(wrong), (length,))
        metrics = {} if self.losses[client] is None else {"loss": self.losses[client]}
        return ClientUpdate(np.resize(delta, shape), self.weights[client], metrics)  # type: ignore[arg-type]


@st.composite
def own_trains(draw: st.DrawFn) -> Case:
    clients, length = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def each(*values: Any) -> list[Any]:
        return [draw(st.sampled_from(values)) for _ in range(clients)]

    scales, dtypes = each(1.0, 1.0, 0.0, 1e-7, 40.0, 1e5, 1e9, 1e25), each("f8", "f8", "f8", "f4", "f2", "i8")
    fractional = [0.5, -1] if draw(st.integers(0, 9)) == 0 else []
    with np.errstate(all="ignore"):
        deltas = [(s * rng.normal(size=length)).astype(t) for s, t in zip(scales, dtypes, strict=True)]
    train = OwnTrain(
        deltas,
        each(*[None] * 15, math.nan, math.inf, KeyError, "length", "matrix"),
        each(10, 10, 1, 0, 200_000, np.int32(7), 3.0, np.float64(12), *fractional),
        each(0.5, 0.5, 1e6, None, -2.0, *[math.nan] * draw(st.booleans())),
    )
    case: Case = {"train": train, "initial": np.zeros(length, draw(st.sampled_from(["f8", "f8", "f4", "i8"])))}
    if draw(st.booleans()):
        return case | {"clients": clients}
    rows = Dataset("own", "regression", np.zeros((2 * clients, 1), np.float32), np.zeros(2 * clients, np.float32))
    held = tuple(ClientExamples(f"c{i}", np.array([2 * i]), np.array([2 * i + 1])) for i in range(clients))
    return case | {"data": FederatedData(rows, held)}


def own_measure(odd: list[float | None]) -> Callable[..., MetricSums]:
    def measure(model: np.ndarray, client: int) -> MetricSums:
        rows, value = float(client % 3), odd[client % len(odd)]
        return MetricSums({"rows": np.array([rows])} | ({} if value is None else {"mine": np.array([value * rows])}))

    return measure


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def maybe(key: str, *values: Any, unless: float = 0.6) -> None:
        if draw(st.floats(0, 1)) >= unless:
            overrides[key] = draw(st.sampled_from(values))

    overrides: dict[str, Any] = {"seed": draw(st.integers(0, 5)), "rounds": draw(st.integers(1, 3))}
    scheme = draw(st.sampled_from(["plain"] * 6 + ["masked", "masked", "ckks"]))
    overrides["sum.scheme"] = scheme
    own = draw(st.booleans())
    case = draw(own_trains()) if own else {"data": draw(datasets())}
    maybe("server.weighting", "uniform", "examples")
    maybe("server.eta", 0.5, 3.0, 1e-6, 1e6, unless=0.8)
    if draw(st.integers(0, 3)) == 0:
        overrides["server.optimizer"] = draw(st.sampled_from(["fedadam", "fedyogi", "fedadagrad"]))
        maybe("server.tau", 1e-2, 1.0)
    else:
        maybe("server.momentum", 0.9, unless=0.7)
    maybe("sum.bits", 8, 16, 24, 31, 42, 64, unless=0.8)
    maybe("sum.rounding", "stochastic", unless=0.7)
    maybe("sum.clip_entries", 1.0, 8.0, 1e6, unless=0.8)
    maybe("cohort.dropout", 0.3, unless=0.7)
    maybe("cohort.too_few", "retry", unless=0.5)
    maybe("cohort.min_survivor_fraction", 0.1, 1.0, unless=0.7)
    maybe("cohort.on_client_error", "drop", unless=0.2)
    maybe("evaluate_every", 0, 2)
    sampling = draw(st.sampled_from(["everyone"] * 4 + ["poisson", "fixed-size"]))
    overrides["cohort.sampling"] = sampling
    overrides |= {"poisson": {"cohort.probability": 0.6}, "fixed-size": {"cohort.size": 2}}.get(sampling, {})
    if draw(st.integers(0, 3)) == 0:
        overrides["privacy.clip_norm"] = draw(st.sampled_from([1.0, 1e-3, 100.0]))
        maybe("privacy.clip", "layers", "entries")
        maybe("sum.rotation", True, unless=0.7)
        if draw(st.booleans()):
            overrides |= {"privacy.placement": "central", "privacy.noise": "simulation", "privacy.delta": 0.01}
            overrides["privacy.noise_multiplier"] = 0.01
            overrides.pop("server.weighting", None)
    if draw(st.integers(0, 11)) == 0:
        overrides["engine.workers"] = 2
    if own:
        if draw(st.booleans()):
            case["measure"] = own_measure(
                draw(st.lists(st.sampled_from([1.0, -1e9, 1e-9, None, math.nan]), min_size=1, max_size=4))
            )
        return case | {"overrides": overrides}
    overrides["data.clients"] = draw(st.integers(1, 5))
    maybe("data.partition", "dirichlet:0.3", "shards:1", "quantity:2", "natural", unless=0.4)
    maybe("data.standardize", "local", "exact", unless=0.5)
    maybe("data.test", "local", "public")
    maybe("data.test_fraction", 0.01, 0.5, 0.9)
    maybe("model.l2", 0.1, unless=0.8)
    maybe("model.init", "uniform", unless=0.7)
    maybe("client.learning_rate", 1e-3, 1.0, 1e4, unless=0.6)
    maybe("client.epochs", 3)
    maybe("client.steps", 1, 5, unless=0.8)
    maybe("client.batch_size", 1, 4, 1000)
    maybe("client.update", "gradient", unless=0.8)
    if draw(st.integers(0, 11)) == 0:
        overrides |= {"model.kind": "mlp", "model.hidden": [3]}
        overrides.pop("model.init", None)
    return case | {"overrides": overrides}
