"""A contestant: pfl-research's federated averaging. Usage: run_pfl.py JOB MODEL.

Runs in pfl's own environment (benchmarks/peers/pfl.txt), set up as fast as its interface allows: data sets made
once, no evaluation, no callbacks but a clock, no privacy, no weighting.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import types

import models
import numpy as np
import torch
from common import differences, load_job
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Clock(TrainingProcessCallback):
    """The time at the end of every round."""

    def __init__(self) -> None:
        self.stamps: list[tuple[float, float]] = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
        self.stamps.append((time.perf_counter(), time.process_time()))
        return False, Metrics()


def main(job: str, model_name: str) -> None:
    """The same cohort size, model, rate, batches and epochs as the others'."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    np.random.seed(0)  # noqa: NPY002 - it is the generator that pfl draws from
    features, targets, parts, settings = load_job(job)
    users = {
        str(client): Dataset((torch.from_numpy(features[part]), torch.from_numpy(targets[part])), user_id=str(client))
        for client, part in enumerate(parts)
    }
    module = getattr(models, model_name)()
    criterion = torch.nn.functional.cross_entropy
    module.loss = types.MethodType(lambda self, x, y: criterion(self(x), y), module)
    module.metrics = types.MethodType(lambda self, x, y: {}, module)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    data = FederatedDataset(lambda user: users[user], get_user_sampler("random", list(users)))
    clock, rounds = Clock(), settings["warm"] + settings["rounds"]
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=settings["cohort"],
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=settings["learning_rate"],
            local_batch_size=settings["batch_size"],
        ),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    times = differences(clock.stamps[settings["warm"] - 1 :])
    with torch.no_grad():
        accuracy = float((module(torch.from_numpy(features)).argmax(1).numpy() == targets).mean())
    print(json.dumps({**times, "accuracy": accuracy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
