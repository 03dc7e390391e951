"""A recurrent model, trained and measured on text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Layout, Sgd, TorchMeasure, TorchTrain
from privfl.fl.client import client_rng


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
