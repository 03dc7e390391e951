"""Training, measuring and clipping on a CUDA device: the results of the CPU up to rounding, and refusals."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.opacus import OpacusTrain
from privfl.adapters.torch import Sgd, TorchExamples, TorchMeasure, TorchTrain
from privfl.errors import ConfigError
from privfl.experiment import Client, Data, Experiment, Privacy, Sum
from privfl.experiment.config import Engine, Model
from privfl.fl.client import client_rng

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")

RNG = np.random.default_rng(7)
IMAGES = RNG.normal(size=(5, 24, 1, 12, 12)).astype(np.float32)
LABELS = RNG.integers(0, 4, size=(5, 24))
MODULES: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, 4)
    ),
    "double": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).double(),
}


def rows(client: int) -> tuple[Any, Any]:
    return IMAGES[client], LABELS[client]


def module(name: str) -> nn.Module:
    torch.manual_seed(3)
    return MODULES[name]()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
def test_a_local_training_is_that_of_the_cpu(name: str, adam: bool) -> None:
    optimizer: Any = (lambda parameters: torch.optim.Adam(parameters, lr=0.01)) if adam else Sgd(0.05, momentum=0.9)
    updates = []
    for device in ("cpu", "cuda"):
        train = TorchTrain(module(name), rows, optimizer=optimizer, batch_size=8, epochs=2, device=device)
        updates.append(train(train.initial(), 1, 4, client_rng(0, 4, 1)))
    on_cpu, on_cuda = updates
    scale = float(np.abs(on_cpu.delta).max())
    np.testing.assert_allclose(on_cuda.delta, on_cpu.delta, atol=(0.05 if adam else 2e-3) * scale)
    assert on_cuda.delta.dtype == on_cpu.delta.dtype
    assert on_cuda.metrics == pytest.approx(on_cpu.metrics, rel=2e-3)
    assert scale > 1e-3


@pytest.mark.parametrize("name", ["chain", "double"])
def test_clients_trained_at_once_have_the_updates_of_the_cpu(name: str) -> None:
    cohort = (4, 0, 2)
    deltas = []
    for device in ("cpu", "cuda"):
        train = TorchTrain(module(name), rows, optimizer=Sgd(0.05), batch_size=8, epochs=2, device=device)
        rngs = [client_rng(0, 1, client) for client in cohort]
        deltas.append(np.stack([one.delta for one in train.train_cohort(train.initial(), cohort, 1, rngs)]))
    np.testing.assert_allclose(deltas[1], deltas[0], rtol=1e-3, atol=1e-5)


def test_the_sums_of_a_measure_are_those_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        network = module("convolution")
        measure = TorchMeasure(network, rows, device=device, batch_size=7)
        train = TorchTrain(network, rows, device=device)
        found.append(measure(train.initial(), 2).values)
    assert set(found[0]) == set(found[1])
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-3, atol=1.001)  # a logit at an edge of a bin


def test_gradients_of_examples_are_those_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        train = TorchExamples(module("chain"), rows, device=device)
        found.append(np.concatenate(list(train.gradients(train.initial(), 0, np.arange(9)))))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-5)
    again = TorchExamples(module("chain"), rows, device="cuda")
    one = np.concatenate(list(again.gradients(again.initial(), 0, np.array([4]))))
    assert np.array_equal(one[0], found[1][4])  # whoever else is in the batch


def test_the_clipped_step_without_noise_is_that_of_the_cpu() -> None:
    deltas = []
    for device in ("cpu", "cuda"):
        train = OpacusTrain(
            module("chain"), rows, clip_norm=0.5, noise_multiplier=1e-9, batch_size=8, steps=3, device=device
        )
        deltas.append(train(train.initial(), 0, 0, client_rng(1, 0, 0)).delta)
    np.testing.assert_allclose(deltas[1], deltas[0], rtol=2e-3, atol=1e-5)
    assert np.abs(deltas[0]).max() > 1e-3


def settings(scheme: str, device: str, **more: Any) -> dict[str, Any]:
    return {
        "data": Data("digits", clients=6),
        "model": Model("mlp"),
        "client": Client(steps=20, batch_size=16, learning_rate=0.2, device=device),
        "sum": Sum(scheme),
        "rounds": 3,
        **more,
    }


def test_a_run_learns_through_a_masked_sum_and_is_that_of_the_cpu() -> None:
    results = {
        name: Experiment(**settings(scheme, device)).run()
        for name, scheme, device in [
            ("cpu", "masked", "cpu"), ("cuda", "masked", "cuda"), ("plain", "plain", "cuda"),
        ]
    }  # fmt: skip
    assert results["cuda"].accuracy == pytest.approx(results["cpu"].accuracy, abs=0.02)
    assert results["cuda"].accuracy > 0.5
    np.testing.assert_allclose(results["cuda"].model, results["cpu"].model, atol=5e-3)
    np.testing.assert_allclose(results["cuda"].model, results["plain"].model, atol=1e-4)


def test_a_private_run_has_the_epsilon_of_the_cpu() -> None:
    privacy = Privacy("distributed", clip_norm=1.0, noise_multiplier=1.0, adjacency="zero_out")
    figures = [Experiment(**settings("masked", device, privacy=privacy)).run().epsilon for device in ("cpu", "cuda")]
    assert figures[0] == figures[1]


def test_workers_on_a_device_and_devices_that_are_absent_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set engine.workers = 0"):
        Experiment(**settings("plain", "cuda", engine=Engine(workers=2))).run()
    with pytest.raises(ConfigError, match="device must be"):
        TorchTrain(module("chain"), rows, device=f"cuda:{torch.cuda.device_count()}")


def _train_in_child(train: TorchTrain, answers: Any) -> None:
    try:
        train(train.initial(), 0, 0, client_rng(0, 0, 0))
    except ConfigError as error:
        answers.put(str(error))
    else:
        answers.put("trained")


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda", "a forked process cannot use a GPU that its parent has used"),
        ("cpu", "hide the GPU with CUDA_VISIBLE_DEVICES="),
    ],
)
def test_a_fork_of_a_process_that_trained_is_refused(device: str, reason: str) -> None:
    train = TorchTrain(module("convolution"), rows, device=device, threads=1)
    train(train.initial(), 0, 0, client_rng(0, 0, 0))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        context = multiprocessing.get_context("fork")
        answers: Any = context.Queue()
        child = context.Process(target=_train_in_child, args=(train, answers))
        child.start()
        answer = answers.get(timeout=60)
        child.join(60)
    finally:
        torch.set_num_threads(before)
    assert reason in answer


def test_convolutions_have_full_precision_and_torch_keeps_its_setting() -> None:
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    updates = []
    for device in ("cpu", "cuda"):
        train = TorchTrain(module("convolution"), rows, batch_size=8, epochs=1, device=device)
        updates.append(train(train.initial(), 1, 0, client_rng(0, 0, 1)).delta)
    assert np.linalg.norm(updates[1] - updates[0]) < 2e-5 * np.linalg.norm(updates[0])
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
