"""Whole rounds of privfl as one callable: train, clip, encode, sum through PlainSum, decode, average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from privfl.adapters.torch import Sgd, TorchTrain, one_thread
from privfl.codec import FixedPoint
from privfl.dp import FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.fl.client import Executor
from privfl.fl.plan import RoundPlan, UpdatePlan, model_hash
from privfl.fl.round import Contribution, Parts, run_round
from privfl.ring import Ring
from privfl.sums import PlainSum

CLIP = 8.0


class Rounds:
    """Call it with a round's number; `workers=0` is the loop. Cohorts are drawn without replacement."""

    def __init__(
        self, module: nn.Module, features: Any, targets: Any, parts: Sequence[Any], settings: Any, *, workers: int
    ) -> None:
        self.train = TorchTrain(
            module,
            lambda client: (features[parts[client]], targets[parts[client]]),
            optimizer=Sgd(settings["learning_rate"]),
            metrics={},
            batch_size=settings["batch_size"],
        )
        self.model, self._moments = self.train.initial(), {}
        self._size, self._population = settings["cohort"], len(parts)
        codec = FixedPoint.fit(Ring(32), clip_norm=CLIP, cohort=self._size)
        self._update = UpdatePlan(len(self.model), codec, FlatClip(CLIP))
        self.executor: Executor = ProcessExecutor(workers, initializer=one_thread) if workers else LoopExecutor()
        self._parts = Parts(Contribution(self.train, self._update, None, seed=0), PlainSum(), self.executor)
        self._draws = np.random.default_rng(0)

    def __call__(self, number: int) -> None:
        """One round."""
        cohort = tuple(sorted(self._draws.choice(self._population, self._size, replace=False).tolist()))
        digest = model_hash(self.model)
        plan = RoundPlan(number, 0, digest, cohort, self._size, self._update, PlainSum.name, seed=0)
        outcome = run_round(self.model, self._moments, plan, self._parts)
        self.model, self._moments = outcome.model, outcome.moments
