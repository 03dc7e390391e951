"""One of three clients returns NaN under uniform weights, and then all three do.
Must hold: the mean is that of the others (3.0), and a report states it; all NaN is not "trained"; or an error."""

import sys
import tempfile

import numpy as np

from privfl.data import load, partition
from privfl.errors import PrivflError
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

data, wrong = partition(load("breast_cancer"), "iid", clients=3, seed=0), []
for values, weighting in (((3.0, np.nan, 3.0), "uniform"), ((np.nan,) * 3, "examples")):
    train = lambda model, client, round, rng: ClientUpdate(np.full(2, values[client]) - model, 100)
    try:
        with tempfile.TemporaryDirectory() as runs:
            run = Experiment(
                data=data,
                train=train,
                initial=np.zeros(2),
                rounds=1,
                runs=runs,
                overrides={"server.weighting": weighting},
            )
            report, model = list(run.run())[0], run.model[0]
    except PrivflError as error:
        print(values, "->", type(error).__name__, error)
        continue
    reported = any("finite" in caveat or "NaN" in caveat for caveat in report.caveats) or report.survivors < 3
    if weighting == "uniform" and (abs(model - 3) > 1e-3 or not reported):
        wrong.append(f"{values} -> mean {model}, survivors {report.survivors}, reported: {reported}")
    if weighting == "examples" and report.status == "trained" and not reported:
        wrong.append(f"all NaN -> status {report.status}, survivors {report.survivors}")
print("FAILS: " + "; ".join(wrong) if wrong else "holds")
sys.exit(bool(wrong))
