"""Small runs to audit, and the faults that audits are held to: shared by tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from privfl.dp import Accountant, Mechanism, mechanism
from privfl.dp.accounting import events
from privfl.experiment import Experiment
from privfl.experiment.audit.measure import AuditPlan, audit_subject
from privfl.experiment.audit.result import AuditResult
from privfl.experiment.audit.subject import Subject
from privfl.fl import survivors
from privfl.fl.client import ClientUpdate
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan
from privfl.fl.sampling import seeded_uniforms
from privfl.observers import Observer

Patch = Callable[[], Any]


def an_experiment(clients: int = 8, length: int = 4, **settings: Any) -> Experiment:
    """A run over clients whose training is never asked for."""

    def train(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        return ClientUpdate(np.full(length, 0.01 * client), 1, {"loss": 1.0})

    overrides = {
        "privacy.placement": "central",
        "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 1.0,
        "privacy.delta": 1e-5,
        "rounds": 2,
    }
    return Experiment(train=train, initial=np.zeros(length), clients=clients, overrides=overrides | settings)


def an_audit(
    experiment: Experiment,
    observer: Observer = "outsider",
    *,
    change: Callable[[Subject], Subject] = lambda subject: subject,
    **plan: Any,
) -> AuditResult:
    """The audit of a run whose subject may be changed, against the figure that the run itself states."""
    parts, rounds = experiment.parts, experiment.config.rounds
    history = parts.planned(rounds)
    stated = Accountant(parts.delta, observer=observer, assume_secure_noise=True).report(history)
    planned = AuditPlan(**{"check": 0, "one_run": False, "seed": 1} | plan)
    subject = change(Subject.of(parts, observer=observer, rounds=rounds, dropouts=planned.dropouts))
    return audit_subject(subject, stated=stated, history=history, plan=planned, experiment=experiment)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _less_noise() -> Any:
    exact = mechanism.rounded_gaussian
    return mock.patch.object(
        mechanism, "rounded_gaussian", lambda stddev, length, **more: exact(0.9 * stddev, length, **more)
    )


def _uncounted_block() -> Any:
    exact = mechanism.norm_bound
    return mock.patch.object(mechanism, "norm_bound", lambda slots: exact(slots[:1]))


@contextmanager
def _clip_after_noise() -> Iterator[None]:
    """The contribution is neither clipped nor shrunk; the sum of it and its noise is."""
    noise = RoundPlan.add_noise

    def encode(self: UpdateEncoding, update: ClientUpdate, rng: Any) -> Any:
        return np.rint(np.nan_to_num(update.delta) * self.codec.scale).astype(np.int64)

    def add_noise(self: RoundPlan, scheme: Any, client: int, vector: Any) -> Any:
        noisy = noise(self, scheme, client, vector)
        bound = self.encoding.codec.sensitivity(self.encoding.clip.clip_norm)
        return np.trunc(noisy * min(1.0, bound / np.linalg.norm(noisy))).astype(np.int64)

    with mock.patch.object(UpdateEncoding, "encode", encode), mock.patch.object(RoundPlan, "add_noise", add_noise):
        yield


def _reused_noise() -> Any:
    exact = RoundPlan.opening

    def opening(self: RoundPlan, scheme: Any, correlated: Any = None) -> Any:
        first = dataclasses.replace(self, round=1 + (self.round - 1) // 2 * 2)
        return exact(first, scheme, correlated)

    return mock.patch.object(RoundPlan, "opening", opening)


@contextmanager
def _lost_share() -> Iterator[None]:
    """Noise shares are sized for one survivor more than the sum needs."""
    exact = Mechanism.spread

    def spread(self: Mechanism, sizes: Any, min_survivors: Callable[[int], int]) -> float:
        return exact(self, sizes, lambda size: min_survivors(size) + 1 if min_survivors(size) < size else size + 1)

    with mock.patch.object(Mechanism, "spread", spread), mock.patch.dict(survivors._SPREADS, clear=True):
        yield


def _bare_count() -> Any:
    exact = mechanism._OpenerNoise.__call__

    def call(self: Any, total: Any, survivors: frozenset[int]) -> Any:
        noisy = exact(self, total, survivors)
        noisy[-1] = total[-1]
        return noisy

    return mock.patch.object(mechanism._OpenerNoise, "__call__", call)


def _public_coins(subject: Subject) -> Subject:
    return dataclasses.replace(subject, coins=seeded_uniforms)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A planted fault, and the run in which an audit looks for it.

    Attributes:
        name: What is wrong.
        patch: Plants the fault.
        settings: The run.
        clients: Its number of clients.
        observer: The observer that can see the fault.
        parties: True if the fault is in what the parties do, and the trials have to go through them.
        pairs: Pairs with which the fault is caught in the quick tests; None where only 10^4 are enough.
        change: Changes the subject, in place of a patch.
        replay: True if the replay of a round on neighboring inputs catches it too.
    """

    name: str
    settings: dict[str, Any]
    patch: Patch = _nothing
    clients: int = 4
    observer: Observer = "outsider"
    parties: bool = False
    pairs: int | None = None
    change: Callable[[Subject], Subject] = lambda subject: subject
    replay: bool = False

    def audit(self, pairs: int, *, planted: bool = True) -> AuditResult:
        """The audit of the run with the fault, or without it."""
        with self.patch() if planted else _nothing():
            change = self.change if planted else (lambda subject: subject)
            return an_audit(
                an_experiment(self.clients, **self.settings),
                self.observer,
                change=change,
                trials=pairs,
                parties=self.parties,
            )


FAULTS = [
    Fault(
        "noise scaled by 0.9",
        {"privacy.noise_multiplier": 1.0, "rounds": 4},
        _less_noise,
        pairs=10_000,
    ),
    Fault(
        "an uncounted block",
        {"privacy.loss_bound": 4.0, "privacy.noise_multiplier": 0.9},
        _uncounted_block,
        clients=10,
        pairs=2_000,
        replay=True,
    ),
    Fault(
        "clip after noise",
        {"privacy.placement": "local", "rounds": 1},
        _clip_after_noise,
        clients=2,
        observer="server",
        parties=True,
        pairs=200,
        replay=True,
    ),
    Fault(
        "noise reused for two rounds",
        {"privacy.noise": "simulation"},
        _reused_noise,
        clients=2,
        parties=True,
        pairs=200,
    ),
    Fault(
        "a share lost in dropouts",
        {"privacy.placement": "distributed", "sum.scheme": "ckks", "cohort.min_survivor_fraction": 0.75},
        _lost_share,
        observer="participant",
        pairs=4_000,
    ),
    Fault(
        "sampling from a public seed",
        {"cohort.sampling": "poisson", "cohort.probability": 0.1, "rounds": 10},
        change=_public_coins,
        clients=20,
        pairs=1_000,
    ),
    Fault(
        "a column norm that is not counted",
        {
            "privacy.correlation": "toeplitz",
            "cohort.sampling": "one-pass",
            "cohort.size": 4,
            "privacy.noise_multiplier": 0.8,
            "rounds": 8,
        },
        lambda: mock.patch.object(events, "column_norm", return_value=1.0),
        clients=32,
        pairs=2_000,
    ),
    Fault(
        "an adaptive count without noise",
        {"privacy.clip_quantile": 0.5, "privacy.noise_multiplier": 0.5, "rounds": 1},
        _bare_count,
        clients=6,
        parties=True,
        pairs=60,
    ),
]
