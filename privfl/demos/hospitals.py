"""The demonstration: ten hospitals train on breast-cancer data that never leaves them, and two of them drop out.

The demonstration is an ordinary `Experiment` with secure noise and a ledger, so its accuracy differs from run to run.
Every hospital adds its part of the noise before it masks its vector. The server opens a sum that is noisy already, so
epsilon holds against the server as well. Over 20 seeds, which also partition the examples in other ways, the median
accuracy is at least 0.95 and the minimum at least 0.90: `tests/shown/test_shown_demo.py` measures it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.demos.patients import PatientResult, for_patients
from privfl.dp import EpsilonReport, Observer
from privfl.errors import StateError
from privfl.experiment import baselines
from privfl.experiment.config import Config
from privfl.experiment.experiment import Experiment
from privfl.experiment.schemes import describe
from privfl.experiment.view import Sighting, Watcher
from privfl.fl.client import client_rng
from privfl.fl.report import RoundReport
from privfl.fl.selection import mean_model
from privfl.sums import Drop
from privfl.wire import ClientId

SEED: Final = 0

ABSENT: Final[dict[int, tuple[ClientId, ...]]] = {3: (2, 7), 6: (2, 7), 8: (7,)}
"""The hospitals that drop out, by round."""

WATCHED: Final[ClientId] = 0
"""The hospital whose message is described as the server saw it; the picture shows all of them."""

AVERAGED: Final = 5
"""The result is the mean of this many last models. All of them are released anyway, so the mean costs no privacy."""


def demo_config(scheme: str = "masked", seed: int = SEED) -> Config:
    """Return the demonstration's configuration: ten rounds of all clients, and the least noise that epsilon 8 allows.

    Args:
        scheme: The name of the sum, a key of `SCHEMES`.
        seed: The seed of partition, training and simulation.

    Raises:
        ConfigError: There is no such sum.
    """
    describe(scheme)
    return Config(name="demo", seed=seed, rounds=10).with_overrides(
        {
            "data.name": "breast_cancer",
            "data.clients": 10,
            "data.partition": "dirichlet:2",
            "data.min_examples": 20,
            "data.test": "public",
            "data.test_fraction": 0.4,
            "data.standardize": "public",
            "client.learning_rate": 1.0,
            "client.steps": 40,
            "client.batch_size": 32,
            "sum.scheme": scheme,
            "privacy.placement": "distributed",
            "privacy.adjacency": "zero_out",
            "privacy.clip_norm": 0.7,
            "privacy.epsilon": 8.0,
        }
    )


def demo_dropouts(scheme: str) -> Any:
    """Return a function (round, attempt) -> `Drop`: clients drop out after the key exchange and send no vector."""
    first = describe(scheme).vector_step

    def dropouts(round: int, attempt: int) -> Drop:
        return lambda client, step: client in ABSENT.get(round, ()) and step >= first

    return dropouts


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of the demonstration.

    Attributes:
        accuracy: Accuracy of the mean of the last `averaged` models on the public test examples, in [0, 1].
        last_accuracy: Accuracy of the last model alone.
        pooled_accuracy: Accuracy of a model trained on all examples in one place, without privacy.
        local_accuracy: Mean accuracy of ten models, each trained by one hospital alone.
        epsilons: The epsilon against each observer that the sum has.
        reports: The report of each round.
        seconds: The duration of the training.
        scheme: The name of the sum, such as "masked-sum/1".
        names: The name of each hospital, by client.
        clear: Every hospital's update of round 1 in integer units, before noise and mask, int64 `[hospitals, length]`.
        sightings: The server's view of the same vectors, one for each hospital.
        opened: The mean update that the server computed from the sum of round 1, in integer units, float `[length]`.
        patients: The result for one patient, from a run whose unit is a patient.
        averaged: The number of models in the released mean.
    """

    accuracy: float
    last_accuracy: float
    pooled_accuracy: float
    local_accuracy: float
    epsilons: dict[Observer, EpsilonReport]
    reports: tuple[RoundReport, ...] = field(repr=False)
    seconds: float
    scheme: str
    names: tuple[str, ...]
    clear: npt.NDArray[np.int64] = field(repr=False)
    sightings: tuple[Sighting, ...] = field(repr=False)
    opened: Vector = field(repr=False)
    patients: PatientResult
    averaged: int = AVERAGED

    @property
    def sighting(self) -> Sighting:
        """The server's view of the watched hospital's vector."""
        return self.sightings[WATCHED]

    @property
    def epsilon(self) -> EpsilonReport:
        """The epsilon against an outsider, to which the budget applies."""
        return self.epsilons["outsider"]

    @property
    def dropouts(self) -> int:
        """The number of dropouts over all rounds."""
        return sum(len(report.dropouts) for report in self.reports)

    @property
    def bytes_up(self) -> int:
        """The bytes that all clients sent in all rounds."""
        return sum(report.bytes_up for report in self.reports)

    @property
    def bytes_down(self) -> int:
        """The bytes that all clients received in all rounds."""
        return sum(report.bytes_down for report in self.reports)


class Demo:
    """The demonstration as an object: `for report in demo.each_round(): ...`, then `demo.result()`.

    Args:
        scheme: The name of the sum, a key of `SCHEMES`.
        seed: The seed of partition, training and simulation; the noise is never seeded.
        runs: The folder of runs that keeps the run; a temporary one by default.
    """

    def __init__(self, scheme: str = "masked", *, seed: int = SEED, runs: Path | None = None) -> None:
        self.config = demo_config(scheme, seed)
        self._watchers = [Watcher(client, describe(scheme)) for client in range(self.config.data.clients)]
        self.experiment = Experiment(self.config, dropouts=demo_dropouts(scheme), runs=runs, tap=self._tap)
        self._initial = self.experiment.parts.learner.initial
        self._seconds = 0.0

    def _tap(self, direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        for watcher in self._watchers:
            watcher(direction, client, message)

    def each_round(self) -> Iterator[RoundReport]:
        """Train, and yield the report of each round."""
        started = time.perf_counter()
        for report in self.experiment.each_round():
            self._seconds = time.perf_counter() - started
            yield report

    def result(self) -> DemoResult:
        """Train the baselines and the model for patients, and return all that the demonstration shows.

        Raises:
            StateError: Not all rounds have run.
        """
        experiment, reports = self.experiment, tuple(self.experiment.reports)
        if len(reports) < self.config.rounds:
            raise StateError("the demonstration has not run to its end")
        epsilons: dict[Observer, EpsilonReport] = {}
        for observer in experiment.scheme.views:
            report = experiment.epsilon(observer)
            if report is not None:
                epsilons[observer] = report
        return DemoResult(
            accuracy=experiment.evaluate(self.averaged_model())["accuracy"],
            last_accuracy=reports[-1].evaluation["accuracy"],
            pooled_accuracy=baselines.pooled(experiment)["accuracy"],
            local_accuracy=baselines.local(experiment)["accuracy"],
            epsilons=epsilons,
            reports=reports,
            seconds=self._seconds,
            scheme=experiment.scheme.name,
            names=tuple(f"hospital {1 + client}" for client in range(len(experiment.federation.clients))),
            clear=np.stack([self._clear(client) for client in range(self.config.data.clients)]),
            sightings=tuple(watcher.sighting(experiment.encoding) for watcher in self._watchers),
            opened=self._opened(),
            patients=for_patients(self.config),
        )

    def averaged_model(self) -> Vector:
        """The mean of the last models, float `[d]`."""
        models = [version.model for version in self.experiment.store.lineage()]
        return mean_model(models[-AVERAGED:])

    def _clear(self, client: ClientId) -> npt.NDArray[np.int64]:
        """Recompute a client's vector of round 1 before noise and mask: its randomness is keyed."""
        parts = self.experiment.parts
        rng = client_rng(self.config.seed, 1, client)
        return parts.encoding.encode(parts.learner.plain_train(self._initial, client, 1, rng), rng)

    def _opened(self) -> Vector:
        """The mean of round 1 in integer units: the server adds it to the model as it is."""
        before, after = (version.model for version in list(self.experiment.store.lineage())[:2])
        return (after - before) * self.experiment.encoding.codec.scale
