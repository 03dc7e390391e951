"""In a run without privacy every client wants the model to be 100 in each entry, from 0, in one round.
Must hold: the model is 100, or a caveat or typed error states the clipping; not 8."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

data = partition(load("breast_cancer"), "iid", clients=3, seed=0)
train = lambda model, client, round, rng: ClientUpdate(np.full(2, 100.0) - model, 100)
try:
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, train=train, initial=np.zeros(2), rounds=1, runs=runs)
        report, model = list(run.run())[0], run.model
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
bad = abs(model[0] - 100) > 1e-2 and not any("clip" in caveat for caveat in report.caveats)
print("FAILS:" if bad else "holds:", f"model {model}, caveats {report.caveats}")
sys.exit(int(bad))
