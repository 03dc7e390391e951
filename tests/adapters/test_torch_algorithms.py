"""FedProx, SCAFFOLD, FedNova and local layers of a torch module against loops of their papers with torch's autograd."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfl.adapters.torch import Sgd, TorchTrain, cross_entropy
from privfl.data import Dataset, partition
from privfl.errors import ConfigError
from privfl.experiment import Experiment
from privfl.fl.algorithms import FedNova, FedProx, LocalLayers, Scaffold
from privfl.fl.client import client_rng
from privfl.fl.linear import minibatches

CLIENTS, ROUNDS, RATE, BATCH, SEED = 4, 4, 0.1, 9, 2


def federation() -> Any:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(120, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64) + (features[:, 1] > 0.5)
    data = Dataset("points", "multiclass", features, labels, classes=("a", "b", "c"))
    return partition(data, "quantity:0.8", CLIENTS, SEED, min_examples=9)


def network(kind: str) -> nn.Module:
    torch.manual_seed(5)
    middle: list[nn.Module] = [nn.BatchNorm1d(6)] if kind == "norm" else []
    return nn.Sequential(nn.Linear(5, 6), *middle, nn.Tanh(), nn.Linear(6, 3))


def loop(algorithm: str, module: nn.Module, data: Any, momentum: float = 0.0) -> np.ndarray:
    """The paper's loop over `state_dict` vectors; parameters first, as `named_parameters` has them."""

    def parameters(net: nn.Module) -> torch.Tensor:
        return nn.utils.parameters_to_vector(net.parameters()).detach().double()

    x, length = parameters(module), len(nn.utils.parameters_to_vector(module.parameters()))
    c, own = torch.zeros(length).double(), [torch.zeros(length).double() for _ in range(CLIENTS)]
    for round in range(1, ROUNDS + 1):
        found = []
        for client in range(CLIENTS):
            features, labels = (torch.from_numpy(np.array(a)) for a in data.train(client))
            net = copy.deepcopy(module).double()
            nn.utils.vector_to_parameters(x.clone(), net.parameters())
            optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=momentum)
            batches = minibatches(len(labels), BATCH, 1, None, client_rng(SEED, round, client))
            pull = c - own[client] if algorithm == "scaffold" else torch.zeros(length).double()
            for batch in batches:
                optimizer.zero_grad()
                cross_entropy(net(features[batch].double()), labels[batch].long()).backward()
                start = 0
                for p in net.parameters():
                    stop = start + p.numel()
                    p.grad += pull[start:stop].view_as(p)
                    if algorithm == "fedprox":
                        p.grad += 0.5 * (p.detach() - x[start:stop].view_as(p))
                    start = stop
                optimizer.step()
            steps, factor = len(batches), 0.0
            if momentum:
                velocity = 0.0
                for _ in range(steps):
                    velocity = momentum * velocity + 1
                    factor += velocity
            found.append((parameters(net) - x, len(labels), factor or steps))
        weights = torch.tensor([n for _, n, _ in found]).double()
        weights = torch.ones(CLIENTS).double() / CLIENTS if algorithm == "scaffold" else weights / weights.sum()
        if algorithm == "scaffold":
            new = [own[i] - c - found[i][0] / (found[i][2] * RATE) for i in range(CLIENTS)]
            c = c + sum(n - o for n, o in zip(new, own, strict=True)) / CLIENTS
            own = new
        if algorithm == "fednova":
            effective = sum(w * s for w, (_, _, s) in zip(weights, found, strict=True))
            x = x + effective * sum(w * d / s for w, (d, _, s) in zip(weights, found, strict=True))
        else:
            x = x + sum(w * d for w, (d, _, _) in zip(weights, found, strict=True))
    return x.numpy()


ALGORITHMS = {"fedprox": FedProx(0.5), "scaffold": Scaffold(), "fednova": FedNova()}


def an_experiment(data: Any, train: TorchTrain, algorithm: str) -> Experiment:
    chosen, first = ALGORITHMS[algorithm], train.initial()
    return Experiment(data=data, train=train, initial=first, rounds=ROUNDS, seed=SEED, algorithm=chosen)


@pytest.mark.parametrize("autograd", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_is_the_loop_of_its_paper(algorithm: str, autograd: bool) -> None:
    data, module = federation(), network("plain")
    metrics = {"loss_too": cross_entropy} if autograd else None  # metrics of one's own take autograd's way
    train = TorchTrain(module, data.train, optimizer=Sgd(RATE), batch_size=BATCH, metrics=metrics)
    run = an_experiment(data, train, algorithm)
    np.testing.assert_allclose(run.run().model, loop(algorithm, module, data), atol=2e-5)


@pytest.mark.parametrize("algorithm", ["fednova", "scaffold"])
def test_steps_with_momentum_count_by_their_factors(algorithm: str) -> None:
    data, module = federation(), network("plain")
    train = TorchTrain(module, data.train, optimizer=Sgd(RATE, momentum=0.6), batch_size=BATCH)
    run = an_experiment(data, train, algorithm)
    np.testing.assert_allclose(run.run().model, loop(algorithm, module, data, momentum=0.6), atol=2e-5)


def test_fedprox_takes_any_optimizer_of_torch() -> None:
    data, module = federation(), network("plain")
    models = []
    for optimizer in (Sgd(RATE), lambda parameters: torch.optim.SGD(parameters, lr=RATE)):
        train = TorchTrain(module, data.train, optimizer=optimizer, batch_size=BATCH)
        run = Experiment(data=data, train=train, initial=train.initial(), rounds=2, algorithm=FedProx(0.5))
        models.append(run.run().model)
    np.testing.assert_allclose(models[0], models[1], atol=2e-6)
    adam = TorchTrain(module, data.train, optimizer=torch.optim.Adam, batch_size=BATCH)
    for algorithm in (Scaffold(), FedNova()):
        with pytest.raises(ConfigError, match="Sgd"):
            algorithm.method(adam, adam.initial())


def test_running_statistics_have_no_control_variate_and_no_steps() -> None:
    data, module = federation(), network("norm")
    train = TorchTrain(module, data.train, optimizer=Sgd(RATE), batch_size=BATCH)
    assert train.parameters == len(train.initial()) - 12
    for algorithm in (Scaffold(), FedNova()):
        run = Experiment(data=data, train=train, initial=train.initial(), rounds=2, algorithm=algorithm)
        model = run.run().model
        plain = Experiment(data=data, train=train, initial=train.initial(), rounds=1, algorithm=algorithm).run().model
        # Running means move as those of FedAvg do: after one round they are the weighted mean of the clients'.
        weights = np.ones(CLIENTS) if isinstance(algorithm, Scaffold) else data.sizes
        deltas = [train(train.initial(), c, 1, client_rng(0, 1, c)).delta for c in range(CLIENTS)]
        statistics = train.initial() + np.average(deltas, axis=0, weights=weights)
        np.testing.assert_allclose(plain[train.parameters :], statistics[train.parameters :], atol=2e-5)
        assert np.isfinite(model).all()


def test_layers_stay_at_the_clients_by_the_names_of_their_module(tmp_path: Path) -> None:
    data, module = federation(), network("plain")
    train = TorchTrain(module, data.train, optimizer=Sgd(RATE), batch_size=BATCH)
    for names, sent in ((("2",), 36), (("0.bias", "2.bias"), 48)):
        method = LocalLayers(names).method(train, train.initial())
        assert len(method.initial) == sent == sum(method.layers)
    run = Experiment(
        name="mlp", data=data, runs=tmp_path, rounds=3,
        overrides={"model.kind": "mlp", "model.hidden": [6], "client.algorithm": "local-layers",
                   "client.local_layers": ["2"], "engine.workers": 2},
    )  # fmt: skip
    result = run.run()
    assert len(result.model) == 36
    assert 0 <= (result.accuracy or -1) <= 1


def test_a_correction_of_another_length_is_refused() -> None:
    data = federation()
    train = TorchTrain(network("plain"), data.train, optimizer=Sgd(RATE))
    with pytest.raises(ConfigError, match="a correction has 57 entries"):
        train.corrected(train.initial(), 0, 1, client_rng(0, 1, 0), correction=np.zeros(3))
    one = TorchTrain(network("plain"), data.train, optimizer=Sgd(RATE), update="gradient")
    with pytest.raises(ConfigError, match="no local steps"):
        one.corrected(one.initial(), 0, 1, client_rng(0, 1, 0), proximal=0.1)
