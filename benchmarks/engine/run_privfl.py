"""A contestant: rounds of privfl in the loop. Usage: run_privfl.py JOB MODEL [CHUNK].

With a CHUNK so many clients are trained at once. PYTHONPATH may name another commit of privfl.
"""

from __future__ import annotations

import json
import sys

import models
import torch
from common import load_job, timed
from pipeline import Rounds


def main(job: str, model_name: str, chunk: str = "0") -> None:
    """Print times and the final accuracy."""
    features, targets, parts, settings = load_job(job)
    rounds = Rounds(getattr(models, model_name)(), features, targets, parts, settings, workers=0, chunk=int(chunk))
    times = timed(rounds, warm=settings["warm"], rounds=settings["rounds"])
    with torch.no_grad():
        output = rounds.train.module(rounds.model)(torch.from_numpy(features)).argmax(1).numpy()
    print(json.dumps({**times, "accuracy": float((output == targets).mean())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
