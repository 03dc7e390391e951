"""A contestant: rounds of privfl through PlainSum. Usage: run_privfl.py JOB MODEL WORKERS (0: the loop)."""

from __future__ import annotations

import json
import sys

import models
import numpy as np
from common import load_job, timed

from privfl.adapters.torch import Sgd, TorchTrain, one_thread
from privfl.codec import FixedPoint, Vector
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumTask, run_sum

CLIP = 8.0


def main(job: str, model_name: str, workers: str) -> None:
    """Train, clip, encode, sum, decode, average, round after round."""
    features, targets, parts, settings = load_job(job)
    cohort_size, seed = settings["cohort"], 0
    train = TorchTrain(
        getattr(models, model_name)(),
        lambda client: (features[parts[client]], targets[parts[client]]),
        optimizer=Sgd(settings["learning_rate"]),
        batch_size=settings["batch_size"],
    )
    codec = FixedPoint.fit(Ring(32), clip_norm=CLIP, cohort=cohort_size)

    def work(model: Vector, client: int, round: int, rng: np.random.Generator) -> Ints:
        delta = train(model, client, round, rng).delta
        norm = float(np.linalg.norm(delta))
        return codec.encode(delta * min(1.0, CLIP / norm) if norm > CLIP else delta, max_norm=CLIP)

    executor = ProcessExecutor(int(workers), initializer=one_thread) if int(workers) else LoopExecutor()
    model, draws = train.initial(), np.random.default_rng(seed)

    def step(number: int) -> None:
        nonlocal model
        cohort = tuple(sorted(draws.choice(len(parts), cohort_size, replace=False).tolist()))
        task = SumTask(b"", cohort, cohort_size, len(model), codec.ring, codec.bound(CLIP))
        result = run_sum(PlainSum(), task, executor.run(work, model, cohort, round=number, seed=seed))
        model = model + (codec.decode(result.total) / len(result.survivors)).astype(np.float32)

    seconds = timed(step, warm=settings["warm"], rounds=settings["rounds"])
    executor.close()
    output = train.module(model)(_tensor(features)).argmax(1).numpy()
    print(json.dumps({"seconds": seconds, "accuracy": float((output == targets).mean())}))


def _tensor(array: object) -> object:
    import torch

    return torch.from_numpy(array)


if __name__ == "__main__":
    main(*sys.argv[1:])
