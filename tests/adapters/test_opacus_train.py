"""Example-level DP-SGD: its clipping, its noise, its batches, and its ledger."""

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.opacus import OpacusTrain
from privfl.dp import Ledger, Poisson, PrivacyUnit, epsilon, what_if
from privfl.errors import ConfigError, UnsupportedRelease
from privfl.fl.client import client_rng

RNG = np.random.default_rng(4)
X = RNG.normal(size=(300, 5)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0, 1.0]) > 0).astype(np.int64)


def rows(client):
    return (X[:0], Y[:0]) if client == 9 else (X, Y)


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


def trainer(**settings):
    defaults = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 30, "steps": 4}
    return OpacusTrain(settings.pop("module", None) or mlp(), rows, **{**defaults, **settings})


def run(train, client=0, round=0):
    return train(train.initial(), client, round, client_rng(1, round, client))


def test_one_step_is_the_clipped_mean_of_the_drawn_rows():
    train = trainer(noise_multiplier=1e-9, clip_norm=0.05, steps=1, learning_rate=1.0)
    delta = run(train).delta
    rng = client_rng(1, 0, 0)
    rng.integers(1 << 63)
    drawn = np.flatnonzero(rng.random(300) < 0.1)
    total = np.zeros(train.layout.size)
    module = mlp()
    for i in drawn:
        module.zero_grad()
        nn.functional.cross_entropy(module(torch.from_numpy(X[i : i + 1])), torch.from_numpy(Y[i : i + 1])).backward()
        gradient = np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])
        total += gradient * min(1.0, 0.05 / np.linalg.norm(gradient))
    assert len(drawn) > 10
    np.testing.assert_allclose(delta, -total / 30, atol=2e-6)


def test_the_noise_is_as_declared_even_when_nobody_is_drawn():
    wide = nn.Linear(2000, 2)
    quiet = OpacusTrain(
        wide,
        lambda client: (np.zeros((50, 2000), np.float32), np.zeros(50, np.int64)),
        clip_norm=2.0,
        noise_multiplier=3.0,
        batch_size=1,
        steps=30,
        learning_rate=1.0,
    )
    delta = run(quiet).delta[:4000]
    # 30 steps, each with noise of deviation 3 * 2 / 1; the rows themselves are zero. Some batches are empty.
    assert delta.std() == pytest.approx(6 * 30**0.5, rel=0.05)


def test_it_learns_and_repeats():
    train = trainer(steps=60, learning_rate=0.5)
    first, second = run(train), run(trainer(steps=60, learning_rate=0.5))
    assert np.array_equal(first.delta, second.delta)
    assert first.metrics == {}
    module = mlp()
    train.layout.load(train.initial() + first.delta, module)
    assert (module(torch.from_numpy(X)).argmax(1).numpy() == Y).mean() > 0.8


def test_the_ledger_is_the_clients_own_and_apart_from_client_level(tmp_path):
    train = trainer(ledgers=tmp_path, steps=50)
    for round in range(2):
        run(train, round=round)
    run(train, round=1)  # a second attempt draws batches of its own
    report = train.report(0, 1e-5)
    expected = what_if(sampling=Poisson(0.1), noise_multiplier=1.0, rounds=150, delta=1e-5, unit=PrivacyUnit("example"))
    assert report.epsilon == expected.epsilon
    assert report.rounds == 150
    assert not report.secure
    assert report.as_dict()["unit"] == "example"
    saved = Ledger.read(tmp_path / "client-0.jsonl")
    assert saved.releases == train.ledger(0).releases
    with pytest.raises(UnsupportedRelease, match="seeded or floating-point"):
        epsilon(saved, 1e-5)
    with pytest.raises(UnsupportedRelease, match="one number"):
        epsilon([saved, Ledger(PrivacyUnit("client"))], 1e-5, assume_secure_noise=True)
    assert train.ledger(3).releases == ()


def test_a_client_without_rows_says_nothing():
    train = trainer()
    update = run(train, client=9)
    assert update.examples == 0
    assert not update.delta.any()
    assert train.ledger(9).releases == ()


def test_everyone_is_drawn_where_the_batch_is_the_data():
    train = trainer(batch_size=1000, steps=1)
    run(train)
    assert train.ledger(0).releases[0].sampling.describe().startswith("everyone")


@pytest.mark.parametrize(
    "settings",
    [
        {"module": nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))},
        {"clip_norm": 0.0},
        {"noise_multiplier": float("nan")},
        {"batch_size": 0},
        {"steps": 0},
        {"learning_rate": -1.0},
    ],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ConfigError):
        trainer(**settings)
