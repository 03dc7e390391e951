"""The textbook's first federation: clients that each see one stretch of a line, and a line that fits them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.data import ClientRows, Dataset, FederatedData
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
    """The global `lines` after each round (the first is the start), what one place would find, and each client alone.

    `points` holds each client's (x, y), float `[n, 2]`.
    """

    lines: tuple[Line, ...]
    pooled: Line
    alone: tuple[Line, ...]
    truth: Line
    points: tuple[npt.NDArray[np.float64], ...] = field(repr=False)
    reports: tuple[RoundReport, ...] = field(repr=False)

    @property
    def line(self) -> Line:
        """The global line at the end."""
        return self.lines[-1]


class LineDemo:
    """Federated least squares through the masked sum: `for report in demo.each_round(): ...; demo.result()`."""

    def __init__(self, *, seed: int = 0, rounds: int = 15, runs: Path | None = None) -> None:
        self.federation = line_data(seed)
        settings = {"client.steps": 8, "client.learning_rate": 0.2, "client.batch_size": 8, "sum.scheme": "masked"}
        self.experiment = Experiment(
            Config(name="line", seed=seed, rounds=rounds), data=self.federation, runs=runs, overrides=settings
        )

    def each_round(self) -> Iterator[RoundReport]:
        """Train, and yield a report after each round."""
        yield from self.experiment.each_round()

    def result(self) -> LineResult:
        """The lines; raises `StateError` before the run."""
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
    """Five clients with 24 points each, every one on its own stretch of x in [-2, 2], with noise of deviation 0.35."""
    rng = np.random.default_rng([seed, 0x11E])
    starts = np.linspace(-2.0, 1.0, CLIENTS)
    x = np.concatenate([rng.uniform(start, start + 1.0, POINTS) for start in starts])
    y = SLOPE * x + INTERCEPT + rng.normal(0.0, NOISE, len(x))
    data = Dataset("line", "regression", x[:, None].astype(np.float32), y.astype(np.float32), ("x",))
    rows = np.arange(len(x)).reshape(CLIENTS, POINTS)
    return FederatedData(data, tuple(ClientRows(f"client {1 + i}", own) for i, own in enumerate(rows)))


def _fit(points: npt.NDArray[np.float64]) -> Line:
    slope, intercept = np.polyfit(points[:, 0], points[:, 1], 1)
    return float(slope), float(intercept)
