"""What would carry examples past the noise of DP-SGD is refused: mixing, state, other optimizers, wrapped parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine, grad_sample
from torch import nn
from torch.nn import functional

from privfl.adapters.opacus import OpacusTrain
from privfl.errors import ConfigError
from privfl.fl.client import client_rng

RNG = np.random.default_rng(6)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def run(module: nn.Module | None = None, rows: Any = lambda client: (X, Y), **settings: Any) -> np.ndarray:
    usual = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 30, "steps": 2}
    train = OpacusTrain(module or nn.Linear(5, 2), rows, **{**usual, **settings})
    return train(train.initial(), 0, 1, client_rng(1, 0, 0)).delta


class Own(nn.Module):
    """A linear layer after a function of the batch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.last = kind, nn.Linear(5, 2)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = {
            "mean": lambda: x - x.mean(0),
            "norm": lambda: functional.normalize(x, dim=0),
            "sorted": lambda: x.sort(0).values,
            "neighbor": lambda: x + x.roll(1, 0),
            "attention": lambda: torch.softmax(x @ x.T, 1) @ x,
        }.get(self.kind, lambda: x)()
        if self.kind == "buffer":
            self.seen += x.detach().sum(0)
        if self.kind == "count":
            self.seen += len(x)
        if self.kind == "weights" and len(x) > 8:
            with torch.no_grad():
                self.last.weight.add_(x.sum())
        return self.last(mixed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["mean", "norm", "sorted", "neighbor", "attention"])
def test_a_module_that_mixes_examples_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="output for one example depends on the others"):
        run(Own(kind))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("buffer", "buffer 'seen' changes"),
        ("count", "buffer 'seen' changes"),
        ("weights", "changes its own parameters"),
    ],
)
def test_a_module_that_keeps_something_of_its_examples_is_refused(kind: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        run(Own(kind))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Own("nothing"),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 2)),
        lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 2)),
    ],
)
def test_modules_that_compute_each_example_by_itself_train(make: Any) -> None:
    assert np.abs(run(make())).max() > 0


class Reader(torch.optim.SGD):
    """Takes what it finds next to the gradients."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                assert parameter.grad is not None
                assert parameter.grad_sample is None
                assert parameter.summed_grad is None
        return super().step(closure)


def test_an_optimizer_sees_the_noised_gradients_alone() -> None:
    assert np.abs(run(optimizer=lambda parameters: Reader(parameters, lr=0.1))).max() > 0


OTHERS = {
    "of another module": lambda parameters: torch.optim.SGD(nn.Linear(5, 2).parameters(), lr=0.1),
    "of half": lambda parameters: torch.optim.SGD(parameters[:1], lr=0.1),
    "of more": lambda parameters: torch.optim.SGD([*parameters, nn.Parameter(torch.zeros(1))], lr=0.1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_optimizer_of_other_parameters_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="optimizer of other parameters than it was given"):
        run(optimizer=OTHERS[name])


def test_an_optimizer_that_asks_for_the_loss_again_is_refused() -> None:
    with pytest.raises(ConfigError, match="LBFGS calls for the loss again"):
        run(optimizer=torch.optim.LBFGS)


def test_a_part_that_opacus_wraps_already_is_refused() -> None:
    wrapped = [grad_sample.GradSampleModule(nn.Linear(5, 3)), nn.Linear(3, 2)]
    fast = grad_sample.GradSampleModuleFastGradientClipping(nn.Linear(5, 2))
    for module in (nn.Sequential(*wrapped), fast):
        with pytest.raises(ConfigError, match="give the plain module"):
            run(module)


@pytest.mark.filterwarnings("ignore")  # Opacus warns of its own random numbers
def test_everything_of_a_privacy_engine_is_refused() -> None:
    module = nn.Linear(5, 2)
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    module, optimizer, loader = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        data_loader=torch.utils.data.DataLoader(data, batch_size=10),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    with pytest.raises(ConfigError, match="give the plain module"):
        run(module)
    with pytest.raises(ConfigError, match="return the plain torch optimizer"):
        run(optimizer=lambda parameters: optimizer)
    sampler = torch.utils.data.WeightedRandomSampler(np.ones(60), 20)
    with pytest.raises(ConfigError, match="Poisson sampling, which its epsilon assumes"):
        run(rows=loader)
    for given in (loader, sampler, data, iter([(X, Y)])):
        with pytest.raises(ConfigError, match="Batches are sampled here, so give no loader"):
            run(rows=lambda client, held=given: held)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 1e30])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_no_optimizer_lets_an_example_without_a_finite_gradient_through(value: float, optimizer: Any) -> None:
    odd = X.copy()
    odd[3] = value
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    assert np.isfinite(run(module, lambda client: (odd, Y), optimizer=lambda p: optimizer(p, lr=0.1))).all()
