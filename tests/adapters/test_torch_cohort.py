"""Clients of a small network trained at once: the updates of one by one up to rounding, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain, binary_cross_entropy, cross_entropy, squared_error
from privfl.adapters.torch.models import build
from privfl.errors import ConfigError
from privfl.fl.algorithms import FedNova, FedProx, Scaffold
from privfl.fl.client import client_rng
from privfl.fl.client_state import Stateful

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no device here"))
CHAINS: dict[str, Callable[[int], nn.Module]] = {
    "one layer": lambda k: nn.Linear(6, k),
    "no bias": lambda k: nn.Sequential(nn.Linear(6, k, bias=False)),
    "relu": lambda k: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, k)),
    "flattens": lambda k: nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, k)),
    "nested": lambda k: nn.Sequential(
        nn.Identity(),
        nn.Sequential(nn.Linear(6, 8), nn.Tanh()),
        nn.Sequential(nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, k)),
    ),
    "activation first": lambda k: nn.Sequential(nn.Tanh(), nn.Linear(6, k)),
    "activation last": lambda k: nn.Sequential(nn.Linear(6, k), nn.Tanh()),
    "two activations": lambda k: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.ReLU(), nn.Linear(8, k)),
    "double": lambda k: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, k)).double(),
}
SIZES = (7, 0, 23, 10, 1, 4)
COHORT = (2, 0, 1, 5, 4, 3)


def examples(loss: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(size, 6)).astype(np.float32) for size in SIZES]
    if loss is squared_error:
        y = [rng.normal(size=size).astype(np.float32) for size in SIZES]
    else:
        y = [rng.integers(0, 2 if loss is binary_cross_entropy else 3, size) for size in SIZES]
    return lambda client: (x[client], y[client])


def compared(train: TorchTrain, round: int = 1) -> None:
    model = train.initial()
    together = train.train_cohort(model, COHORT, round, [client_rng(0, round, client) for client in COHORT])
    for client, update in zip(COHORT, together, strict=True):
        alone = train(model, client, round, client_rng(0, round, client))
        np.testing.assert_allclose(update.delta, alone.delta, rtol=2e-5, atol=2e-6)
        assert (update.examples, update.steps) == (alone.examples, alone.steps)
        assert update.metrics == pytest.approx(alone.metrics, rel=2e-5)
        assert update.delta.dtype == alone.delta.dtype
        assert bool(update.delta.any()) == bool(SIZES[client])
    again = train.train_cohort(model, COHORT, round, [client_rng(0, round, client) for client in COHORT])
    assert all(one.delta.tobytes() == two.delta.tobytes() for one, two in zip(together, again, strict=True))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("loss", [cross_entropy, squared_error, binary_cross_entropy], ids=lambda loss: loss.__name__)
def test_each_update_is_that_of_the_client_alone(name: str, loss: Any) -> None:
    torch.manual_seed(4)
    module = CHAINS[name](3 if loss is cross_entropy else 1)
    compared(TorchTrain(module, examples(loss), optimizer=Sgd(0.1), loss=loss, batch_size=5, epochs=2))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 5},
        {"batch_size": 5, "drop_last": True},
        {"batch_size": 4, "steps": 7},
        {},
        {"optimizer": Sgd(0.1, momentum=0.9)},
        {"optimizer": Sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), "batch_size": 3},
        {"optimizer": Sgd(0.1, weight_decay=0.1), "batch_size": 3},
        {"learning_rate": lambda round: 0.2 / round, "batch_size": 3},
        {"metrics": {}, "batch_size": 3},
    ],
    ids=lambda options: "-".join(options) or "none",
)
def test_each_option_means_what_it_means_alone(options: dict[str, Any]) -> None:
    torch.manual_seed(4)
    options = {"optimizer": Sgd(0.1)} | options
    compared(TorchTrain(CHAINS["relu"](3), examples(cross_entropy), **options), round=2)


@pytest.mark.parametrize(
    "rule", [Sgd(0.1), Sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1)], ids=["plain", "momentum"]
)
@pytest.mark.parametrize("algorithm", [FedProx(0.3), Scaffold(), FedNova()], ids=lambda a: type(a).__name__)
def test_each_algorithm_means_what_it_means_alone(algorithm: Any, rule: Sgd) -> None:
    torch.manual_seed(4)
    train = TorchTrain(CHAINS["relu"](3), examples(cross_entropy), optimizer=rule, batch_size=5)
    method, start = algorithm.method(train, train.initial()), train.initial()
    rngs = [client_rng(0, 1, client) for client in COHORT]
    further: dict[int, tuple[Any, ...]] = dict.fromkeys(COHORT, ())
    inner, shared = method.train, np.zeros(0, np.float32)
    if isinstance(method.train, Stateful):
        rng, shared, inner = np.random.default_rng(1), 0.1 * start, method.train.train
        further = {client: ({"control": rng.normal(size=len(start)).astype(np.float32)},) for client in COHORT}
        together = inner.train_cohort(np.append(start, shared), COHORT, 1, rngs, [one for (one,) in further.values()])
    else:
        together = [(update,) for update in inner.train_cohort(start, COHORT, 1, rngs)]
    for client, (update, *state) in zip(COHORT, together, strict=True):
        sent = np.append(start, shared)
        alone = inner(sent, client, 1, client_rng(0, 1, client), *further[client])
        one, *own = alone if isinstance(alone, tuple) else (alone,)
        np.testing.assert_allclose(update.delta, one.delta, rtol=2e-5, atol=2e-6)
        for name, block in update.blocks.items():
            np.testing.assert_allclose(block, one.blocks[name], rtol=2e-5, atol=2e-5)
        for after, before in zip(state, own, strict=True):
            np.testing.assert_allclose(after["control"], before["control"], rtol=2e-5, atol=2e-5)
        assert update.metrics == pytest.approx(one.metrics, rel=2e-5)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_many_steps_are_gathered_in_pieces(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr("privfl.fl.lessons._SEGMENT", 200)
    torch.manual_seed(4)
    train = TorchTrain(CHAINS["relu"](3), examples(cross_entropy), batch_size=2, epochs=3, device=device)
    compared(train)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        "this module has a BatchNorm1d",
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3)), "this module has a Dropout"),
    "convolution": (lambda: build("cnn", 784, (), 10, seed=0), "this module has a"),
    "a module of one's own": (lambda: nn.MultiheadAttention(6, 2), "this module has a MultiheadAttention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused_in_one_sentence(name: str) -> None:
    module, reason = REFUSED[name]
    train = TorchTrain(module(), examples(cross_entropy))
    with pytest.raises(ConfigError, match=reason) as caught:
        train.check_cohort()
    assert str(caught.value).endswith("set cohort.training = 'single'")
    assert "\n" not in str(caught.value)


def test_what_a_batched_training_cannot_do_is_refused() -> None:
    module = CHAINS["relu"](3)
    shared = nn.Linear(6, 6)
    frozen = CHAINS["relu"](3)
    frozen[0].requires_grad_(False)  # type: ignore[index]
    cases: list[tuple[nn.Module, dict[str, Any]]] = [
        (module, {"optimizer": torch.optim.Adam}),
        (module, {"update": "gradient"}),
        (module, {"metrics": {"loss2": cross_entropy}}),
        (module, {"loss": lambda output, targets: output.sum()}),
        (nn.Sequential(shared, nn.ReLU(), shared), {}),
        (frozen, {}),
    ]
    for module, options in cases:
        with pytest.raises(ConfigError, match=r"set cohort\.training = 'single'"):
            TorchTrain(module, examples(cross_entropy), **options).check_cohort()


@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (np.zeros((3, 5), np.float32), np.zeros(3, np.int64)),
        (np.zeros((3, 6), np.int64), np.zeros(3, np.int64)),
        (np.zeros((3, 6), np.float32), np.array([0, 3, 1])),
        (np.zeros((3, 6), np.float32), np.array([0, -100, 1])),
        (np.zeros((3, 6), np.float32), np.zeros((3, 2), np.int64)),
    ],
)
def test_examples_that_do_not_fit_are_refused(features: Any, targets: Any) -> None:
    train = TorchTrain(CHAINS["relu"](3), lambda client: (features, targets))
    with pytest.raises(ConfigError):
        train.train_cohort(train.initial(), (0,), 1, [client_rng(0, 1, 0)])


@pytest.mark.parametrize("name", ["relu", "flattens"])
def test_examples_of_another_width_are_refused_alike_alone_and_together(name: str) -> None:
    train = TorchTrain(CHAINS[name](3), lambda client: (np.zeros((3, 5), np.float32), np.zeros(3, np.int64)))
    calls = [
        lambda rng: train(train.initial(), 0, 1, rng),
        lambda rng: train.train_cohort(train.initial(), (0,), 1, [rng]),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="the model takes 6 features, and an example has 5: return 6"):
            call(client_rng(0, 1, 0))


SEVERAL = r"takes 6 features on one axis, and an example has the shape \(2, 3\): return features\.reshape"
NO_AXIS = "the model takes 6 features, and an example has 1: return 6"


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("relu", (4, 2, 3), SEVERAL),
        ("relu", (6,), NO_AXIS),
        ("activation first", (6,), NO_AXIS),
        ("flattens", (6,), NO_AXIS),
        ("flattens", (4, 2, 2), "the model takes 6 features, and an example has 4: return 6"),
    ],
)
@pytest.mark.parametrize("way", ["chain", "adam", "cohort", "tensor", "measure"])
def test_examples_of_other_axes_are_refused_alike(name: str, shape: tuple[int, ...], message: str, way: str) -> None:
    features, targets = np.zeros(shape, np.float32), np.zeros(shape[0], np.int64)
    module, rows = CHAINS[name](3), lambda client: (features, targets)
    options: dict[str, Any] = {"optimizer": partial(torch.optim.Adam, lr=0.1)} if way == "adam" else {}
    if way == "tensor":
        rows = lambda client: (torch.from_numpy(features), torch.from_numpy(targets))  # noqa: E731
    train = TorchTrain(module, rows, **options)
    start, rng = train.initial(), client_rng(0, 1, 0)
    calls: dict[str, Callable[[], Any]] = {
        "cohort": lambda: train.train_cohort(start, (0,), 1, [rng]),
        "measure": lambda: TorchMeasure(module, rows)(start, 0),
    }
    with pytest.raises(ConfigError, match=message):
        calls.get(way, lambda: train(start, 0, 1, rng))()


def test_a_linear_layer_maps_every_place_of_further_axes() -> None:
    rows = lambda client: (np.ones((5, 2, 6), np.float32), np.ones((5, 2, 1), np.float32))  # noqa: E731
    update = TorchTrain(CHAINS["one layer"](1), rows, loss=nn.functional.mse_loss)(
        np.zeros(7, np.float32), 0, 1, client_rng(0, 1, 0)
    )
    assert (update.delta > 0).all()


def test_an_error_of_a_module_itself_is_not_hidden() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(len(x), -1)[:, :7])

    train = TorchTrain(nn.Sequential(Own(6, 3)), lambda client: (np.zeros((4, 8), np.float32), np.zeros(4, np.int64)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(train.initial(), 0, 1, client_rng(0, 1, 0))


def test_an_update_that_overflows_is_not_finite() -> None:
    torch.manual_seed(4)
    rows = lambda client: (np.full((4, 6), 1e30, np.float32), np.zeros(4, np.int64))  # noqa: E731
    train = TorchTrain(CHAINS["relu"](3), rows, optimizer=Sgd(1e20), epochs=3)
    (update,) = train.train_cohort(train.initial(), (0,), 1, [client_rng(0, 1, 0)])
    assert not np.isfinite(update.delta).all()
