"""Canaries next to clients that train: a crafted update, or the update of the canary's own data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from privfl.codec import Vector
from privfl.dp.accounting.audit import Floats
from privfl.errors import ConfigError
from privfl.experiment.audit.canaries import REACH, silent_update
from privfl.experiment.audit.parties import Trials
from privfl.experiment.audit.subject import CANARY, Subject
from privfl.experiment.experiment import Experiment
from privfl.fl.client import ClientUpdate, Train, client_rng
from privfl.fl.client_state import Stateful
from privfl.fl.plan import RoundPlan
from privfl.fl.state import ServerState
from privfl.ring import Ints
from privfl.wire import ClientId

_STREAM = 6


@dataclass(slots=True)
class HonestTrain:
    """The run's own training, except for the canary.

    Attributes:
        train: The run's training.
        direction: The canary's direction, a unit vector float64 `[d]`; None for a canary that trains.
        bound: The clip norm.
        sign: +1 with the canary's data, -1 with other data, 0 with none.
        population: The number of clients.
    """

    train: Train
    direction: Vector | None
    bound: float
    population: int
    sign: int = 0

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """The update of one client.

        Args:
            model: The global model.
            client: The client.
            round: The round.
            rng: The client's randomness.
        """
        if client != CANARY:
            return self.train(model, client, round, rng)
        if not self.sign:
            return silent_update(len(model))
        return self.canary(model, round, rng, self.sign)

    def canary(self, model: Vector, round: int, rng: np.random.Generator, sign: int) -> ClientUpdate:
        """The canary's update.

        Args:
            model: The global model.
            round: The round.
            rng: The client's randomness.
            sign: +1 for its own contribution, -1 for the other one.
        """
        if self.direction is None:
            return self.train(model, CANARY if sign > 0 else (CANARY + 1) % self.population, round, rng)
        update = self.train(model, CANARY, round, rng)
        return ClientUpdate(sign * REACH * self.bound * self.direction, update.examples, update.metrics)


@dataclass(slots=True)
class HonestFeatures:
    """Trials through the parties with clients that train, and what the test looks at: the release along the canary.

    Attributes:
        subject: What is audited.
        experiment: The clients' training and the first model.
        kind: "gradient" or "data".
        seed: The seed of the random direction.
    """

    subject: Subject
    experiment: Experiment
    kind: Literal["worst", "gradient", "data"]
    seed: int
    _train: HonestTrain = field(init=False)
    _trials: Trials = field(init=False)

    def __post_init__(self) -> None:
        length = self.subject.encoding.length
        direction: Any = None
        if self.kind == "gradient":
            direction = np.random.default_rng([self.seed, _STREAM]).normal(size=length)
            direction /= np.linalg.norm(direction)
        parts = self.experiment.parts
        train = parts.learner.train
        if isinstance(train, Stateful):
            raise ConfigError("clients that keep a state are audited with the worst canary: give canary = 'worst'")
        clip_norm = self.subject.encoding.clip.clip_norm
        self._train = HonestTrain(cast("Train", train), direction, clip_norm, self.subject.population)
        self._trials = Trials(self.subject, train=self._train, optimizer=parts.optimizer)

    def trial(self, seed: int, sign: int) -> Floats:
        """The features of one trial, float64 `[2 * rounds]`: along the canary, and the norm of its direction.

        Args:
            seed: The seed of the trial.
            sign: +1 with the canary, -1 with its other data, 0 without it.
        """
        self._train.sign = sign
        directions: list[Floats] = []
        rows: list[float] = []

        def before(plan: RoundPlan, state: ServerState) -> None:
            rng = client_rng(plan.seed, plan.round, CANARY)
            update = self._train.canary(state.model, plan.round, rng, 1)
            vector = plan.encoding.encode(update, rng).astype(np.float64)
            directions.append(vector / max(float(np.linalg.norm(vector)), 1.0))

        def look(plan: RoundPlan, seen: Ints) -> None:
            rows.append(float(seen @ directions[-1]) / plan.noise(self.subject.scheme).noise_stddev)

        initial = self.experiment.parts.learner.initial
        self._trials.run(seed, {CANARY: sign} if sign else {}, initial=initial, look=look, before=before)
        return np.array(rows)
