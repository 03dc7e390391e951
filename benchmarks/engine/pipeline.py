"""Whole rounds of privfl as one callable: train, clip, encode, sum through PlainSum, decode, average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from privfl.adapters.torch import Sgd, TorchTrain
from privfl.adapters.torch.state import one_thread
from privfl.codec import FixedPoint
from privfl.dp import FixedSize, FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.fl.client import Executor
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

CLIP = 8.0


class Rounds:
    """Call it with a round's number. Cohorts are drawn without replacement.

    Args:
        module: The model.
        features: All features.
        targets: All targets.
        parts: The rows of each client.
        settings: The size of a cohort, and the constants of local training.
        workers: The processes; 0 is the loop.
        chunk: So many clients are trained at once; 0 trains each alone.
    """

    def __init__(
        self,
        module: nn.Module,
        features: Any,
        targets: Any,
        parts: Sequence[Any],
        settings: Any,
        *,
        workers: int,
        chunk: int = 0,
    ) -> None:
        self.train = TorchTrain(
            module,
            lambda client: (features[parts[client]], targets[parts[client]]),
            optimizer=Sgd(settings["learning_rate"]),
            metrics={},
            batch_size=settings["batch_size"],
        )
        self._state = ServerState(self.train.initial())
        self._size, self._population = settings["cohort"], len(parts)
        codec = FixedPoint.fit(Ring(32), clip_norm=CLIP, cohort=self._size)
        self._encoding = UpdateEncoding(len(self.model), codec, FlatClip(CLIP))
        self.executor: Executor = ProcessExecutor(workers, initializer=one_thread) if workers else LoopExecutor()
        self._parts = Parts(self.train, PlainSum(), self.executor)
        self._draws = np.random.default_rng(0)
        # Commits before batched chunks have no such field.
        self._chunking: dict[str, Any] = {"chunking": _chunking(chunk)} if chunk else {}

    @property
    def model(self) -> Any:
        """The global model."""
        return self._state.model

    def __call__(self, number: int) -> None:
        """One round."""
        cohort = tuple(sorted(self._draws.choice(self._population, self._size, replace=False).tolist()))
        plan = RoundPlan(
            run=bytes(16),
            round=number,
            model_hash=model_hash(self.model),
            cohort=cohort,
            population=self._population,
            sampling=FixedSize(self._size, self._population),
            survivor_rule=SurvivorRule(1.0),
            encoding=self._encoding,
            scheme=PlainSum.name,
            seed=0,
            **self._chunking,
        )
        self._state = run_round(self._state, plan, self._parts).outcome.state


def _chunking(size: int) -> Any:
    from privfl.fl.chunks import Chunking

    return Chunking("batched", size)
