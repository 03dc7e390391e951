"""A run with distributed noise, Poisson cohorts and a masked sum; its figure is asked in three places.
Must hold: the run, its last metrics line and `privfl epsilon --ledger` say one epsilon, or the command refuses."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from privfl.experiment import Experiment

settings = {
    "data.name": "breast_cancer", "data.clients": 20, "cohort.sampling": "poisson", "cohort.probability": 0.3,
    "cohort.min_survivor_fraction": 0.5, "sum.scheme": "masked", "privacy.placement": "distributed",
    "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0, "privacy.delta": 1e-5, "evaluate_every": 0,
}  # fmt: skip
with tempfile.TemporaryDirectory() as runs:
    run = Experiment(name="a", rounds=5, runs=runs, overrides=settings)
    list(run.run())
    figures = {"run.epsilon()": run.epsilon().epsilon}
    figures["metrics"] = json.loads((Path(runs) / "a/metrics.jsonl").read_text().splitlines()[-1])["epsilon"]
    command = [
        sys.executable,
        "-m",
        "privfl",
        "epsilon",
        "--ledger",
        str(Path(runs) / "a/ledger.jsonl"),
        "--delta",
        "1e-5",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        figures["--ledger"] = float(json.loads(done.stdout)["epsilon"])
bad = max(figures.values()) - min(figures.values()) > 1e-6
print("FAILS:" if bad else "holds:", ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
sys.exit(int(bad))
