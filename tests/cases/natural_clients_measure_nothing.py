"""A run with central noise over natural clients (a Grouping), with public test examples asked for.
Must hold: the report has an accuracy, or a caveat or typed error says that nothing will be measured."""

import sys
import tempfile

import numpy as np

from privfl.data import Dataset, Grouping
from privfl.errors import PrivflError
from privfl.experiment import Experiment

rng = np.random.default_rng(0)
x = rng.normal(size=(500, 3)).astype(np.float32)
hospitals = Grouping("hospital", np.arange(500) % 5, tuple("abcde"))
rows = Dataset(
    "mine", "binary", x, (x[:, 0] > 0).astype(np.int64), ("u", "v", "w"), ("no", "yes"), groupings=(hospitals,)
)
settings = {
    "data.partition": "natural", "data.clients": 5, "data.test": "public", "client.steps": 5,
    "privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0,
}  # fmt: skip
try:
    with tempfile.TemporaryDirectory() as runs:
        report = list(Experiment(data=rows, rounds=1, runs=runs, overrides=settings).run())[-1]
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
reported = any("measur" in caveat or "test examples" in caveat for caveat in report.caveats)
bad = "accuracy" not in report.evaluation and not reported
print("FAILS:" if bad else "holds:", f"evaluation {dict(report.evaluation)}, caveats {report.caveats}")
sys.exit(int(bad))
