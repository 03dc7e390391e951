"""TorchTrain over examples with a column of NaN: every update is NaN.
Must hold: a typed error, a skipped round, or a caveat; not three trained rounds in which the model never moves."""

import sys
import tempfile

import numpy as np
from torch import nn

from privfl.adapters.torch import TorchTrain
from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment

data = partition(load("digits"), "iid", clients=4, seed=0)


def rows(client):
    x, y = data.train(client)
    x = x.copy()
    x[:, 5] = np.nan
    return x, y


try:
    train = TorchTrain(nn.Linear(64, 10), rows, batch_size=32)
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, train=train, initial=train.initial(), rounds=3, runs=runs)
        reports, moved = list(run.run()), not np.array_equal(run.model, train.initial())
except PrivflError as error:
    print("refused:", type(error).__name__, error)
    sys.exit(0)
reported = any("finite" in c or "NaN" in c for r in reports for c in r.caveats) or any(
    r.status == "skipped" for r in reports
)
bad = not moved and not reported
print(
    "FAILS:" if bad else "holds:", [(r.status, r.survivors) for r in reports], f"moved: {moved}, reported: {reported}"
)
sys.exit(int(bad))
