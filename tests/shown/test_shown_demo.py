"""The first screen keeps its promise: epsilon 8 against the server, and accuracy over 20 seeds."""

import numpy as np
import pytest

from privfl.demos.hospitals import Demo, demo_config
from privfl.demos.patients import for_patients

SEEDS = 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_inside_the_masked_sum_leaves_a_good_model() -> None:
    accuracies = []
    for seed in range(SEEDS):
        demo = Demo("masked", seed=seed)
        assert all(report.status == "trained" for report in demo.each_round())
        server = demo.experiment.epsilon("server")
        assert server is not None
        assert server.unit.adjacency == "zero_out"
        assert server.secure
        assert server.epsilon <= 8
        accuracies.append(demo.experiment.evaluate(demo.averaged_model())["accuracy"])
    assert np.median(accuracies) >= 0.95, accuracies
    assert min(accuracies) >= 0.90, accuracies


@pytest.mark.slow
def test_a_patient_gets_a_smaller_epsilon_at_nearly_the_same_accuracy() -> None:
    results = [for_patients(demo_config("masked", seed)) for seed in range(SEEDS)]
    for result in results:
        assert result.epsilon.unit.level == "example"
        assert result.epsilon.secure
        assert result.epsilon.epsilon <= 1.3
    accuracies = [result.accuracy for result in results]
    assert np.median(accuracies) >= 0.93, accuracies
    assert min(accuracies) >= 0.85, accuracies
