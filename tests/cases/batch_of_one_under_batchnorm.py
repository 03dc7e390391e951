"""A model with BatchNorm, where the last minibatch of each client holds one example.
Must hold: the run trains (the rest merged or dropped), or ConfigError comes before the first round; no ClientFailed."""

import sys
import tempfile

from torch import nn

from privfl.adapters.torch import TorchTrain
from privfl.data import load, partition
from privfl.errors import ConfigError
from privfl.experiment import Experiment

data = partition(load("digits"), "iid", clients=4, seed=0)
model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
try:
    train = TorchTrain(model, data.train, batch_size=int(data.sizes[0]) - 1)
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, train=train, initial=train.initial(), rounds=1, runs=runs)
        print("holds:", [report.status for report in run.run()])
    sys.exit(0)
except ConfigError as error:
    print("holds: refused:", error)
    sys.exit(0)
except Exception as error:
    print(f"FAILS: {type(error).__name__}: {str(error)[:150]}")
    sys.exit(1)
