"""FLamby's Fed-Heart-Disease: four hospitals, logistic regression, 15 rounds of 100 local steps of 4 rows.

The bands are the issue's; they depend on where training starts (`uniform`, as torch starts a linear layer, which is
what FLamby's model does) and on each hospital scaling its rows by its own (`local`), which is what FLamby's data does.
The server's beta_1, beta_2 and tau are FLamby's (`fed_opt.py`); its learning rates are ours.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.experiment import Experiment

FLAMBY: dict[str, Any] = {
    "rounds": 15,
    "evaluate_every": 0,
    "data.name": "heart",
    "data.partition": "natural",
    "data.standardize": "local",
    "model.kind": "logistic",
    "model.init": "uniform",
    "client.steps": 100,
    "client.batch_size": 4,
    "client.learning_rate": 1e-3,
    "server.weighting": "examples",
}
ADAPTIVE = {"server.beta_1": 0.9, "server.tau": 1e-8}
METHODS: dict[str, tuple[dict[str, Any], float, float]] = {
    "fedavg": ({}, 0.66, 0.715),
    "fedadam": (ADAPTIVE | {"server.optimizer": "fedadam", "server.eta": 0.01, "server.beta_2": 0.999}, 0.715, 0.745),
    "fedyogi": (ADAPTIVE | {"server.optimizer": "fedyogi", "server.eta": 0.01, "server.beta_2": 0.999}, 0.715, 0.745),
    "fedadagrad": (ADAPTIVE | {"server.optimizer": "fedadagrad", "server.eta": 0.3}, 0.715, 0.745),
}


def trained(folder: Path, seed: int, **changes: Any) -> tuple[float, np.ndarray]:
    """Mean of the four hospitals' test accuracies, and the model."""
    overrides = FLAMBY | changes | {"seed": seed, "data.folder": str(folder)}
    experiment = Experiment(overrides=overrides)
    *_, last = experiment.run()
    return last.evaluation["mean_client_accuracy"], experiment.model


def test_one_seed_of_fedavg(data_folder: Path) -> None:
    accuracy, model = trained(data_folder, 0)
    assert 0.60 <= accuracy <= 0.76  # one seed scatters by 0.04 around the mean of many
    assert model.shape == (14,)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_mean_of_five_seeds_lies_in_its_band(data_folder: Path, method: str) -> None:
    changes, low, high = METHODS[method]
    accuracies = [trained(data_folder, seed, **changes)[0] for seed in range(5)]
    assert low <= float(np.mean(accuracies)) <= high, accuracies


def test_weighting_by_size_is_told_from_uniform_weighting(data_folder: Path) -> None:
    zeros = {"model.init": "zeros"}
    weighted, by_size = trained(data_folder, 0, **zeros)
    uniform, by_client = trained(data_folder, 0, **zeros, **{"server.weighting": "uniform"})
    # Hospitals of 199, 172, 30 and 85 rows: a mean over hospitals follows the small ones, one of which is all sick.
    assert weighted == pytest.approx(0.736, abs=0.006)
    assert uniform == pytest.approx(0.727, abs=0.006)
    assert weighted > uniform
    assert np.linalg.norm(by_size - by_client) > 0.1 * np.linalg.norm(by_size)
