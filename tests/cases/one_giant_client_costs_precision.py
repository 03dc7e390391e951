"""One client of 200,000 examples next to 400 of 5, cohorts of 10; the ring's default bits against 48.
Must hold: the models differ by at most 1 %, or a caveat or typed error states the lost precision."""

import sys
import tempfile

import numpy as np

from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.errors import PrivflError
from privfl.experiment import Experiment

rng, giant = np.random.default_rng(0), 200_000
x = rng.normal(size=(giant + 2000, 20)).astype(np.float32)
y = ((x @ rng.normal(size=20) + rng.normal(size=len(x))) > 0).astype(np.int64)
small = [ClientExamples(f"small {i}", giant + np.arange(5 * i, 5 * i + 5)) for i in range(400)]
data = FederatedData(
    Dataset("giant", "binary", x, y, classes=("0", "1")), (ClientExamples("giant", np.arange(giant)), *small)
)
settings = {
    "cohort.sampling": "fixed-size", "cohort.size": 10, "client.learning_rate": 0.01, "model.kind": "logistic",
    "evaluate_every": 0,
}  # fmt: skip


def train(**more):
    with tempfile.TemporaryDirectory() as runs:
        run = Experiment(data=data, rounds=10, seed=1, runs=runs, overrides={**settings, **more})
        reports = list(run.run())
        return run.model, any("precision" in c or "quanti" in c for r in reports for c in r.caveats)


fine, _ = train(**{"sum.bits": 48})
try:
    default, reported = train()
except PrivflError as error:
    print("refused:", error)
    sys.exit(0)
error = float(np.abs(default - fine).max() / np.abs(fine).max())
bad = error > 0.01 and not reported
print(
    "FAILS:" if bad else "holds:", f"largest difference {100 * error:.1f} % of the largest entry; reported: {reported}"
)
sys.exit(int(bad))
