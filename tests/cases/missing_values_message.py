"""Examples with a missing value in the column "bmi", under default settings (no standardizing).
Must hold: the run works, or a typed error names the column or says that values are missing, and what to set."""

import sys
import tempfile
import warnings

import numpy as np

from privfl.data import Dataset
from privfl.errors import PrivflError
from privfl.experiment import Experiment

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.normal(size=(200, 3)).astype(np.float32)
x[::7, 1] = np.nan
rows = Dataset("mine", "binary", x, (x[:, 0] > 0).astype(np.int64), ("age", "bmi", "crp"), ("no", "yes"))
try:
    with tempfile.TemporaryDirectory() as runs:
        report = list(Experiment(data=rows, rounds=2, runs=runs, overrides={"data.clients": 4}).run())[-1]
    bad, said = not report.evaluation, f"runs, evaluation {dict(report.evaluation)}"
except PrivflError as error:
    said = f"{type(error).__name__}: {error}"
    bad = "bmi" not in said and "missing" not in said
print("FAILS:" if bad else "holds:", said)
sys.exit(int(bad))
