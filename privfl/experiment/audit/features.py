"""The features of a round that a test looks at: the release along the canary, and the slots next to the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from privfl.dp.accounting.audit import Floats
from privfl.experiment.audit.canaries import Role, contribution, role_in
from privfl.experiment.audit.subject import CANARY, Subject
from privfl.fl.sampling import sampled, seeded_uniforms
from privfl.ring import Ints


@dataclass(frozen=True, slots=True)
class Features:
    """Turns what an observer saw in a round into the numbers by which a test looks for one canary.

    An outsider who does not know the cohorts also tries to predict them from the public seed. If that succeeds, the
    rounds with the canary show it without the noise of sampling.

    Attributes:
        subject: What is audited.
        columns: The columns of the vector that were kept.
        axes: The canary's directions, unit vectors float64 `[axes, columns]`.
        sides: The places of the slots next to the update among the columns.
        scale: The declared noise standard deviation, in integer units.
    """

    subject: Subject
    columns: npt.NDArray[np.intp]
    axes: Floats
    sides: npt.NDArray[np.intp]
    scale: float

    @classmethod
    def of(cls, subject: Subject, columns: npt.NDArray[np.intp]) -> Features:
        """The features of a subject with one canary.

        Args:
            subject: What is audited.
            columns: The columns of the vector that are kept.
        """
        sides = np.flatnonzero(np.isin(columns, subject.side_columns()))
        rng = np.random.default_rng(0)
        axes = []
        for axis in range(subject.axes):
            vector = contribution(subject.encoding, Role(axis, 1), rng)[columns].astype(np.float64)
            vector[sides] = 0.0
            axes.append(vector / max(float(np.linalg.norm(vector)), 1.0))
        plan = subject.plan(subject.cohort(0, 1, frozenset({CANARY})), round=1, seed=0)
        return cls(subject, columns, np.array(axes), sides, plan.noise(subject.scheme).noise_stddev)

    def of_round(self, round: int, looks: Ints, seeds: npt.NDArray[np.int64]) -> Floats:
        """The features of one round, float64 `[trials, features]`, in noise standard deviations.

        They are the projections on the canary's directions and the slots next to the update.

        Args:
            round: The round.
            looks: What the observer saw, int64 `[trials, columns]`.
            seeds: The seed of each trial.
        """
        values = looks / self.scale
        parts: list[Any] = [values @ self.axes.T, values[:, self.sides]]
        if self.subject.hidden:
            role = role_in(round, self.subject.axes, 1)
            direction = role.sign * self.axes[role.axis]
            parts.append((values @ direction * self._predicted(round, seeds))[:, None])
        features: Floats = np.concatenate(parts, axis=1)
        return features

    def _predicted(self, round: int, seeds: npt.NDArray[np.int64]) -> Floats:
        sampler, population = self.subject.sampler, self.subject.population
        return np.array(
            [float(CANARY in sampled(sampler, population, seeded_uniforms(int(seed), round))) for seed in seeds]
        )
