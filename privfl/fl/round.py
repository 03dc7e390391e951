"""One round: a straight pipe from a model to the next, in which only the secure sum talks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from privfl.codec import Vector
from privfl.dp import NoisePlan
from privfl.errors import ConfigError, PrivacyError, TooFewSurvivors
from privfl.files import canonical_json
from privfl.fl.client import CENTRAL_STREAM, NOISE_STREAM, Executor, RoundWork, Train
from privfl.fl.optimizers import Moments, ServerOptimizer, ServerSGD
from privfl.fl.plan import ClientPolicy, RoundPlan, UpdatePlan
from privfl.ring import Ints
from privfl.sums import Drop, KeyedOpening, Opening, SecureSum, SumResult, Tap, identity, ignore, never, run_sum
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class Contribution:
    """A client's part of a round, from the model to the vector that it sums: a `Work`.

    Raises `PrivacyError` for noise that was planned for shorter contributions than `update` makes.
    """

    train: Train
    update: UpdatePlan
    noise: NoisePlan | None
    seed: int
    base: Contribution | None = field(default=None, repr=False, compare=False)
    settings: bytes = b""

    def __post_init__(self) -> None:
        noise = self.noise
        if noise is None or noise.mechanism.placement == "none":
            return
        least = self.update.norm_bound * (1.0 - 1e-12)  # the two are computed by different roundings
        if noise.length != self.update.total_length or noise.norm_bound < least:
            raise PrivacyError(
                f"the noise is planned for {noise.length} entries of norm {noise.norm_bound:.6g}, and a contribution "
                f"has {self.update.total_length} entries of norm up to {self.update.norm_bound:.6g} (integer units)"
            )

    def in_round(self, drawn: int, clip_norm: float | None) -> Contribution:
        """This work for a cohort of `drawn` clients, and the clip norm of the round where it is adaptive."""
        noise = None if self.noise is None else self.noise.for_cohort(drawn)
        update = self.update if clip_norm is None else self.update.in_round(clip_norm)
        settings = canonical_json([int(drawn), clip_norm])
        return replace(self, noise=noise, update=update, base=self, settings=settings)

    def as_work(self) -> RoundWork:
        """The same work for executors: worker processes keep the base, and only the settings are sent to them."""
        return RoundWork((self.base or self).from_settings, self.settings)

    def from_settings(self, settings: bytes) -> Contribution:
        """Do in a worker what `in_round` did; no settings stand for this work as it is."""
        return self.in_round(*json.loads(settings)) if settings else self

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> Ints:
        """Model float `[d]` -> int64 `[update.total_length]`."""
        update = self.train(model, client, round, rng)  # 2: train
        vector = self.update.encode(update, rng)  # 3: clip and encode
        if self.noise is None:
            return vector
        key = None if self.noise.mechanism.source == "secure" else (self.seed, round, client, NOISE_STREAM)
        return self.noise.contribute(vector, key=key)  # 4: noise contribution


@dataclass(frozen=True, slots=True)
class Parts:
    """What a round is made of, the same in every round."""

    work: Contribution
    scheme: SecureSum
    executor: Executor
    optimizer: ServerOptimizer = field(default_factory=ServerSGD)
    credentials: Mapping[ClientId, Any] | None = None
    policy: ClientPolicy = field(default_factory=ClientPolicy)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The next model and moments, the mean training metrics, the mean update's l2 norm, and the sum it came from.

    `next_clip`: the clip norm of the next round, where it is adaptive.
    """

    model: Vector = field(repr=False)
    moments: Moments = field(repr=False)
    metrics: Mapping[str, float]
    update_norm: float
    sum: SumResult
    next_clip: float | None = None


def run_round(
    model: Vector, moments: Moments, plan: RoundPlan, parts: Parts, *, drop: Drop = never, tap: Tap = ignore
) -> Outcome:
    """Run `plan` on `model` (float `[d]`); raises `TooFewSurvivors`, and `PlanRejected` where a client refuses."""
    if not plan.cohort:
        return _empty_round(model, moments, plan, parts)
    try:
        parts.scheme.min_survivors_of(len(plan.cohort), plan.min_survivors)
    except ConfigError as error:  # a cohort of so few clients never opens
        raise TooFewSurvivors(len(plan.cohort), max(plan.min_survivors, len(plan.cohort) + 1)) from error
    task = parts.policy.check(plan)
    uploads = parts.executor.run(parts.work.as_work(), model, plan.cohort, round=plan.round, seed=plan.seed)
    summed = run_sum(  # 5, 6, 8: sessions, secure sum, noise on the sum where it is opened
        parts.scheme,
        task,
        uploads,
        credentials=parts.credentials,
        policy=parts.policy.sum,
        opening=opener_noise(parts.work.noise, plan),
        drop=drop,
        tap=tap,
    )
    return _finish(model, moments, plan, parts, summed)


def _finish(model: Vector, moments: Moments, plan: RoundPlan, parts: Parts, summed: SumResult) -> Outcome:
    denominator = plan.denominator or float(len(summed.survivors))
    mean, metrics = plan.update.decode(summed.total, denominator)  # 9: decode, mean
    stepped, moments = parts.optimizer.step(model, mean, moments)  # 10: server optimizer
    norm = math.sqrt(float(np.square(mean).sum()))
    return Outcome(stepped, moments, metrics, norm, summed, plan.update.next_clip(summed.total))


def _empty_round(model: Vector, moments: Moments, plan: RoundPlan, parts: Parts) -> Outcome:
    """Nobody was drawn. With central noise the noise alone is released, as the accountant assumes; else nothing is."""
    noise = parts.work.noise
    if noise is None or noise.mechanism.placement != "central":
        raise TooFewSurvivors(0, plan.min_survivors)
    total = opener_noise(noise, plan)(np.zeros(plan.update.total_length, np.int64), frozenset())
    return _finish(model, moments, plan, parts, SumResult(total, frozenset(), plan.digest()))


def opener_noise(noise: NoisePlan | None, plan: RoundPlan) -> Opening:
    """What is done to the sum where it is opened: central noise, the shares of those who fell silent, or nothing."""
    if noise is None or noise.mechanism.placement in ("none", "local"):
        return identity
    if noise.mechanism.source == "secure":
        return KeyedOpening(lambda entropy: noise.opening(entropy=entropy))
    return KeyedOpening(lambda entropy: noise.opening(key=(plan.seed, plan.round, 0, CENTRAL_STREAM)))
