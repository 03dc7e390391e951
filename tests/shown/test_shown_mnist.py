"""McMahan et al. 2017, section 3: the "2NN" on MNIST, IID over 100 clients, C = 0.1, E = 1, B = 10."""

from pathlib import Path
from typing import Any

import pytest

from privfl.experiment import Experiment

MCMAHAN: dict[str, Any] = {
    "evaluate_every": 5,
    "data.name": "mnist",
    "data.clients": 100,
    "data.partition": "iid",
    "model.kind": "mlp",
    "model.hidden": [200, 200],
    "client.epochs": 1,
    "client.batch_size": 10,
    "client.learning_rate": 0.1,
    "cohort.sampling": "fixed-size",
    "cohort.size": 10,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_97_percent_by_round_75(data_folder: Path) -> None:
    experiment = Experiment(overrides=MCMAHAN | {"rounds": 75, "data.folder": str(data_folder), "engine.workers": 2})
    best = 0.0
    for report in experiment.run():
        best = max(best, report.evaluation.get("accuracy", 0.0))
        if best >= 0.97:
            return
    pytest.fail(f"{best:.4f} is the best of 75 rounds")
