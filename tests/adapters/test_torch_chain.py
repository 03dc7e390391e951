"""The closed form of a chain of plain layers: autograd's own gradients, and only where it is right to use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from privfl.adapters.torch import Sgd, TorchTrain, binary_cross_entropy, cross_entropy, squared_error
from privfl.adapters.torch import accuracy as tensor_accuracy
from privfl.adapters.torch.chain import Chain, accuracy
from privfl.adapters.torch.flat import FlatModule
from privfl.fl.client import client_rng

CPU = torch.device("cpu")


def flat(module: nn.Module) -> FlatModule:
    return FlatModule(module, buffers="shared", device=CPU)


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: nn.Linear(6, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 3, bias=False)),
    "relu": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
    "nested": lambda: nn.Sequential(
        nn.Identity(),
        nn.Sequential(nn.Linear(6, 8), nn.Tanh()),
        nn.Sequential(nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 3)),
    ),
    "activation first": lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3)),
    "activation last": lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh()),
    "two activations": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.ReLU(), nn.Linear(8, 3)),
    "double": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double(),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize(
    "loss",
    [cross_entropy, functional.cross_entropy, squared_error, binary_cross_entropy],
    ids=lambda loss: loss.__name__,
)
def test_the_gradient_is_autograds(name: str, rows: int, loss: Any) -> None:
    torch.manual_seed(4)
    module = CHAINS[name]()
    held = flat(module)
    chain = Chain.of(held, loss)
    assert chain is not None
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6))
    targets = rng.integers(0, 3, rows)
    if loss in (squared_error, binary_cross_entropy):
        targets = rng.uniform(size=rows * 3)
    assert chain.takes(x, targets, rows)
    held.gradient.fill_(7.0)  # whatever was there before must not count
    got, output = chain.gradient(chain.prepare(x), targets)
    ours = module(torch.from_numpy(x).to(held.values.dtype))
    expected = loss(ours, torch.from_numpy(targets))
    expected.backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in module.parameters()])
    torch.testing.assert_close(held.gradient, gradient, atol=1e-6, rtol=1e-5)
    assert got == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(output, ours.detach().numpy(), atol=1e-6)
    assert output.dtype == held.layout.dtype
    if loss is cross_entropy:
        assert accuracy(output, targets) == pytest.approx(tensor_accuracy(ours, torch.from_numpy(targets)).item())


def test_the_accuracy_of_one_logit_is_that_of_its_sign() -> None:
    output, targets = np.array([[2.0], [-1.0], [3.0], [1.0]]), np.array([1, 0, 0, 1])
    assert accuracy(output, targets) == 0.75


def test_rows_that_numpy_cannot_take_as_torch_would_are_left_to_autograd() -> None:
    chain = Chain.of(flat(nn.Linear(6, 3)), cross_entropy)
    images = Chain.of(flat(nn.Sequential(nn.Flatten(), nn.Linear(6, 3))), cross_entropy)
    values = Chain.of(flat(nn.Linear(6, 1)), squared_error)
    assert chain is not None
    assert images is not None
    assert values is not None
    x, y = np.zeros((4, 6)), np.array([0, 1, 2, 0])
    assert chain.takes(x, y, 4)
    assert chain.takes(x, y, 1 << 13)
    assert not chain.takes(x, y, 1 << 15)  # too large a product
    assert not chain.takes(np.zeros((4, 5, 6)), y, 4)
    assert not chain.takes(np.zeros((4, 6), np.int64), y, 4)
    assert not chain.takes(x, np.array([0, 1, -100, 0]), 4)
    assert not chain.takes(x, np.zeros((4, 3)), 4)  # probabilities
    assert not chain.takes(x, y.astype(float), 4)
    assert values.takes(x, y.astype(float), 4)
    assert images.takes(np.zeros((4, 2, 3)), y, 4)
    assert not images.takes(np.zeros(4), y, 4)
    assert images.gradient(images.prepare(np.zeros((4, 2, 3))), y)[1].shape == (4, 3)


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    module[1].weight = module[0].weight
    return module


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))
    module[0].requires_grad_(False)
    return module


def hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    module[1].register_forward_hook(lambda *_: None)
    return module


class Own(nn.Linear):
    """A user's own layer, whatever it does."""


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Sequential(nn.Linear(6, 3), nn.Dropout()),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)),
    "a subclass": lambda: nn.Sequential(Own(6, 3)),
    "parametrized": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
    "flatten inside": lambda: nn.Sequential(nn.Linear(6, 3), nn.Flatten()),
    "another flatten": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(6, 3)),
    "nothing to train": lambda: nn.Sequential(nn.ReLU()),
    "empty": nn.Sequential,
    "shared": shared,
    "tied": tied,
    "frozen": frozen,
    "hooked": hooked,
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_left_to_autograd(name: str) -> None:
    assert Chain.of(flat(OTHERS[name]()), cross_entropy) is None


def test_a_loss_of_ones_own_is_left_to_autograd() -> None:
    assert Chain.of(flat(nn.Linear(6, 3)), lambda output, targets: output.sum()) is None


def test_a_chain_that_diverges_says_so_in_its_delta_alone() -> None:
    x, y = np.full((4, 6), 1e30, np.float32), np.array([0, 1, 2, 0])
    train = TorchTrain(nn.Linear(6, 3), lambda c: (x, y), optimizer=Sgd(1e30), epochs=3)
    assert not np.isfinite(train(train.initial(), 0, 0, client_rng(0, 0, 0)).delta).all()


def test_training_by_the_chain_is_training_by_autograd() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)).astype(np.float32), rng.integers(0, 3, 30)

    def delta(loss: Any) -> Any:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        train = TorchTrain(
            module, lambda c: (x, y), optimizer=Sgd(0.2, momentum=0.5), loss=loss, epochs=5, batch_size=7
        )
        return train(train.initial(), 0, 0, client_rng(0, 0, 0))

    closed, recorded = delta(cross_entropy), delta(lambda *batch: 1.0 * cross_entropy(*batch))
    np.testing.assert_allclose(closed.delta, recorded.delta, atol=1e-5)
    assert closed.metrics == pytest.approx(recorded.metrics)
    assert np.linalg.norm(closed.delta) > 0.5
