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
from privfl.adapters.torch.chain import Chain
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
    x = torch.randn(rows, 6, dtype=held.values.dtype)
    targets = torch.randint(0, 3, (rows,))
    if loss in (squared_error, binary_cross_entropy):
        targets = torch.rand(rows * 3, dtype=held.values.dtype)
    assert chain.fits(x)
    held.gradient.fill_(7.0)  # whatever was there before must not count
    got, output = chain.gradient(x, targets)
    expected = loss(module(x), targets)
    expected.backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in module.parameters()])
    torch.testing.assert_close(held.gradient, gradient, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got, expected.detach())
    torch.testing.assert_close(output, module(x).detach())


def test_a_module_that_flattens_takes_images() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    chain = Chain.of(flat(module), cross_entropy)
    assert chain is not None
    assert chain.fits(torch.zeros(4, 2, 3))
    assert not chain.fits(torch.zeros(4))
    assert chain.gradient(torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long))[1].shape == (4, 3)
    plain = Chain.of(flat(nn.Linear(6, 3)), cross_entropy)
    assert plain is not None
    assert not plain.fits(torch.zeros(4, 5, 6))
    assert not plain.fits(torch.zeros(4, 6, dtype=torch.long))


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
