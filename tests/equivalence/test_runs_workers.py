"""Worker processes stay the same through a run, whatever changes from round to round, and change nothing in it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate

CLIENTS, WIDTH = 30, 20
ROWS = FederatedData(
    Dataset("points", "regression", np.zeros((CLIENTS, 1), np.float32), np.zeros(CLIENTS, np.float32)),
    tuple(ClientExamples(f"client {i}", np.array([i])) for i in range(CLIENTS)),
)
CENTRAL = {
    "privacy.placement": "central",
    "privacy.noise_multiplier": 1.0,
    "privacy.clip_norm": 0.3,
    "privacy.noise": "simulation",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "cohorts of any size": {"cohort.sampling": "poisson", "cohort.probability": 0.5},
    "a clip that adapts": {**CENTRAL, "privacy.clip_quantile": 0.5},
    "both, and shares of noise": {
        **CENTRAL,
        "privacy.placement": "distributed",
        "privacy.clip_quantile": 0.5,
        "cohort.sampling": "poisson",
        "cohort.probability": 0.5,
    },
    "a masked sum": {"sum.scheme": "masked", "cohort.sampling": "poisson", "cohort.probability": 0.3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_workers_are_kept_and_the_model_does_not_depend_on_them(tmp_path: Path, name: str) -> None:
    models = []
    for workers in (0, 1, 2):
        pids = tmp_path / f"pids-{workers}"
        pids.mkdir()

        def train(
            model: np.ndarray, client: int, round: int, rng: np.random.Generator, pids: Path = pids
        ) -> ClientUpdate:
            (pids / str(os.getpid())).touch()
            return ClientUpdate(rng.normal(size=WIDTH) * (client + 1) / 10 - 0.1 * model, 1, {"loss": 0.75})

        overrides = {"name": "run", "rounds": 5, "sum.bits": 40, "engine.workers": workers, **SETTINGS[name]}
        own = {"data": ROWS, "train": train, "initial": np.zeros(WIDTH), "runs": tmp_path / f"runs-{workers}"}
        reports = list(Experiment(overrides=overrides, **own).run())
        assert len(reports) == 5
        models.append([report.model for report in reports])
        processes = {int(path.name) for path in pids.iterdir()}
        if workers:
            assert len(processes) <= workers
            assert os.getpid() not in processes
        else:
            assert processes == {os.getpid()}
    assert models[0] == models[1] == models[2]
    assert len(set(models[0])) == 5
