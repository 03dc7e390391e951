"""The first vector of a run is of integers, or a list; three clients move it by 0, 1 and 2.
Must hold: the mean is 1, or a typed error refuses the vector; nothing is truncated, and no raw error is raised."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

data, wrong = partition(load("breast_cancer"), "iid", clients=3, seed=0), []
train = lambda model, client, round, rng: ClientUpdate(np.full(2, float(client)) - np.asarray(model), 100)
for name, initial in (("int64", np.zeros(2, int)), ("list", [0.0, 0.0])):
    try:
        with tempfile.TemporaryDirectory() as runs:
            run = Experiment(data=data, train=train, initial=initial, rounds=1, runs=runs)
            list(run.run())
            model = run.model
        if abs(float(model[0]) - 1) > 1e-3:
            wrong.append(f"{name}: mean {model[0]} instead of 1")
    except PrivflError as error:
        print(name, "refused:", error)
    except Exception as error:
        wrong.append(f"{name}: {type(error).__name__}: {error}")
print("FAILS: " + "; ".join(wrong) if wrong else "holds")
sys.exit(bool(wrong))
