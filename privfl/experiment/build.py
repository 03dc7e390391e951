"""From a configuration to the parts of a run: the only place that names a concrete sum, model or executor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from privfl.codec import FixedPoint, Vector
from privfl.crypto import generate_identities
from privfl.data import FederatedData
from privfl.dp import ElementClip, FlatClip, Mechanism, NoisePlan, Segment
from privfl.dp.release import ServerView
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.config import CohortConfig, Config, ServerConfig
from privfl.fl.client import Executor, Train
from privfl.fl.linear import LinearModel, LinearTrain, Rows
from privfl.fl.metrics import LinearMeasure, Measure, MetricSums
from privfl.fl.optimizers import OPTIMIZERS, ServerOptimizer
from privfl.fl.plan import Metric, UpdatePlan
from privfl.fl.sampling import (
    CohortSampler,
    EveryoneSampler,
    FixedSizeSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
)
from privfl.ring import Ring
from privfl.sums import PlainSum, SecureSum
from privfl.wire import ClientId

SERVER_SEES: Mapping[str, ServerView] = {"plain": "vectors", "masked": "sum", "ckks": "ciphertexts"}


@dataclass(frozen=True, slots=True)
class Learner:
    """A model that can be trained, and measured at a client or on public rows: its first vector and a `Train`."""

    initial: Vector
    train: Train
    measure: Measure | None
    public_measure: Callable[[Vector], MetricSums] | None


def build_sampler(settings: CohortConfig) -> CohortSampler:
    """The cohort sampler, from exactly the settings that it needs."""
    needs = {
        "everyone": (),
        "poisson": ("probability",),
        "truncated-poisson": ("probability", "cap"),
        "fixed-size": ("size",),
    }[settings.sampling]
    for name in ("probability", "size", "cap"):
        given = getattr(settings, name) is not None
        if given != (name in needs):
            verb = "does not take" if given else "needs"
            raise ConfigError(f"cohort.sampling = {settings.sampling!r} {verb} cohort.{name}")
    makers: dict[str, Any] = {
        "everyone": EveryoneSampler,
        "poisson": PoissonSampler,
        "truncated-poisson": TruncatedPoissonSampler,
        "fixed-size": FixedSizeSampler,
    }
    sampler: CohortSampler = makers[settings.sampling](*(getattr(settings, name) for name in needs))
    return sampler


def build_optimizer(settings: ServerConfig) -> ServerOptimizer:
    """The server optimizer with the hyper-parameters that are given, and its defaults for the others."""
    names = {"sgd": ("eta", "momentum"), "fedadagrad": ("eta", "beta_1", "tau")}.get(
        settings.optimizer, ("eta", "beta_1", "beta_2", "tau")
    )
    given = {name: getattr(settings, name) for name in ("eta", "momentum", "beta_1", "beta_2", "tau")}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("momentum") == 0.0:
        del given["momentum"]
    extra = sorted(set(given) - set(names))
    if extra:
        raise ConfigError(f"server.optimizer = {settings.optimizer!r} does not take {extra[0]}; it takes {names}")
    optimizer: ServerOptimizer = OPTIMIZERS[settings.optimizer](**given)
    return optimizer


def build_sum(config: Config, clients: int) -> tuple[SecureSum, Mapping[ClientId, Any] | None]:
    """The secure sum and fresh credentials of all clients, which the plain sum does without."""
    name = config.sum.scheme
    if name == "plain":
        return PlainSum(), None
    credentials, directory = generate_identities(range(clients))
    if name == "masked":
        from privfl.secagg import MaskedSum

        return MaskedSum(directory), credentials
    from privfl.he import CkksSum

    return CkksSum(directory), credentials


def build_noise(config: Config, update: UpdatePlan, *, cohort: int, least: int) -> NoisePlan | None:
    """The mechanism in the codec's units, or None without noise."""
    privacy = config.privacy
    if privacy.placement == "none":
        return None
    if privacy.noise_multiplier is None:
        raise ConfigError("privacy.noise_multiplier is missing; `privfl calibrate` finds the least for an epsilon")
    mechanism = Mechanism(privacy.placement, privacy.noise_multiplier, privacy.noise, privacy.colluders)
    segment = Segment("update", update.length, update.codec.scale, update.clip.clip_norm)
    return mechanism.plan([segment], cohort=cohort, min_survivors=least)


def build_update(config: Config, length: int, *, cohort: int, least: int, max_weight: int) -> UpdatePlan:
    """How updates become integers: the finest scale, a power of two, at which `cohort` of them fit the ring."""
    privacy, private = config.privacy, config.privacy.placement != "none"
    weighting = config.server.weighting or ("uniform" if private else "examples")
    if private and weighting == "examples":
        raise PrivacyError("server.weighting = 'examples' would make the sensitivity depend on the data; use 'uniform'")
    if private and privacy.clip_norm is None:
        raise ConfigError("privacy.clip_norm is missing: noise is measured in multiples of it")
    entries = ElementClip(config.sum.clip_entries, length)
    clip = FlatClip(privacy.clip_norm) if privacy.clip_norm is not None else entries
    largest = clip.clip_norm if isinstance(clip, FlatClip) else clip.max_abs
    metrics = () if private else (Metric("loss"),)
    ring = Ring(config.sum.bits)
    start = FixedPoint.fit(ring, clip_norm=max(largest, *(m.bound for m in metrics), 0.0), cohort=cohort)
    plan = UpdatePlan(
        length,
        start,
        clip,
        weighting=weighting,
        max_weight=max_weight if weighting == "examples" else 1,
        metrics=metrics,
        rounding=config.sum.rounding,
    )
    return _fitted(config, plan, cohort=cohort, least=least)


def _fitted(config: Config, plan: UpdatePlan, *, cohort: int, least: int) -> UpdatePlan:
    """`plan` with its scale halved until contributions and noise fit the ring together."""
    ring = plan.codec.ring
    while True:
        noise = build_noise(config, plan, cohort=cohort, least=least)
        bound = plan.entry_bound if noise is None else max(plan.entry_bound, noise.entry_bound)
        room = cohort * bound + (math.ceil(20 * noise.total_stddev) if noise else 0)
        if room < ring.half:
            return plan
        if plan.codec.bound(plan.largest) < 4:
            bits = room.bit_length() + 9
            raise ConfigError(f"sum.bits = {ring.bits} leaves no precision for {cohort} clients; {bits} would do")
        plan = dataclasses.replace(plan, codec=FixedPoint(plan.codec.scale / 2, ring))


def build_executor(config: Config, *, torch: bool) -> Executor:
    """One process, or a pool of workers."""
    if not config.engine.workers:
        return LoopExecutor()
    initializer = None
    if torch:
        from privfl.adapters.torch import one_thread

        initializer = one_thread
    return ProcessExecutor(config.engine.workers, initializer=initializer)


def build_learner(config: Config, federation: FederatedData) -> Learner:
    """The model of the `[model]` section over the federation's rows."""
    task = federation.dataset.task
    if task == "text":
        raise ConfigError(f"{federation.dataset.name} is text: give a `train` of your own; built-in models take rows")
    by_task = {"binary": "logistic", "multiclass": "softmax", "regression": "linear"}
    kind: str = by_task[task] if config.model.kind == "auto" else config.model.kind
    if kind in ("mlp", "cnn"):
        return _torch_learner(config, federation, kind)
    if kind != by_task[task]:
        raise ConfigError(f"model.kind = {kind!r} does not fit a {task} task; use {by_task[task]!r} or 'mlp'")
    outputs = len(federation.dataset.classes) if kind == "softmax" else 1
    model = LinearModel(kind, federation.dataset.width, outputs, config.model.l2)  # type: ignore[arg-type]
    client = config.client
    if client.momentum or client.device != "cpu":
        raise ConfigError("client.momentum and client.device are for torch models; linear models run on numpy")
    train = LinearTrain(
        model,
        _doubled(federation.train),
        client.learning_rate,
        client.epochs,
        client.steps,
        client.batch_size,
        client.update,
    )
    public = _on_public(LinearMeasure(model, lambda _: federation.public_test()), federation)
    initial = model.initial(config.model.init or "zeros", seed=config.seed)
    return Learner(initial, train, LinearMeasure(model, federation.local_test), public)


def _torch_learner(config: Config, federation: FederatedData, kind: str) -> Learner:
    if config.model.init == "zeros":
        raise ConfigError(f"model.init = 'zeros' would leave {kind!r} where it starts: every unit would learn the same")
    from privfl.adapters.torch import Sgd, TorchMeasure, TorchTrain, losses, models

    dataset, client = federation.dataset, config.client
    outputs = len(dataset.classes) if dataset.task == "multiclass" else 1
    module = models.build(kind, dataset.width, config.model.hidden, outputs, seed=config.seed)
    loss = {
        "binary": losses.binary_cross_entropy,
        "multiclass": losses.cross_entropy,
        "regression": losses.squared_error,
    }[dataset.task]
    task: Any = "regression" if dataset.task == "regression" else "classification"
    train = TorchTrain(
        module,
        federation.train,
        optimizer=Sgd(client.learning_rate, momentum=client.momentum, weight_decay=config.model.l2),
        loss=loss,
        metrics={},
        epochs=client.epochs,
        steps=client.steps,
        batch_size=client.batch_size,
        update=client.update,
        device=client.device,
    )

    def measure(rows: Rows) -> Measure:
        return TorchMeasure(module, rows, task=task, loss=loss, device=client.device)

    public = _on_public(measure(lambda _: federation.public_test()), federation)
    return Learner(train.initial(), train, measure(federation.local_test), public)


def _on_public(measure: Measure, federation: FederatedData) -> Callable[[Vector], MetricSums] | None:
    """`measure`, whose rows are the public ones whatever client it is asked for; None where there are none."""
    return (lambda model: measure(model, 0)) if len(federation.test) else None


def _doubled(rows: Rows) -> Rows:
    """Rows as float64, converted once a client: the linear models compute in double precision."""
    kept: dict[ClientId, tuple[Any, Any]] = {}

    def get(client: ClientId) -> tuple[Any, Any]:
        if client not in kept:
            features, labels = rows(client)
            kept[client] = (features.astype(np.float64), labels.astype(np.float64))
        return kept[client]

    return get
