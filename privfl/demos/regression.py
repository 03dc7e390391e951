"""Federated linear regression: each client sees one part of a line, and the global model fits all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.data import ClientExamples, Dataset, FederatedData
from privfl.errors import StateError
from privfl.experiment.config import Config
from privfl.experiment.experiment import Experiment
from privfl.fl.report import RoundReport

SLOPE: Final = 0.7
INTERCEPT: Final = -0.3
NOISE: Final = 0.35
CLIENTS: Final = 5
POINTS: Final = 24

Line = tuple[float, float]
"""Slope and intercept."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of the demonstration.

    Attributes:
        lines: The global line before the first round and after each round.
        pooled: The least-squares line of all points in one place.
        alone: The least-squares line of each client's own points.
        truth: The line from which the points were made.
        points: The points (x, y) of each client, float64 `[n, 2]`.
        reports: The report of each round.
    """

    lines: tuple[Line, ...]
    pooled: Line
    alone: tuple[Line, ...]
    truth: Line
    points: tuple[npt.NDArray[np.float64], ...] = field(repr=False)
    reports: tuple[RoundReport, ...] = field(repr=False)

    @property
    def line(self) -> Line:
        """The global line after the last round."""
        return self.lines[-1]


class LineDemo:
    """Federated least squares over the masked sum: `for report in demo.each_round(): ...`, then `demo.result()`.

    Args:
        seed: The seed of the points and of training.
        rounds: The number of rounds, at least 1.
        runs: The folder of runs that keeps the run; a temporary one by default.
    """

    def __init__(self, *, seed: int = 0, rounds: int = 15, runs: Path | None = None) -> None:
        self.federation = line_data(seed)
        settings = {"client.steps": 8, "client.learning_rate": 0.2, "client.batch_size": 8, "sum.scheme": "masked"}
        self.experiment = Experiment(
            Config(name="line", seed=seed, rounds=rounds), data=self.federation, runs=runs, overrides=settings
        )

    def each_round(self) -> Iterator[RoundReport]:
        """Train, and yield the report of each round."""
        yield from self.experiment.each_round()

    def result(self) -> LineResult:
        """Return all lines. Raises `StateError` before the run."""
        if not self.experiment.reports:
            raise StateError("the demonstration has not run")
        points = []
        for client in range(CLIENTS):
            features, targets = self.federation.train(client)
            points.append(np.column_stack([features[:, 0], targets]).astype(np.float64))
        lines = [(float(v.model[0]), float(v.model[1])) for v in self.experiment.store.lineage()]
        return LineResult(
            lines=tuple(lines),
            pooled=_fit(np.concatenate(points)),
            alone=tuple(_fit(own) for own in points),
            truth=(SLOPE, INTERCEPT),
            points=tuple(points),
            reports=tuple(self.experiment.reports),
        )


def line_data(seed: int) -> FederatedData:
    """Return five clients of 24 points, each on its own part of [-2, 2], with noise of standard deviation 0.35."""
    rng = np.random.default_rng([seed, 0x11E])
    starts = np.linspace(-2.0, 1.0, CLIENTS)
    x = np.concatenate([rng.uniform(start, start + 1.0, POINTS) for start in starts])
    y = SLOPE * x + INTERCEPT + rng.normal(0.0, NOISE, len(x))
    data = Dataset("line", "regression", x[:, None].astype(np.float32), y.astype(np.float32), ("x",))
    rows = np.arange(len(x)).reshape(CLIENTS, POINTS)
    return FederatedData(data, tuple(ClientExamples(f"client {1 + i}", own) for i, own in enumerate(rows)))


def _fit(points: npt.NDArray[np.float64]) -> Line:
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    return float(slope), float(intercept)
