"""Modules with frozen parts, buffers of every kind, hooks and ties: trained right, or refused in one sentence."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from privfl.adapters.torch import Layout, Sgd, TorchMeasure, TorchTrain
from privfl.data import load, partition
from privfl.errors import ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate, client_rng

RNG = np.random.default_rng(8)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def rows(client: int) -> Any:
    return X, Y


def run(train: TorchTrain, model: Any = None, client: int = 0) -> Any:
    return train(train.initial() if model is None else model, client, 0, client_rng(1, 0, client))


class LowRank(nn.Module):
    """A frozen layer with a trained update of low rank (Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).to(dtype).requires_grad_(False)
        self.a = nn.Parameter(0.1 * torch.randn(inputs, 2))
        self.b = nn.Parameter(torch.zeros(2, outputs))
        self.register_buffer("table", torch.ones(500))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x.to(self.base.weight.dtype)).float() + x @ self.a @ self.b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_only_what_is_trained_is_in_the_vector(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(LowRank(6, 200, dtype), nn.ReLU(), nn.Linear(200, 3))
    train = TorchTrain(module, rows, optimizer=Sgd(0.1, momentum=0.5, weight_decay=0.1), epochs=3)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert train.layout.size == trained
    model = train.initial() + run(train).delta
    after = train.module(model)
    assert torch.equal(after[0].base.weight, module[0].base.weight)
    assert torch.equal(after[0].base.bias, module[0].base.bias)
    assert not torch.equal(after[0].b, module[0].b)
    again = TorchMeasure(module, rows)(model, 0)
    assert float(again.values["loss"][0]) < float(TorchMeasure(module, rows)(train.initial(), 0).values["loss"][0])


def test_a_frozen_base_costs_no_bytes_and_gets_no_noise(tmp_path: Path) -> None:
    data = partition(load("digits"), "iid", clients=4, seed=0)
    torch.manual_seed(0)
    module = nn.Sequential(LowRank(64, 400, torch.bfloat16), nn.ReLU(), nn.Linear(400, 10))
    train = TorchTrain(module, data.train, batch_size=64)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    noise = {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}

    def zeros(model: Any, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.zeros(trained), 1)

    sent = []
    for work, initial in ((train, train.initial()), (zeros, np.zeros(trained))):
        folder = tmp_path / str(len(sent))
        run = Experiment(data=data, train=work, initial=initial, rounds=1, runs=folder, overrides=noise)
        (report,) = run.each_round()
        sent.append(report.bytes_up)
        if work is train:
            after = train.module(run.model)
    assert sent[0] <= 1.1 * sent[1]
    assert torch.equal(after[0].base.weight, module[0].base.weight)
    assert torch.equal(after[0].table, module[0].table)
    assert not torch.equal(after[0].b, module[0].b)


def test_examples_in_half_precision_stay_so_for_a_frozen_base_of_that_type() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.head = nn.Linear(6, 5).bfloat16().requires_grad_(False), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.base(x).float())

    train = TorchTrain(Head(), lambda client: (torch.from_numpy(X).bfloat16(), torch.from_numpy(Y)))
    assert np.abs(run(train).delta).max() > 0


def test_all_parameters_are_sent_where_that_is_asked() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    every = TorchTrain(module, rows, trainable="all")
    assert every.layout.size == 28 + 15
    assert not run(every).delta[:28].any()
    assert TorchTrain(module, rows).layout.size == 15
    np.testing.assert_array_equal(run(TorchTrain(module, rows)).delta, run(every).delta[28:])
    with pytest.raises(ConfigError, match="trainable must be one of only, all"):
        TorchTrain(module, rows, trainable="some")  # type: ignore[arg-type]


def test_a_frozen_norm_keeps_its_statistics_and_a_trained_one_sends_them() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    module[1].running_mean.fill_(0.3)  # type: ignore[union-attr,operator]
    module[1].requires_grad_(False)
    train = TorchTrain(module, rows, epochs=2)
    names = [entry.name for entry in train.layout.entries if entry.kind == "buffer"]
    assert names == ["3.running_mean", "3.running_var"]
    after = train.module(train.initial() + run(train).delta)
    assert torch.equal(after[1].running_mean, module[1].running_mean)
    assert not torch.equal(after[3].running_mean, module[3].running_mean)
    assert TorchMeasure(module, rows)(train.initial(), 0).values["rows"] == 40


class Masked(nn.Linear):
    """A layer with a mask, a table and a counter."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("mask", (torch.rand(3, 6) > 0.5).float())
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1  # type: ignore[operator]
        return nn.functional.linear(x, self.weight * self.mask, self.bias)  # type: ignore[operator]


def test_masks_are_not_sent_and_counters_start_afresh() -> None:
    module = Masked()
    train = TorchTrain(module, rows, epochs=3)
    assert [entry.name for entry in train.layout.entries] == ["weight", "bias"]
    first = run(train).delta
    assert run(train).delta.tobytes() == first.tobytes()
    after = train.module(train.initial() + first)
    assert torch.equal(after.mask, module.mask)
    assert int(after.count) == 0


class Average(nn.Linear):
    """A layer with a statistic of the user's own."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("ema", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ema.mul_(0.9).add_(0.1 * x.mean(0))  # type: ignore[operator]
        return super().forward(x)


def test_a_buffer_that_changes_is_averaged_by_name_dropped_by_choice_or_an_error() -> None:
    with pytest.raises(ConfigError, match="changed the buffer 'ema', which is not sent: set buffers"):
        run(TorchTrain(Average(), rows))
    named = TorchTrain(Average(), rows, buffers=("ema",))
    np.testing.assert_allclose(run(named).delta[-6:], 0.1 * X.mean(0), atol=1e-6)
    assert TorchTrain(Average(), rows, buffers="local").layout.size == 21
    assert np.isfinite(run(TorchTrain(Average(), rows, buffers="local")).delta).all()
    with pytest.raises(ConfigError, match="no floating-point buffer 'emma'"):
        TorchTrain(Average(), rows, buffers=("emma",))


def pruned() -> nn.Module:
    layer = nn.Linear(6, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weight_norm(nn.Linear(6, 3))


HOOKED: dict[str, Callable[[], nn.Module]] = {
    "pruned": pruned,
    "old weight norm": old_weight_norm,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(6, 3)),
}


@pytest.mark.parametrize("name", HOOKED)
@pytest.mark.parametrize("used", [False, True])
def test_weights_that_are_computed_train_as_torch_trains_them(name: str, used: bool) -> None:
    torch.manual_seed(0)
    module = HOOKED[name]()
    if used:
        module(torch.from_numpy(X)).sum().backward()
        module.zero_grad()
    train = TorchTrain(module, rows, optimizer=Sgd(0.1), loss=nn.functional.cross_entropy)
    model = train.initial() + run(train).delta
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
    optimizer.step()
    np.testing.assert_allclose(model, Layout.of(module).flatten(module), atol=1e-6)
    trained = train.module(model)
    if name == "pruned":
        assert (trained.weight == 0).sum() == 9
        assert torch.equal(trained.weight_mask, module.weight_mask)
    torch.testing.assert_close(trained(torch.from_numpy(X)), module(torch.from_numpy(X)), atol=1e-5, rtol=1e-4)


def old_spectral_norm() -> nn.Module:
    return spectral_norm(nn.Linear(6, 3))


@pytest.mark.parametrize("make", [old_spectral_norm, lambda: parametrizations.spectral_norm(nn.Linear(6, 3))])
def test_the_spectral_norm_of_a_loaded_model_is_one(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    train = TorchTrain(module, rows, optimizer=Sgd(0.5), epochs=5)
    assert train.layout.size == 21  # no power-iteration vector is sent
    first = run(train).delta
    run(train, client=1)
    assert run(train).delta.tobytes() == first.tobytes()
    model = RNG.normal(size=21).astype(np.float32)  # far from where the vectors started
    predicting = train.module(model)
    predicting(torch.zeros(1, 6))
    assert float(torch.linalg.matrix_norm(predicting.weight.detach(), 2)) == pytest.approx(1.0, abs=1e-2)


def tied_by_data() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    module[1].weight.data = module[0].weight.data
    return module


def tied_to_a_frozen_one() -> nn.Module:
    module = tied_by_data()
    module[1].weight.requires_grad_(False)
    return module


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tied by data": (tied_by_data, "share memory; tie them"),
    "tied to a frozen one": (tied_to_a_frozen_one, "share memory; tie them"),
    "all frozen": (lambda: nn.Linear(6, 3).requires_grad_(False), "all its parameters are frozen"),
    "no parameters": (lambda: nn.Sequential(nn.Flatten()), "it has no parameters"),
    "half precision": (lambda: nn.Linear(6, 3).half(), "weight is torch.float16, and a module is trained in float32"),
    "complex": (lambda: nn.Linear(6, 3, dtype=torch.complex64), "weight is torch.complex64"),
    "two precisions": (lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3).double()), "1.weight is torch.float64"),
    "no values": (lambda: nn.Linear(6, 3, device="meta"), "is on the meta device"),
    "lazy statistics": (lambda: nn.Sequential(nn.Linear(6, 3), nn.LazyBatchNorm1d(affine=False)), "has no shape yet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_sentence(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said):
        TorchTrain(make(), rows)


def test_tied_frozen_tensors_are_nobodys_business() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    module[1].weight.data = module[0].weight.data
    module[:2].requires_grad_(False)
    assert np.abs(run(TorchTrain(module, rows)).delta).max() > 0


@pytest.mark.parametrize(
    ("count", "size"), [(9, 4), (1, None), (3, 1)], ids=["last batch", "one example", "batches of one"]
)
def test_a_batch_of_one_under_batchnorm_is_trained_with_running_statistics(count: int, size: int | None) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    given = copy.deepcopy(module)
    train = TorchTrain(module, lambda client: (X[:count], Y[:count]), batch_size=size)
    update = run(train)
    assert np.isfinite(update.delta).all()
    assert np.abs(update.delta).max() > 0
    assert update.examples == count
    after = train.module(train.initial() + update.delta)
    assert not [*after[1]._forward_hooks, *after[1]._forward_pre_hooks]
    if count == 1:  # the gradient of the module in which the norm is in evaluation mode
        given[1].eval()
        nn.functional.cross_entropy(given(torch.from_numpy(X[:1])), torch.from_numpy(Y[:1])).backward()
        expected = -0.1 * torch.cat([parameter.grad.ravel() for parameter in given.parameters()]).numpy()
        np.testing.assert_allclose(update.delta[: len(expected)], expected, atol=1e-6)


def test_a_convolution_normalizes_a_batch_of_one_as_torch_does() -> None:
    module = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(6, 3))
    train = TorchTrain(module, lambda client: (X[:1], Y[:1]))
    change = train.layout.split(run(train).delta)
    np.testing.assert_allclose(change["1.running_mean"], 0.1 * X[0].mean(), atol=1e-6)


def test_drop_last_leaves_smaller_batches_out_and_never_all() -> None:
    seen: list[int] = []

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(len(targets))
        return nn.functional.cross_entropy(output, targets)

    for count, options, expected in (
        (9, {"epochs": 2}, [4, 4] * 2),
        (9, {"steps": 3}, [4, 4, 4]),
        (8, {}, [4, 4]),
        (3, {}, [3]),
    ):
        seen.clear()
        given = (X[:count], Y[:count])
        run(
            TorchTrain(nn.Linear(6, 3), lambda c, g=given: g, loss=loss, batch_size=4, drop_last=True, **options)  # type: ignore[misc,arg-type]
        )
        assert seen == expected


def test_trainings_in_threads_do_not_disturb_each_other_or_the_users_generator() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    shared = TorchTrain(module, rows, batch_size=4, epochs=3)
    expected = [run(shared, client=client).delta.tobytes() for client in range(8)]
    found: dict[int, bytes] = {}

    def work(client: int) -> None:
        train = shared if client % 2 else TorchTrain(module, rows, batch_size=4, epochs=3)
        found[client] = run(train, client=client).delta.tobytes()

    before = torch.get_rng_state()
    threads = [threading.Thread(target=work, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[client] for client in range(8)] == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_inside_a_norm_leaves_it_in_training_mode() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    train = TorchTrain(module, lambda client: (X[: client + 1], Y[: client + 1]))
    expected = run(train, client=20).delta.tobytes()

    def fail(*given: Any) -> None:
        raise ZeroDivisionError("own")

    handle = train._flat.module[1].register_forward_hook(fail, prepend=True)
    with pytest.raises(ZeroDivisionError):
        run(train, client=0)
    handle.remove()
    assert run(train, client=20).delta.tobytes() == expected
