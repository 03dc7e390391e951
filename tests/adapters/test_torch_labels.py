"""Labels that a loss cannot take, or would take for something else: as torch does, or refused with the fix."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain, binary_cross_entropy, cross_entropy, squared_error
from privfl.errors import ConfigError, PrivflError
from privfl.fl.client import client_rng
from privfl.fl.metrics import finish

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 5)).astype(np.float32)
CLASSES = np.arange(12) % 3
SIGN = (X[:, 0] > 0).astype(np.int64)


def autograd(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss of one's own."""
    return functional.cross_entropy(output, targets)


def linear(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, outputs)


def trained(targets: Any, *, outputs: int = 3, loss: Any = cross_entropy, module: Any = None, **options: Any) -> Any:
    train = TorchTrain(module or linear(outputs), lambda client: (X, targets), loss=loss, **options)
    return train(train.initial(), 4, 0, client_rng(0, 0, 4))


def measured(targets: Any, *, outputs: int = 3, loss: Any = cross_entropy, module: Any = None, **options: Any) -> Any:
    module = module or linear(outputs)
    measure = TorchMeasure(module, lambda client: (X, targets), loss=loss, **options)
    return finish(measure(TorchTrain(module, lambda c: (X, targets)).initial(), 4))


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("from 1", CLASSES + 1, {}, r"4 labels of client 4 are outside the classes 0 to 2 .*by y - 1"),
    ("negative", np.where(CLASSES == 0, -1, CLASSES), {}, "4 labels of client 4 are outside the classes 0 to 2"),
    ("far", CLASSES * 7, {}, "8 labels of client 4 are outside"),
    ("floats", CLASSES.astype(np.float32), {}, r"astype\('int64'\)"),
    ("a column", CLASSES[:, None], {}, r"targets of shape \[n, 1\].* need \[n\]: reshape"),
    ("one output", SIGN, {"outputs": 1}, "loss=binary_cross_entropy"),
    ("torch's own", CLASSES + 1, {"loss": functional.cross_entropy}, "by y - 1"),
    ("torch's module", CLASSES + 1, {"loss": nn.CrossEntropyLoss()}, "by y - 1"),
    ("own loss", CLASSES + 1, {"loss": lambda o, t: autograd(o, t - 1)}, "by y - 1"),
    ("-1/1", 2 * SIGN - 1, {"outputs": 1, "loss": binary_cross_entropy}, r"\(y \+ 1\) // 2"),
    ("1/2", SIGN + 1, {"outputs": 1, "loss": binary_cross_entropy}, "by y - 1"),
    ("0/255", SIGN * 255, {"outputs": 1, "loss": binary_cross_entropy}, "write the two classes as 0 and 1"),
    ("values", X[:, 0] * 9, {"outputs": 1, "loss": binary_cross_entropy}, "targets from 0 to 1"),
    ("two outputs", SIGN, {"outputs": 2, "loss": binary_cross_entropy}, "one output for each target"),
    ("own of 1/2", SIGN + 1, {"outputs": 1, "loss": squared_error}, ""),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
@pytest.mark.parametrize("closed", [True, False])
def test_labels_that_would_be_misread_are_refused_with_the_fix(case: Any, closed: bool) -> None:
    _, targets, options, said = case
    options = dict(options)
    outputs = options.pop("outputs", 3)
    module = linear(outputs) if closed else nn.Sequential(nn.Dropout(0.1), linear(outputs))
    if not said:
        assert set(trained(targets, module=module, **options).metrics) >= {"loss"}
        return
    for work in (trained, measured):
        with pytest.raises(ConfigError, match=said) as caught:
            work(targets, module=module, **options)
        assert "255" not in str(caught.value)


def test_ignored_labels_count_in_no_mean() -> None:
    targets = np.where(np.arange(12) < 5, -100, CLASSES)
    kept = targets >= 0
    module = linear(3)
    output = module(torch.from_numpy(X[kept]))
    loss = functional.cross_entropy(output, torch.from_numpy(CLASSES[kept])).item()
    right = float((output.argmax(1).numpy() == CLASSES[kept]).mean())
    for options in ({}, {"batch_size": 4, "optimizer": Sgd(1e-12)}, {"update": "gradient", "batch_size": 5}):
        update = trained(targets, **options)
        assert update.metrics["loss"] == pytest.approx(loss, rel=1e-5)
        assert update.metrics["accuracy"] == pytest.approx(right)
        assert np.isfinite(update.delta).all()
    found = measured(targets, batch_size=5)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] == pytest.approx(right)
    whole, parts = (trained(targets, update="gradient", batch_size=size).delta for size in (None, 3))
    np.testing.assert_allclose(whole, parts, atol=1e-6)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(ignore_index=9), partial(autograd, ignore_index=9)])
def test_the_label_that_a_loss_says_it_ignores_is_ignored(loss: Any) -> None:
    if isinstance(loss, partial):
        loss = partial(functional.cross_entropy, ignore_index=9)
    targets = np.where(np.arange(12) < 5, 9, CLASSES)
    expected = trained(np.where(np.arange(12) < 5, -100, CLASSES))
    update = trained(targets, loss=loss)
    np.testing.assert_allclose(update.delta, expected.delta, atol=1e-6)
    assert update.metrics == pytest.approx(expected.metrics)
    assert measured(targets, loss=loss)["accuracy"] == pytest.approx(expected.metrics["accuracy"])


def test_a_client_whose_labels_are_all_ignored_reports_no_metrics() -> None:
    update = trained(np.full(12, -100), batch_size=5)
    assert dict(update.metrics) == {}
    assert not update.delta.any()
    assert measured(np.full(12, -100)) == {}


@pytest.mark.parametrize("labels", [SIGN, SIGN.astype(bool), SIGN.astype(np.float32), SIGN[:, None]])
def test_two_classes_however_they_are_typed(labels: Any) -> None:
    update = trained(labels, outputs=1, loss=binary_cross_entropy)
    expected = trained(SIGN, outputs=1, loss=binary_cross_entropy)
    np.testing.assert_allclose(update.delta, expected.delta, atol=1e-6)
    found = measured(labels, outputs=1, loss=binary_cross_entropy)
    assert found == pytest.approx(measured(SIGN, outputs=1, loss=binary_cross_entropy))


def hinge(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Takes -1 and 1."""
    return (1 - output.reshape(-1) * targets).clamp(min=0).mean()


def test_a_perfect_model_is_perfect_under_a_loss_for_minus_one_and_one() -> None:
    module = linear(1)
    with torch.no_grad():
        module.weight.zero_()[0, 0] = 5.0  # type: ignore[operator]
        module.bias.zero_()  # type: ignore[operator]
    found = measured(2 * SIGN - 1, module=module, loss=hinge)
    assert (found["accuracy"], found["auc"]) == (1.0, 1.0)
    assert trained(2 * SIGN - 1, module=module, loss=hinge).metrics["accuracy"] == 1.0
    for odd in (SIGN + 1, SIGN * 2 - (np.arange(12) % 3 == 0)):
        with pytest.raises(ConfigError, match="write them as 0 and 1"):
            measured(odd, module=module, loss=hinge)


def test_probabilities_and_values_are_taken() -> None:
    soft = RNG.dirichlet(np.ones(3), 12).astype(np.float32)
    assert np.isfinite(trained(soft, metrics={}).metrics["loss"])
    column = trained(X[:, :1], outputs=1, loss=squared_error).delta
    np.testing.assert_allclose(column, trained(X[:, 0], outputs=1, loss=squared_error).delta, atol=1e-7)
    many = trained(SIGN[:, None] * np.array([1, 0, 1]), loss=binary_cross_entropy)
    assert 0 <= many.metrics["accuracy"] <= 1
    assert set(measured(X[:, :3], loss=squared_error, task="regression")) == {"mse", "mae", "r2"}


def test_lists_and_odd_arrays_are_taken_and_what_is_no_number_is_refused() -> None:
    expected = trained(CLASSES).delta
    for x, y in (
        (X.tolist(), CLASSES.tolist()),
        (X.astype(">f4"), CLASSES.astype(">i8")),
        (X.astype(np.longdouble), CLASSES.astype(np.uint16)),
        (torch.from_numpy(X).requires_grad_(True), torch.from_numpy(CLASSES).to(torch.uint8)),
    ):
        train = TorchTrain(linear(3), lambda client, pair=(x, y): pair)  # type: ignore[misc]
        np.testing.assert_allclose(train(train.initial(), 4, 0, client_rng(0, 0, 4)).delta, expected, atol=1e-6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X)))
    for given in (
        (X.astype(object), CLASSES),
        (X, np.array(["a"] * 12)),
        ([[1.0], [1.0, 2.0]], [0, 1]),
        (X, np.int64(3)),
        (X,),
        loader,
        None,
    ):
        train = TorchTrain(linear(3), lambda client, pair=given: pair)  # type: ignore[misc]
        with pytest.raises(PrivflError, match="client 4"):
            train(train.initial(), 4, 0, client_rng(0, 0, 4))
    with pytest.raises(ConfigError, match="not a DataLoader"):
        TorchTrain(linear(3), loader)  # type: ignore[arg-type]
