"""The choice of a run's final model: the last, the best by a metric, or the mean of the last few; and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.report import RoundReport
from privfl.fl.store import ModelStore

Goal = Literal["largest", "smallest"]

GOALS: Final[dict[str, Goal]] = {
    "accuracy": "largest",
    "auc": "largest",
    "mean_client_accuracy": "largest",
    "r2": "largest",
    "tuned_accuracy": "largest",
    "loss": "smallest",
    "mse": "smallest",
    "tuned_loss": "smallest",
    "tuned_mse": "smallest",
}
"""The better side of each built-in metric."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rule that selects a run's final model, and that ends the run early.

    Attributes:
        choose: "last" takes the last model, "best" that of the best evaluation.
        average_last: The number of models that are averaged: the chosen one and those of the rounds before it.
        patience: The run stops after so many evaluations without a better one; None never stops early.
        metric: The metric of an evaluation that decides; needed for "best" and for `patience`.
        goal: Whether a large or a small metric is better; None takes that of a built-in metric.

    Raises:
        ConfigError: If the parts contradict each other.
    """

    choose: Literal["last", "best"] = "last"
    average_last: int = 1
    patience: int | None = None
    metric: str | None = None
    goal: Goal | None = None

    def __post_init__(self) -> None:
        if self.judges != (self.metric is not None):
            raise ConfigError(
                "server.metric names the metric that server.choose = 'best' and server.patience decide by: give "
                "server.metric together with one of them"
            )
        if self.metric is not None and self.goal is None and self.metric not in GOALS:
            raise ConfigError(
                f"it is not known if a large or a small {self.metric!r} is better: set server.goal to 'largest' or "
                "'smallest'"
            )

    @property
    def judges(self) -> bool:
        """True if evaluations decide about the model or the end of the run."""
        return self.choose == "best" or self.patience is not None

    def best(self, reports: Sequence[RoundReport]) -> RoundReport | None:
        """The report of the best evaluation so far, the first of equal ones; None before the first evaluation."""
        judged = self._judged(reports)
        sign = 1.0 if (self.goal or GOALS.get(self.metric or "")) == "largest" else -1.0
        return max(judged, key=lambda report: sign * report.evaluation[self.metric or ""], default=None)

    def stops(self, reports: Sequence[RoundReport]) -> bool:
        """True if the run is over because its last evaluations were not better.

        Args:
            reports: The reports of all rounds so far.
        """
        best = self.best(reports) if self.patience is not None else None
        if best is None or self.patience is None:
            return False
        return sum(report.round > best.round for report in self._judged(reports)) >= self.patience

    def rounds(self, reports: Sequence[RoundReport]) -> tuple[int, ...]:
        """The rounds whose models are averaged, increasing; round 0 is the first model.

        Args:
            reports: The reports of all rounds so far.

        Raises:
            ConfigError: If the best model is asked for, and no evaluation has the metric.
        """
        last = reports[-1].round if reports else 0
        if self.choose == "best":
            best = self.best(reports)
            if best is None:
                raise ConfigError(
                    f"no evaluation has a metric {self.metric!r} by which the best model could be chosen: see the "
                    "caveats of the reports, or set server.choose = 'last'"
                )
            last = best.round
        return tuple(range(max(min(1, last), last - self.average_last + 1), last + 1))

    def model(self, store: ModelStore, reports: Sequence[RoundReport]) -> Vector:
        """The selected model, float `[d]`.

        Args:
            store: The models of the run, of which at least one is stored.
            reports: The reports of all rounds so far.
        """
        return mean_model([store.load(round).model for round in self.rounds(reports)])

    def _judged(self, reports: Sequence[RoundReport]) -> list[RoundReport]:
        return [report for report in reports if self.metric in report.evaluation]


def mean_model(models: Sequence[Vector]) -> Vector:
    """The mean of at least one model, in the precision of the models. It costs no privacy: each is released already."""
    return np.asarray(np.mean(models, axis=0, dtype=np.float64).astype(models[0].dtype))
