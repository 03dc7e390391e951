"""From a configuration to the parts of a run: the only place that names a concrete sum, model or executor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from privfl.codec import FixedPoint, Vector
from privfl.data import FederatedData
from privfl.dp import (
    AdaptiveClip,
    ElementClip,
    FlatClip,
    LayerClip,
    Mechanism,
    NoisePlan,
    PrivacyUnit,
    side_bound,
)
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.config import Cohort, Config, Server
from privfl.experiment.workers import single_threaded
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
from privfl.rotation import Rotation
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class Learner:
    """A model that can be trained, and measured at a client or on public rows: its first vector and a `Train`.

    `layers`: the lengths of its layers, which are the vector's parts in order.
    """

    initial: Vector
    train: Train
    measure: Measure | None
    public_measure: Callable[[Vector], MetricSums] | None
    layers: tuple[int, ...]


def layers_of(train: object, length: int) -> tuple[int, ...]:
    """The layers that a `train` with a `layout` of named tensors tells of, or the whole vector as one."""
    layout = getattr(train, "layout", None)
    entries = getattr(layout, "entries", None)
    return (length,) if not entries else tuple(entry.stop - entry.start for entry in entries)


def build_sampler(settings: Cohort) -> CohortSampler:
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


def privacy_unit(config: Config) -> PrivacyUnit:
    """What the claims of a run are about."""
    return PrivacyUnit("client", config.privacy.adjacency)


def least_survivors(config: Config, sampler: CohortSampler, clients: int) -> int:
    """How many must survive in any round: shares of distributed noise are sized for it before anybody is drawn."""
    expected = min(sampler.expected_size(clients), sampler.largest_size(clients))
    distributed = config.privacy.placement == "distributed"
    return max(1, int(config.cohort.min_survivors * expected)) if distributed else 1


def build_optimizer(settings: Server) -> ServerOptimizer:
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


def build_noise(config: Config, update: UpdatePlan, *, cohort: int, least: int) -> NoisePlan | None:
    """The mechanism in the codec's units, or None without noise."""
    privacy = config.privacy
    if privacy.placement == "none":
        return None
    if privacy.noise_multiplier is None:
        raise ConfigError("privacy.noise_multiplier is missing; `privfl calibrate` finds the least for an epsilon")
    mechanism = Mechanism(privacy.placement, privacy.noise_multiplier, privacy.noise, privacy.colluders)
    share = config.cohort.min_survivors
    return mechanism.plan(update.slots, cohort=cohort, min_survivors=least, survivor_share=share)


def build_clip(config: Config, layers: Sequence[int]) -> FlatClip | LayerClip | ElementClip:
    """What bounds an update of `layers` entries each: privacy.clip_norm, or each entry where no norm is given."""
    privacy, length = config.privacy, sum(layers)
    if privacy.clip_norm is None:
        if privacy.clip != "flat" or privacy.clip_quantile is not None:
            raise ConfigError("privacy.clip and privacy.clip_quantile say how to clip to privacy.clip_norm: give it")
        return ElementClip(config.sum.clip_entries, length)
    if privacy.clip == "layers":
        return LayerClip.of(layers, privacy.clip_norm)
    if privacy.clip == "entries":
        return ElementClip(privacy.clip_norm / math.sqrt(length), length)
    return FlatClip(privacy.clip_norm)


def build_update(
    config: Config,
    layers: Sequence[int],
    *,
    cohort: int,
    expected: float,
    least: int,
    max_weight: int,
    clip: FlatClip | LayerClip | ElementClip | None = None,
) -> UpdatePlan:
    """How updates of `layers` become integers: the finest scale, a power of two, at which `cohort` fit the ring.

    `expected` is the fixed denominator of a private mean; `clip` takes the place of the configuration's.
    """
    privacy, private = config.privacy, config.privacy.placement != "none"
    weighting = config.server.weighting or ("uniform" if private else "examples")
    if private and weighting == "examples":
        raise PrivacyError("server.weighting = 'examples' would make the sensitivity depend on the data; use 'uniform'")
    if private and privacy.clip_norm is None:
        raise ConfigError("privacy.clip_norm is missing: noise is measured in multiples of it")
    _check_blocks(config)
    clip, length = clip or build_clip(config, layers), sum(layers)
    largest = clip.max_abs if isinstance(clip, ElementClip) else clip.clip_norm
    rotation = Rotation(length, config.seed) if config.sum.rotation else None
    if rotation is not None:
        largest = rotation.entry_bound(clip.clip_norm)
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
        rotation=rotation,
    )
    return _fitted(config, plan, cohort=cohort, expected=expected, least=least)


def _check_blocks(config: Config) -> None:
    privacy = config.privacy
    if privacy.placement == "none" and (privacy.clip_quantile, privacy.loss_bound) != (None, None):
        raise ConfigError(
            "privacy.clip_quantile and privacy.loss_bound are blocks under the noise of the vector, and "
            "privacy.placement is 'none'"
        )
    if privacy.clip_quantile is not None and privacy.clip != "flat":
        raise ConfigError(
            f"privacy.clip_quantile follows the norm of a whole update, not privacy.clip = {privacy.clip!r}"
        )


def with_side_blocks(config: Config, plan: UpdatePlan, expected: float) -> UpdatePlan:
    """`plan` with the noised blocks beside the update, scaled to the update's integers: loss and clip indicator."""
    privacy = config.privacy
    loss, adaptive = privacy.loss_bound is not None, privacy.clip_quantile is not None
    if not (loss or adaptive) or privacy.noise_multiplier is None:
        return plan
    units = math.floor(plan.codec.sensitivity(plan.clip.clip_norm))
    z, blocks = privacy.noise_multiplier, loss + adaptive
    if privacy.loss_bound is not None:
        side = side_bound(units, noise_multiplier=z, denominator=expected, blocks=blocks)
        plan = dataclasses.replace(plan, metrics=(Metric("loss", privacy.loss_bound, side),))
    if privacy.clip_quantile is None:
        return plan
    state = AdaptiveClip.plan(
        plan.clip.clip_norm,
        units=units,
        noise_multiplier=z,
        denominator=expected,
        quantile=privacy.clip_quantile,
        learning_rate=privacy.clip_learning_rate,
        others=blocks - 1,
    )
    return dataclasses.replace(plan, adaptive=state, codec=state.codec(plan.codec.ring))


def _fitted(config: Config, plan: UpdatePlan, *, cohort: int, expected: float, least: int) -> UpdatePlan:
    """`plan` with its scale halved until contributions, side blocks and noise fit the ring together.

    An adaptive clip changes no integer's bound, so that what fits at first fits at any clip norm.
    """
    ring = plan.codec.ring
    while True:
        whole = with_side_blocks(config, plan, expected)
        noise = build_noise(config, whole, cohort=cohort, least=least)
        # Shares of a smaller cohort are larger, each for itself by up to the step in which their reach is found.
        reach = 0 if noise is None else math.ceil(1.06 * noise.noise_reach)
        room = cohort * (whole.entry_bound + reach) + (math.ceil(20 * noise.total_stddev) if noise else 0)
        if room < ring.half:
            return whole
        if plan.codec.bound(plan.largest) < 4:
            bits = room.bit_length() + 9
            raise ConfigError(f"sum.bits = {ring.bits} leaves no precision for {cohort} clients; {bits} would do")
        plan = dataclasses.replace(plan, codec=FixedPoint(plan.codec.scale / 2, ring))


def build_executor(config: Config) -> Executor:
    """Make what runs the clients: this process, or a pool of workers."""
    if not config.engine.workers:
        return LoopExecutor()
    if config.client.device != "cpu":
        raise ConfigError(
            f"engine.workers = {config.engine.workers} forks processes, which cannot use client.device = "
            f"{config.client.device!r}; set engine.workers = 0"
        )
    return ProcessExecutor(config.engine.workers, initializer=single_threaded)


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
    layers = (len(initial) - outputs, outputs)
    return Learner(initial, train, LinearMeasure(model, federation.local_test), public, layers)


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
    initial = train.initial()
    return Learner(initial, train, measure(federation.local_test), public, layers_of(train, len(initial)))


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
