"""Models of integer features: a recurrent one on text, embeddings, and what modules of floats say to integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Layout, Sgd, TorchMeasure, TorchTrain
from privfl.errors import ClientFailed, ConfigError
from privfl.experiment import Experiment
from privfl.fl.client import client_rng
from privfl.fl.report import RoundReport


class Characters(nn.Module):
    """Next-character prediction: `[n, window]` -> logits `[n, alphabet, window]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(9, 4), nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0]).movedim(-1, 1)  # type: ignore[no-any-return]


def test_a_recurrent_model_on_text() -> None:
    text = np.random.default_rng(0).integers(0, 9, (6, 12)).astype(np.uint8)
    torch.manual_seed(0)
    module = Characters()
    train = TorchTrain(module, lambda c: (text[:, :-1], text[:, 1:]), optimizer=Sgd(0.5), batch_size=6)
    update = train(train.initial(), 0, 0, client_rng(1, 0, 0))
    x = torch.from_numpy(text).long()
    before = Layout.of(module).flatten(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    nn.functional.cross_entropy(module(x[:, :-1]), x[:, 1:]).backward()
    optimizer.step()
    np.testing.assert_allclose(update.delta, Layout.of(module).flatten(module) - before, atol=1e-6)
    assert np.abs(train.layout.split(update.delta)["lstm.weight_hh_l0"]).max() > 0
    measure = TorchMeasure(module, lambda c: (text[:, :-1], text[:, 1:]))
    sums = measure(before, 0)
    assert sums.values["rows"] == 66
    assert float(sums.values["correct"][0] / 66) == pytest.approx(update.metrics["accuracy"])
    assert float(sums.values["loss"][0] / 66) == pytest.approx(update.metrics["loss"], rel=1e-5)


class Tokens(nn.Module):
    """Class logits `[n, 2]` of token numbers `[n, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x).mean(1))  # type: ignore[no-any-return]


IDS = np.random.default_rng(1).integers(0, 9, (12, 5))
LABELS = IDS[:, 0] % 2


def sums_of(module: nn.Module, features: np.ndarray) -> RoundReport:
    """One round over three clients with these features, trained and measured."""

    def rows(client: int) -> Any:
        return features[client::3], LABELS[client::3]

    train, measure = TorchTrain(module, rows, optimizer=Sgd(0.1), batch_size=3), TorchMeasure(module, rows)
    run = Experiment(clients=3, train=train, initial=train.initial(), measure=measure, rounds=1)
    (report,) = run.run().reports
    return report


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.uint8, np.uint16, np.uint32, bool])
def test_numbers_of_tokens_of_any_integer_type_are_trained_and_measured(dtype: Any) -> None:
    torch.manual_seed(0)
    found = sums_of(Tokens(), (IDS > 4 if dtype is bool else IDS).astype(dtype))
    assert found.status == "trained"
    assert {"loss", "accuracy"} == set(found.metrics)
    assert 0 <= found.evaluation["accuracy"] <= 1


MODULES = {
    "linear": lambda: nn.Linear(5, 2),
    "network": lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 2)),
    "normed": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_for_a_module_of_floats_are_refused_with_the_fix(kind: str, dtype: Any) -> None:
    features = IDS.astype(dtype)
    with pytest.raises(ClientFailed, match=r"features of torch\.int64: return features\.astype\(np\.float32\)"):
        sums_of(MODULES[kind](), features)
    with pytest.raises(ConfigError, match=r"call x\.float\(\) in forward\(\)"):
        TorchMeasure(MODULES[kind](), lambda c: (features, LABELS))(TorchTrain(MODULES[kind](), never).initial(), 0)
    assert sums_of(MODULES[kind](), features.astype(np.float32)).status == "trained"


def never(client: int) -> Any:
    raise AssertionError


@pytest.mark.parametrize("update", ["delta", "gradient"])
def test_floats_for_an_embedding_are_refused_with_the_fix(update: Any) -> None:
    train = TorchTrain(Tokens(), lambda c: (IDS.astype(np.float32), LABELS), update=update)
    with pytest.raises(ConfigError, match=r"features of torch\.float32: return features\.astype\(np\.int64\)"):
        train(train.initial(), 0, 0, client_rng(1, 0, 0))


def test_a_module_that_fails_with_any_features_keeps_its_error() -> None:
    module = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(2, 2, 3), nn.Flatten(), nn.Linear(6, 2))
    train = TorchTrain(module, lambda c: (IDS.astype(np.float32), LABELS))
    with pytest.raises(RuntimeError, match="channels"):
        train(train.initial(), 0, 0, client_rng(1, 0, 0))
