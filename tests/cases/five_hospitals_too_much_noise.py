"""Five clients, everyone takes part, a masked sum (which needs four of five), distributed noise, all else by default.
Must hold: the noise in the opened sum is at most 1.30 times what is declared (1.32 allows for the estimate)."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

entries, clients, clip, multiplier = 20_000, 5, 1.0, 1.0
data = partition(load("breast_cancer"), "iid", clients=clients, seed=0)
train = lambda model, client, round, rng: ClientUpdate(np.zeros(entries), 1)
settings = {
    "sum.scheme": "masked", "privacy.placement": "distributed", "privacy.clip_norm": clip,
    "privacy.noise_multiplier": multiplier, "evaluate_every": 0,
}  # fmt: skip
with tempfile.TemporaryDirectory() as runs:
    run = Experiment(data=data, train=train, initial=np.zeros(entries), rounds=1, runs=runs, overrides=settings)
    list(run.run())
    ratio = float(run.model.std()) * clients / (clip * multiplier)
bad = not 0.98 <= ratio <= 1.32
print("FAILS:" if bad else "holds:", f"{ratio:.3f} of the declared standard deviation")
sys.exit(int(bad))
