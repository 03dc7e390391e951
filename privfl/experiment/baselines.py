"""Two baselines of a federation: all clients' examples in one place, and every client alone.

Both train the experiment's own model, with its own hyper-parameters and as many passes over each example, but without
a federation: no averaging, no clipping, no noise. Nobody computes them in practice, since nobody has all the examples.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from privfl.data import ClientExamples, FederatedData
from privfl.errors import ConfigError
from privfl.experiment import build
from privfl.experiment.experiment import Experiment
from privfl.fl.client import client_rng
from privfl.fl.metrics import finish


def pooled(experiment: Experiment) -> dict[str, float]:
    """Metrics of one model that is trained on all clients' training rows in one place."""
    clients = experiment.federation.clients
    everything = ClientExamples("pooled", np.concatenate([client.train for client in clients]), _tests(experiment))
    # `steps` counts minibatches of one client; in one place it takes all clients' steps for as many passes.
    steps = experiment.config.client.steps
    return _alone(experiment, everything, steps=None if steps is None else steps * len(clients))


def local(experiment: Experiment) -> dict[str, float]:
    """The mean, over clients, of the metrics of a model that a client trains on its own rows only.

    Each is measured on the same examples as the federated model: the public test examples, or everybody's together. A
    metric that one of the models lacks, because it diverged, is absent.
    """
    tests = _tests(experiment)
    steps = experiment.config.client.steps
    each = [
        _alone(experiment, ClientExamples(client.name, client.train, tests), steps=steps)
        for client in experiment.federation.clients
    ]
    common = [name for name in each[0] if all(name in metrics for metrics in each)]
    return {name: float(np.mean([metrics[name] for metrics in each])) for name in common}


def _alone(experiment: Experiment, holder: ClientExamples, *, steps: int | None) -> dict[str, float]:
    if experiment.parts.objects.train is not None:
        raise ConfigError("baselines are trained with built-in models only: a `train` of your own knows its clients")
    config = experiment.config
    config = dataclasses.replace(config, client=dataclasses.replace(config.client, steps=steps))
    federation = FederatedData(experiment.federation.dataset, (holder,), experiment.federation.test)
    learner = build.build_learner(config, federation)
    model = learner.initial
    for round in range(1, config.rounds + 1):
        model = model + learner.plain_train(model, 0, round, client_rng(config.seed, round, 0)).delta
    if learner.public_measure is not None:
        return finish(learner.public_measure(model))
    return finish(learner.measure(model, 0)) if learner.measure is not None else {}


def _tests(experiment: Experiment) -> np.ndarray:
    return np.concatenate([client.test for client in experiment.federation.clients])
