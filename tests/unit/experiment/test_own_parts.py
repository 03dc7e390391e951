"""A sum, a sampler, an optimizer and a metric of one's own, in one run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from privfl.data import load, partition
from privfl.dp import Everyone
from privfl.experiment import Client, Experiment
from privfl.fl.metrics import MetricSums
from privfl.sums import PlainSum

HOSPITALS = partition(load("breast_cancer"), "iid", 6, 0)


class TracedSum(PlainSum):
    """A plain sum that counts its servers."""

    servers = 0

    def server(self, *args: Any, **settings: Any) -> Any:
        TracedSum.servers += 1
        return super().server(*args, **settings)


@dataclass(frozen=True)
class FirstHalf:
    def declare(self, population: int) -> Everyone:
        return Everyone()

    def sample(self, population: int, uniforms: Any) -> tuple[int, ...]:
        return tuple(range(population // 2))

    def expected_size(self, population: int) -> float:
        return population // 2

    def largest_size(self, population: int) -> int:
        return population // 2


class SignStep:
    def step(self, model: Any, mean: Any, moments: Any) -> tuple[Any, Any]:
        return model + 0.01 * np.sign(mean), moments


def positives(model: Any, client: int) -> MetricSums:
    features, labels = HOSPITALS.local_test(client)
    found = features @ model[:-1] + model[-1] > 0
    return MetricSums({"rows": np.array([len(labels)]), "true_positives": np.array([(found & (labels > 0)).sum()])})


def test_everything_may_be_of_ones_own() -> None:
    own: dict[str, Any] = {"sum": TracedSum(), "sampler": FirstHalf(), "optimizer": SignStep(), "measure": positives}
    client = Client(steps=3, learning_rate=1e-4)
    result = Experiment(data=HOSPITALS, client=client, rounds=2, **own).run()
    assert [report.attempts for report in result] == [1, 1]
    assert [report.cohort for report in result] == [3, 3]
    assert set(np.unique(np.abs(result.model))) <= {0.0, 0.01, 0.02}
    assert 0 <= result.evaluation["true_positives"] <= 1
    assert TracedSum.servers == 4  # a training and an evaluation in each round
