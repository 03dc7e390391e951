"""Gradients of single examples of torch modules: against autograd, alike in any batch, and what is refused."""

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from privfl.adapters.torch import TorchExamples, cross_entropy  # noqa: E402
from privfl.codec import FixedPoint  # noqa: E402
from privfl.errors import ConfigError  # noqa: E402
from privfl.experiment import Experiment  # noqa: E402
from privfl.experiment.config import Data, Model, Privacy, Server  # noqa: E402
from privfl.fl.examples import ExampleGradients, clipped_sum  # noqa: E402
from privfl.ring import Ring  # noqa: E402

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(70, 12)).astype(np.float32), RNG.integers(0, 4, 70)


def a_module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))


def rows(client):
    return X, Y


def a_train(module=None, **settings):
    return TorchExamples(a_module() if module is None else module, rows, **settings)


def all_of(train, model, chosen):
    return np.concatenate(list(train.gradients(model, 0, np.asarray(chosen))))


def test_gradients_are_those_of_autograd():
    train, module = a_train(), a_module()
    assert isinstance(train, ExampleGradients)
    assert train.people(0) == 70
    found = all_of(train, train.initial(), range(70))
    for i in (0, 33, 69):
        module.zero_grad()
        cross_entropy(module(torch.from_numpy(X[i : i + 1])), torch.from_numpy(Y[i : i + 1])).backward()
        wanted = np.concatenate([p.grad.numpy().ravel() for p in module.parameters()])
        assert np.allclose(found[i], wanted, atol=1e-6)


def test_a_gradient_is_the_same_to_the_last_bit_in_any_batch():
    train = a_train()
    at = train.initial()
    whole = all_of(train, at, range(70))
    for chosen in ([5], [5, 6], [0, 5, 69], range(3, 66)):
        assert np.array_equal(all_of(train, at, chosen), whole[list(chosen)])
    codec = FixedPoint(2.0**20, Ring(42))
    parts = sum(clipped_sum([whole[i : i + 1]], codec, 0.5, train.layout.size) for i in range(70))
    assert np.array_equal(clipped_sum(train.gradients(at, 0, np.arange(70)), codec, 0.5, train.layout.size), parts)


def test_people_frozen_layers_and_copies():
    persons = np.arange(70) // 7
    train, grouped = a_train(), a_train(persons=lambda client: persons)
    at = train.initial()
    whole = all_of(train, at, range(70))
    assert grouped.people(0) == 10
    assert np.allclose(all_of(grouped, at, range(10)), whole.reshape(10, 7, -1).sum(1), atol=1e-5)
    copied = pickle.loads(pickle.dumps(train))  # noqa: S301 - our own bytes
    assert np.array_equal(all_of(copied, at, range(70)), whole)
    module = a_module()
    module[0].requires_grad_(False)
    frozen = a_train(module)
    assert frozen.layout.size == 9 * 4 + 4
    assert np.allclose(all_of(frozen, frozen.initial(), range(70)), whole[:, 12 * 9 + 9 :], atol=1e-6)
    assert not frozen.module(np.zeros(40, np.float32))[2].weight.any()


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4)), "GroupNorm"),
        (nn.Sequential(nn.Linear(12, 4), nn.Dropout(0.5)), "p = 0"),
    ],
)
def test_layers_that_mix_examples_or_draw_coins_are_refused(module, says):
    with pytest.raises(ConfigError, match=says):
        a_train(module)


def test_a_network_learns_by_steps_over_examples():
    run = Experiment(
        rounds=30,
        evaluate_every=0,
        data=Data(name="digits", clients=4, test="public"),
        model=Model(kind="mlp", hidden=(16,)),
        server=Server(eta=2.0),
        privacy=Privacy(
            unit="example", placement="central", clip_norm=1.0, sampling_probability=0.05, denominator=72.0,
            noise_multiplier=0.5,
        ),
    ).run()  # fmt: skip
    assert run.accuracy > 0.6
    assert run.epsilon.unit.level == "example"
