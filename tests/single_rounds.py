"""One round of an experiment over three clients, or clients of given sizes, with updates that are given."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from privfl.data import ClientExamples, Dataset, FederatedData, load, partition
from privfl.experiment import Experiment
from privfl.fl.client import ClientUpdate
from privfl.fl.report import RoundReport

THREE = partition(load("breast_cancer"), "iid", clients=3, seed=0)


def a_federation(sizes: Sequence[int]) -> FederatedData:
    """Clients of these sizes, whose examples nobody looks at."""
    count = sum(sizes)
    data = Dataset("sized", "regression", np.zeros((count, 1), np.float32), np.zeros(count, np.float32))
    ends = np.cumsum([0, *sizes])
    rows = (ClientExamples(str(i), np.arange(ends[i], ends[i + 1])) for i in range(len(sizes)))
    return FederatedData(data, tuple(rows))


def returning(
    deltas: Sequence[Any], examples: Sequence[int], metrics: Sequence[dict[str, float]] | None = None
) -> Callable[..., ClientUpdate]:
    """A training function that returns one fixed update a client."""

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.array(deltas[client], float), examples[client], metrics[client] if metrics else {})

    return train


def one_round(train: Any, length: int, *, data: Any = THREE, **overrides: Any) -> tuple[np.ndarray, RoundReport]:
    run = Experiment(data=data, train=train, initial=np.zeros(length), rounds=1, overrides=overrides)
    (report,) = run.run()
    return run.model, report


def said(report: RoundReport, word: str) -> bool:
    return any(word in caveat for caveat in report.caveats)
