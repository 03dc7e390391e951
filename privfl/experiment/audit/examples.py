"""Audits of example-level privacy: one client's DP-SGD through `OpacusTrain`, with and without one example.

Nothing here imports torch: the training is made by the caller.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from privfl.dp import Accountant, Everyone, History
from privfl.dp.accounting.audit import Floats
from privfl.dp.accounting.scores import Discriminant, Scores, StatedCurve, lies_above, score_bounds
from privfl.errors import ConfigError
from privfl.experiment.audit.measure import AuditPlan, ProgressCallback
from privfl.experiment.audit.result import AuditResult
from privfl.wire import ClientId

if TYPE_CHECKING:
    from privfl.adapters.opacus import OpacusTrain

ExampleRows = Callable[[ClientId], tuple[Any, Any]]
"""Client -> its (features, targets), as `OpacusTrain` takes them."""

_CLIENT: Final[ClientId] = 0
_RENEWED: Final = 200
"""Calls after which a training is made again: its ledger, which every call reads, grows with each."""

_STREAM: Final = 7


def audit_examples(
    make: Callable[[ExampleRows], OpacusTrain],
    examples: tuple[Any, Any],
    canary: tuple[Any, Any],
    *,
    delta: float,
    rounds: int = 1,
    plan: AuditPlan | None = None,
    progress: ProgressCallback | None = None,
) -> AuditResult:
    """Measure a lower bound on the epsilon of one client's updates for one of its examples.

    The canary is the last example of the client. Without it, an example that is not finite stands there and counts as
    zero, because the number of examples is public. The observer sees the client's update of every round.

    Args:
        make: Makes the training over a function from a client to its examples.
        examples: The client's other examples: features `[n, ...]` and targets `[n, ...]`.
        canary: The features `[...]` and the target of the canary; features that are far out give it a clipped gradient.
        delta: The delta of the statement.
        rounds: The rounds of one trial.
        plan: The number of trials, the confidence and the seed; by default 1000 pairs. The rest is not used.
        progress: Called as the trials go on.

    Returns:
        The stated figure and the lower bounds, "if the noise were secure".

    Raises:
        ConfigError: If an argument is out of range.
    """
    plan = AuditPlan(trials=1_000) if plan is None else plan
    if rounds < 1:
        raise ConfigError(f"an audit needs at least one round, not {rounds}: raise rounds")
    started = time.perf_counter()
    client = _Client(make, examples, canary, rounds)
    history = client.history()
    stated = Accountant(delta, assume_secure_noise=True).report(history)
    worlds = []
    for world in (0, 1):
        rows = []
        for trial in range(plan.trials):
            rows.append(client.trial(bool(world), (plan.seed, world, trial, _STREAM)))
            if progress is not None:
                progress(world * plan.trials + trial + 1, 2 * plan.trials)
        worlds.append(np.array(rows))
    without, present = worlds
    half = plan.trials // 2
    if without.shape[1] * without.shape[2] > plan.trials // 20:
        gap = present[:half].mean(0) - without[:half].mean(0)
        without, present = (np.einsum("nrd,rd->nr", world, gap) for world in (without, present))
    without, present = without.reshape(plan.trials, -1), present.reshape(plan.trials, -1)
    fit = Discriminant.fit(without[:half], present[:half])
    training = Scores(without=fit(without[:half]), present=fit(present[:half]))
    test = Scores(without=fit(without[half:]), present=fit(present[half:]))
    known = all(isinstance(release.sampling, Everyone) for release in history.releases)
    alpha = plan.alpha / (3 if known else 2)
    gaussian, free = score_bounds(training, test, delta=delta, alpha=alpha)
    curve = StatedCurve.of(lambda d: Accountant(d, assume_secure_noise=True).spent(history, quick=True))
    return AuditResult(
        stated=stated,
        bounds=(gaussian, free) if known else (free,),
        trials=plan.trials,
        rounds=rounds,
        dropouts="none",
        canary="worst",
        checked=0,
        curve=tuple(curve.points()),
        points=tuple(test.curve()),
        above_curve=lies_above(curve, training, test, alpha=alpha),
        confidence=1 - plan.alpha,
        seconds=time.perf_counter() - started,
        seed=plan.seed,
    )


class _Client:
    """One client whose last example is the canary, or counts as zero."""

    def __init__(
        self,
        make: Callable[[ExampleRows], OpacusTrain],
        examples: tuple[Any, Any],
        canary: tuple[Any, Any],
        rounds: int,
    ) -> None:
        features, targets = (np.asarray(part) for part in examples)
        row = np.asarray(canary[0], features.dtype if features.dtype.kind == "f" else np.float32)
        self._targets = np.concatenate([targets, np.asarray(canary[1], targets.dtype)[None]])
        self._features = [
            np.concatenate([features.astype(row.dtype), last[None]]) for last in (np.full_like(row, math.nan), row)
        ]
        self._make, self._rounds, self._present, self._calls = make, rounds, True, 0
        self._train = make(self._rows)

    def history(self) -> History:
        """The releases of one training."""
        train = self._make(self._rows)
        model = train.initial()
        for round in range(1, self._rounds + 1):
            model = model + train(model, _CLIENT, round, np.random.default_rng(0)).delta
        return History.of(train.ledger(_CLIENT))

    def trial(self, present: bool, key: tuple[int, ...]) -> Floats:
        """The updates of one training, float64 `[rounds, d]`."""
        if self._calls >= _RENEWED:
            self._train, self._calls = self._make(self._rows), 0
        self._present, train = present, self._train
        model, updates = train.initial(), []
        for round in range(1, self._rounds + 1):
            update = train(model, _CLIENT, round, np.random.default_rng([*key, round])).delta
            updates.append(update.astype(np.float64))
            model = model + update
            self._calls += 1
        return np.array(updates)

    def _rows(self, client: ClientId) -> tuple[Any, Any]:
        return self._features[self._present], self._targets
