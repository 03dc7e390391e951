"""Compare seeded runs of two checkouts of this project, model by model and bit by bit.

    python tests/equivalence/two_checkouts.py OTHER [HERE]

OTHER and HERE are folders that hold a checkout; HERE is by default this one. Each run is made in a process of its own
with the checkout first on the path. Printed is one line a run: whether the two final models have the same hash, and the
hashes where they do not. The exit code is 1 if a model differs that is not expected to (see `INTENDED`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMON: dict[str, Any] = {"rounds": 4, "data.clients": 10, "client.steps": 5, "client.batch_size": 16, "seed": 3}
CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}
SEEDED = CENTRAL | {"privacy.noise": "simulation"}
MASKED, CKKS = {"sum.scheme": "masked"}, {"sum.scheme": "ckks"}

RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "masked": MASKED,
    "ckks": CKKS | {"data.clients": 6},
    "plain, uniform, fixed size": {"server.weighting": "uniform", "cohort.sampling": "fixed-size", "cohort.size": 6},
    "masked, dropouts": MASKED | {"cohort.dropout": 0.15},
    "masked, stochastic, rotated": MASKED | {"sum.rounding": "stochastic", "sum.rotation": True},
    "plain, clipped, fedadam": {"privacy.clip_norm": 0.5, "server.optimizer": "fedadam"},
    "central, simulation": SEEDED,
    "central, simulation, masked": SEEDED | MASKED,
    "central, simulation, ckks": SEEDED | CKKS | {"data.clients": 6},
    "central, simulation, Poisson": SEEDED | {"cohort.sampling": "poisson", "cohort.probability": 0.6},
    "central, simulation, adaptive clip": SEEDED | {"data.clients": 60, "privacy.clip_quantile": 0.5},
    "central, simulation, adaptive clip, masked": SEEDED | MASKED | {"data.clients": 60, "privacy.clip_quantile": 0.5},
    "central, simulation, noised loss": SEEDED | {"data.clients": 40, "privacy.loss_bound": 2.0},
    "central, simulation, dropouts, plain": SEEDED | {"cohort.dropout": 0.3, "cohort.too_few": "retry"},
    "local, simulation": SEEDED | {"privacy.placement": "local"},
    "distributed, simulation, masked": SEEDED | MASKED | {"privacy.placement": "distributed"},
    "layers, workers": {"privacy.clip_norm": 1.0, "privacy.clip": "layers", "engine.workers": 2},
    "torch": {"model.kind": "mlp", "model.hidden": [8]},
    "torch, masked, workers": MASKED | {"model.kind": "mlp", "model.hidden": [8], "engine.workers": 2},
}
_RANGE = "a run without noise takes the range and the ring that its updates need"
INTENDED = {name: _RANGE for name, settings in RUNS.items() if "privacy.noise_multiplier" not in settings} | {
    "distributed, simulation, masked": "noise shares are sized for what the sum opens",
    "central, simulation, dropouts, plain": "a plain sum with central noise opens whatever arrives",
}

CHILD = """
import json, sys, tempfile
import privfl
from privfl.experiment import Experiment
out = {}
for name, settings in json.loads(sys.stdin.read()).items():
    with tempfile.TemporaryDirectory() as runs:
        reports = list(Experiment(runs=runs, overrides=settings).run())
        out[name] = reports[-1].model
print(json.dumps({"from": privfl.__file__, "models": out}))
"""


def models(checkout: Path) -> dict[str, str]:
    """The hash of the final model of each run, by name, computed by the code in `checkout`."""
    asked = json.dumps({name: COMMON | settings for name, settings in RUNS.items()})
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=asked,
            capture_output=True,
            text=True,
            check=False,
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
    if done.returncode:
        raise SystemExit(f"{checkout}:\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not Path(found["from"]).is_relative_to(checkout):
        raise SystemExit(f"{checkout} was not used, but {found['from']}")
    return dict(found["models"])


def main() -> int:
    """Print the comparison; the exit code."""
    here = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[2]
    mine, theirs = models(here.resolve()), models(Path(sys.argv[1]).resolve())
    wrong = 0
    for name in RUNS:
        same = mine[name] == theirs[name]
        wrong += not same and name not in INTENDED
        why = "" if same else f"  ({INTENDED.get(name, 'NOT INTENDED')}) {theirs[name][:12]} -> {mine[name][:12]}"
        sys.stdout.write(f"{'equal  ' if same else 'differs'}  {name}{why}\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
