"""A `train` of one's own reports 100, 300 and 600 examples, more than the largest client has examples in `data`.
Must hold: the weighted mean of 0, 1, 2 is 1.5, or a typed error or caveat states that counts are capped."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

count, value = (100, 300, 600), (0.0, 1.0, 2.0)
data = partition(load("breast_cancer"), "iid", clients=3, seed=0)
train = lambda model, client, round, rng: ClientUpdate(np.full(2, value[client]) - model, examples=count[client])
try:
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, train=train, initial=np.zeros(2), rounds=1, runs=runs)
        report, model = list(run.run())[0], run.model
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
about = [caveat for caveat in report.caveats if "evaluated" not in caveat]
reported = any("example" in caveat or "weight" in caveat for caveat in about)
bad = abs(model[0] - 1.5) > 1e-3 and not reported
print("FAILS:" if bad else "holds:", f"{model[0]:.4f} instead of 1.5")
sys.exit(int(bad))
