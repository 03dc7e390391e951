"""A contestant: rounds of privfl through PlainSum. Usage: run_privfl.py JOB MODEL WORKERS (0: the loop)."""

from __future__ import annotations

import json
import sys

import models
import numpy as np
import torch
from common import load_job, timed

from privfl.adapters.torch import Sgd, TorchTrain, one_thread
from privfl.codec import FixedPoint
from privfl.dp import FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.fl.plan import RoundPlan, UpdatePlan, model_hash
from privfl.fl.round import Contribution, Parts, run_round
from privfl.ring import Ring
from privfl.sums import PlainSum

CLIP = 8.0


def main(job: str, model_name: str, workers: str) -> None:
    """Whole rounds: train, clip, encode, sum, decode, average."""
    features, targets, parts, settings = load_job(job)
    size = settings["cohort"]
    train = TorchTrain(
        getattr(models, model_name)(),
        lambda client: (features[parts[client]], targets[parts[client]]),
        optimizer=Sgd(settings["learning_rate"]),
        metrics={},
        batch_size=settings["batch_size"],
    )
    model = train.initial()
    update = UpdatePlan(len(model), FixedPoint.fit(Ring(32), clip_norm=CLIP, cohort=size), FlatClip(CLIP))
    executor = ProcessExecutor(int(workers), initializer=one_thread) if int(workers) else LoopExecutor()
    pipe = Parts(Contribution(train, update, None, seed=0), PlainSum(), executor)
    moments: dict[str, np.ndarray] = {}
    draws = np.random.default_rng(0)

    def step(number: int) -> None:
        nonlocal model, moments
        cohort = tuple(sorted(draws.choice(len(parts), size, replace=False).tolist()))
        plan = RoundPlan(number, 0, model_hash(model), cohort, size, update, PlainSum.name, seed=0)
        outcome = run_round(model, moments, plan, pipe)
        model, moments = outcome.model, outcome.moments

    times = timed(step, warm=settings["warm"], rounds=settings["rounds"])
    executor.close()
    with torch.no_grad():
        output = train.module(model)(torch.from_numpy(features)).argmax(1).numpy()
    print(json.dumps({**times, "accuracy": float((output == targets).mean())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
