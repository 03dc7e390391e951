"""A linear regression (diabetes, targets in hundredths, as a price) by default settings and with a wide clip and ring.
Must hold: R2 after 20 rounds differs by at most 0.02, or a caveat or typed error states the clipping."""

import sys
import tempfile

import numpy as np

from privfl.data import Dataset, load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment

own = load("diabetes")
price = Dataset("price", "regression", own.features, (own.targets * 100).astype(np.float32), own.feature_names)
settings = {"client.learning_rate": 0.05, "client.epochs": 5, "client.batch_size": 16, "data.standardize": "exact"}


def train(**more):
    with tempfile.TemporaryDirectory() as runs:
        data = partition(price, "iid", clients=5, seed=0)
        run = Experiment(data=data, rounds=20, evaluate_every=20, runs=runs, overrides={**settings, **more})
        report = list(run.run())[-1]
    return report.evaluation["r2"], any("clip" in caveat for caveat in report.caveats)


wide, _ = train(**{"sum.clip_entries": 1e5, "sum.bits": 48})
try:
    default, reported = train()
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
bad = abs(default - wide) > 0.02 and not reported
print("FAILS:" if bad else "holds:", f"R2 {default:.3f} by default, {wide:.3f} with a wide clip; reported: {reported}")
sys.exit(int(bad))
