"""A contestant: PyTorch alone on one client after the other, nothing federated. Usage: run_bare.py JOB MODEL."""

from __future__ import annotations

import json
import sys

import models
import numpy as np
import torch
from common import load_job, timed


def main(job: str, model_name: str) -> None:
    """The loop of the tutorials: shuffle, forward, backward, step."""
    torch.set_num_threads(1)
    features, targets, parts, settings = load_job(job)
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    indices = [torch.from_numpy(part) for part in parts]
    model = getattr(models, model_name)()
    optimizer = torch.optim.SGD(model.parameters(), lr=settings["learning_rate"])
    draws = np.random.default_rng(0)

    def step(number: int) -> None:
        for client in draws.choice(len(parts), settings["cohort"], replace=False):
            mine = indices[client]
            for batch in mine[torch.randperm(len(mine))].split(settings["batch_size"]):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    times = timed(step, warm=settings["warm"], rounds=settings["rounds"])
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    print(json.dumps({**times, "accuracy": accuracy}))


if __name__ == "__main__":
    main(*sys.argv[1:])
