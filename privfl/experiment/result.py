"""The result of a finished training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from privfl.codec import Vector
from privfl.dp import EpsilonReport
from privfl.fl.report import RoundReport

if TYPE_CHECKING:
    from privfl.experiment.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a training, read from its folder; iterating it yields the reports of all rounds.

    Attributes:
        experiment: The experiment, whose temporary folder lives as long as this.
    """

    experiment: Experiment = field(repr=False)

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """The reports of all rounds, oldest first."""
        return tuple(self.experiment.reports)

    @property
    def evaluation(self) -> dict[str, float]:
        """The metrics of the last evaluation; empty where the run evaluates nothing."""
        return next((dict(report.evaluation) for report in reversed(self.reports) if report.evaluation), {})

    @property
    def accuracy(self) -> float | None:
        """The accuracy at the last evaluation; None where it is not measured, as for a regression."""
        return self.evaluation.get("accuracy")

    @property
    def epsilon(self) -> EpsilonReport | None:
        """The epsilon of the run against an outsider; None without noise."""
        return self.experiment.epsilon()

    @property
    def model(self) -> Vector:
        """The last global model, float `[d]`."""
        return self.experiment.model

    @property
    def selected_rounds(self) -> tuple[int, ...]:
        """The rounds whose models the selected model is the mean of, as the `[server]` section chooses."""
        return self.experiment.parts.selection.rounds(self.reports)

    @property
    def selected_model(self) -> Vector:
        """The model that the `[server]` section chooses, float `[d]`: the last one by default."""
        return self.experiment.parts.selection.model(self.experiment.store, self.reports)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.experiment.folder

    def __iter__(self) -> Iterator[RoundReport]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)
