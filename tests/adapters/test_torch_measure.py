"""Measurement of a torch module on a client's own rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Layout, TorchMeasure, binary_cross_entropy, squared_error
from privfl.errors import ConfigError
from privfl.fl.linear import LinearModel
from privfl.fl.metrics import LinearMeasure, finish

RNG = np.random.default_rng(2)
X = RNG.normal(size=(40, 5)).astype(np.float32)
CLASSES = RNG.integers(0, 3, 40)
Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def linear(outputs: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, outputs)


def numpys(module: nn.Module) -> np.ndarray[Any, Any]:
    """The vector of a LinearModel for that nn.Linear: it holds the weights the other way round."""
    return np.concatenate([module.weight.detach().numpy().T.ravel(), module.bias.detach().numpy()]).astype(np.float64)  # type: ignore[union-attr,operator]


CASES: list[tuple[Any, int, Any, Any, Any]] = [
    ("softmax", 3, CLASSES, nn.functional.cross_entropy, "classification"),
    ("logistic", 1, (CLASSES > 0).astype(np.int64), binary_cross_entropy, "classification"),
    ("linear", 1, X[:, 0] + 1, squared_error, "regression"),
]


@pytest.mark.parametrize(("kind", "outputs", "targets", "loss", "task"), CASES)
def test_a_linear_module_measures_what_the_linear_model_does(
    kind: Any, outputs: int, targets: Any, loss: Any, task: Any
) -> None:
    module = linear(outputs)
    measure = TorchMeasure(module, lambda c: (X, targets), loss=loss, task=task, batch_size=7)
    got = measure(Layout.of(module).flatten(module), 0)
    want = LinearMeasure(LinearModel(kind, 5, outputs), lambda c: (X, targets))(numpys(module), 0)
    assert set(got.values) == set(want.values)
    for name, value in want.values.items():
        # a sum is two floats, and a logit next to an edge may fall into the next bin
        np.testing.assert_allclose(got.values[name].sum(), value.sum(), rtol=1e-4, err_msg=name)


def test_flat_logits_are_binary() -> None:
    module = nn.Sequential(linear(1), nn.Flatten(0))
    targets = (X[:, 0] > 0).astype(np.int64)
    measure = TorchMeasure(module, lambda c: (X, targets), loss=binary_cross_entropy)
    assert set(finish(measure(Layout.of(module).flatten(module), 0))) >= {"auc", "accuracy", "loss"}


def test_a_client_without_rows_adds_nothing() -> None:
    module = linear(3)
    sums = TorchMeasure(module, lambda c: (X[:0], CLASSES[:0]))(Layout.of(module).flatten(module), 0)
    assert not any(value.any() for value in sums.values.values())


def test_dropout_is_off_and_statistics_are_the_models() -> None:
    module = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.9), linear(3))
    vector = Layout.of(module).flatten(module)
    measure = TorchMeasure(module, lambda c: (X, CLASSES))
    assert finish(measure(vector, 0)) == finish(measure(vector, 0))
    module.eval()
    expected = float((module(torch.from_numpy(X)).argmax(1).numpy() == CLASSES).mean())
    assert finish(measure(vector, 0))["accuracy"] == pytest.approx(expected)
    Layout.of(module).split(vector)["0.running_var"][2] = -0.1
    with pytest.raises(ConfigError, match="running variance of 0 is negative"):
        measure(vector, 0)


def test_local_statistics_are_estimated_from_the_clients_own_rows() -> None:
    module = nn.Sequential(nn.BatchNorm1d(5), linear(3))
    shifted = 50 + 10 * X

    def rows(client: int) -> Arrays:
        return shifted[: 40 if client else 1], CLASSES[: 40 if client else 1]

    with pytest.raises(ConfigError, match="needs calibration rows"):
        TorchMeasure(module, rows, buffers="local")
    measure = TorchMeasure(module, rows, buffers="local", calibration=rows)
    vector = Layout.of(module, buffers="local").flatten(module)
    sums = measure(vector, 1)
    standard = (shifted - shifted.mean(0)) / np.sqrt(shifted.var(0, ddof=1) + 1e-5)
    logits = module[1](torch.from_numpy(standard.astype(np.float32)))
    assert sums.values["correct"] == float((logits.argmax(1).numpy() == CLASSES).sum())
    assert sums.values["loss"].sum() == pytest.approx(
        40 * nn.functional.cross_entropy(logits, torch.from_numpy(CLASSES)).item(), rel=1e-4
    )
    assert measure(vector, 0).values["rows"] == 1  # one row has no variance: the module's own statistics are kept
    assert finish(measure(vector, 1)) == finish(sums)


@pytest.mark.parametrize("options", [{"task": "ranking"}, {"batch_size": 0}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TorchMeasure(linear(1), lambda c: (X, CLASSES), **options)
