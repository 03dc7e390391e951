"""From a configuration to samplers, optimizers, models and executors; `schemes` makes the sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.data import FederatedData
from privfl.dp import PrivacyUnit
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ConfigError
from privfl.experiment.config import Client, Cohort, Config, Server
from privfl.experiment.workers import single_threaded
from privfl.fl.algorithms import Algorithm, FedAvg, FedNova, FedProx, LocalLayers, Scaffold
from privfl.fl.arrivals import ClientTimes, SeededTimes
from privfl.fl.batches import check_cohort_train
from privfl.fl.buffered import ArrivalSampler, Schedule
from privfl.fl.chunks import Chunking
from privfl.fl.client import Executor, Train
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleGradients
from privfl.fl.keep import ALWAYS, Keep
from privfl.fl.linear import ClientArrays, LinearModel, LinearTrain
from privfl.fl.metrics import LinearMeasure, Measure, MetricSums
from privfl.fl.optimizers import OPTIMIZERS, ServerOptimizer
from privfl.fl.people import Persons
from privfl.fl.sampling import (
    AllocationSampler,
    CohortSampler,
    EveryoneSampler,
    FixedSizeSampler,
    OnePassSampler,
    PoissonSampler,
    TruncatedPoissonSampler,
)
from privfl.fl.selection import Selection
from privfl.wire import ClientId

_BATCHED: Final = 32
"""The clients of a chunk where they are trained at once."""


@dataclass(frozen=True, slots=True)
class Learner:
    """A model that can be trained, and measured at a client or on public examples.

    Attributes:
        initial: Its first vector.
        train: The training of one client.
        measure: The metrics of a vector on a client's own test examples; None where nothing is measured there.
        public_measure: The metrics of a vector on the public test examples; None where there are none.
        layers: The lengths of its layers, which are the vector's parts in order.
    """

    initial: Vector
    train: Train | Stateful | ExampleGradients
    measure: Measure | None
    public_measure: Callable[[Vector], MetricSums] | None
    layers: tuple[int, ...]

    @property
    def plain_train(self) -> Train:
        """The training of one client without a state; raises `ConfigError` for any other one."""
        if isinstance(self.train, Stateful):
            raise ConfigError("training that keeps a state has no meaning outside of its run: give a `Train`")
        if not callable(self.train):
            raise ConfigError("a training that only gives gradients of examples trains no client: give a `Train`")
        return self.train


def layers_of(train: object, length: int) -> tuple[int, ...]:
    """The lengths of the layers of a model, in the order of its vector.

    Args:
        train: A training; one with a `layout` of named tensors states its layers.
        length: The length of the vector, which is the only layer without such a layout.
    """
    layout = getattr(train, "layout", None)
    entries = getattr(layout, "entries", None)
    return (length,) if not entries else tuple(entry.stop - entry.start for entry in entries)


def build_arrivals(config: Config, clients: int, times: ClientTimes | None) -> CohortSampler:
    """The cohorts of asynchronous rounds that the `[buffer]` section describes.

    Args:
        config: The settings, with a `buffer.size`; the seed chooses who starts, and the times of clients.
        clients: The number of clients.
        times: The program's own times of clients; None takes those of the settings.

    Raises:
        ConfigError: If there are too few clients.
    """
    settings = config.buffer
    size = settings.size or 1
    concurrency = settings.concurrency or size
    if size + concurrency > clients:
        raise ConfigError(
            f"buffer.size = {size} and buffer.concurrency = {concurrency} need {size + concurrency} clients, because "
            f"one whose update waits does not train, and there are {clients}: lower one of them"
        )
    own = SeededTimes(
        config.seed,
        spread=settings.spread,
        stragglers=settings.stragglers,
        slowdown=settings.slowdown,
        availability=settings.availability,
        period=settings.period,
    )
    return ArrivalSampler(
        Schedule(clients, size, concurrency, times or own, seed=config.seed), age_exponent=settings.age_exponent
    )


def build_sampler(settings: Cohort) -> CohortSampler:
    """Return the cohort sampler of `[cohort]`; raises `ConfigError` for a setting that is missing or not used."""
    needs = {
        "everyone": (),
        "one-pass": ("size",),
        "poisson": ("probability",),
        "truncated-poisson": ("probability", "cap"),
        "fixed-size": ("size",),
        "allocation": ("selected", "block"),
    }[settings.sampling]
    for name in ("probability", "size", "cap", "selected", "block"):
        given = getattr(settings, name) is not None
        if given != (name in needs):
            verb = "does not take" if given else "needs"
            raise ConfigError(f"cohort.sampling = {settings.sampling!r} {verb} cohort.{name}")
    makers: dict[str, Any] = {
        "everyone": EveryoneSampler,
        "one-pass": OnePassSampler,
        "poisson": PoissonSampler,
        "truncated-poisson": TruncatedPoissonSampler,
        "fixed-size": FixedSizeSampler,
        "allocation": AllocationSampler,
    }
    sampler: CohortSampler = makers[settings.sampling](*(getattr(settings, name) for name in needs))
    return sampler


def privacy_unit(config: Config) -> PrivacyUnit:
    """The unit that the claims of a run are about."""
    return PrivacyUnit(config.privacy.unit, config.privacy.adjacency)


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


def build_selection(settings: Server) -> Selection:
    """The choice of the final model that the `[server]` section describes."""
    return Selection(settings.choose, settings.average_last, settings.patience, settings.metric, settings.goal)


def build_algorithm(settings: Client) -> Algorithm:
    """The algorithm of the `[client]` section; raises `ConfigError` for settings that it does not take."""
    for key, owner in (("proximal", "fedprox"), ("local_layers", "local-layers")):
        if getattr(settings, key) and settings.algorithm != owner:
            raise ConfigError(f"client.{key} is for client.algorithm = {owner!r}, not {settings.algorithm!r}")
    if settings.algorithm == "local-layers" and not settings.local_layers:
        raise ConfigError("client.algorithm = 'local-layers' needs client.local_layers, such as ['bias']")
    if settings.update == "gradient" and settings.algorithm != "fedavg":
        raise ConfigError(
            f"client.algorithm = {settings.algorithm!r} is about local steps, and client.update = 'gradient' takes "
            "none: choose client.update = 'delta'"
        )
    makers: dict[str, Callable[[], Algorithm]] = {
        "fedavg": FedAvg,
        "fedprox": lambda: FedProx() if settings.proximal is None else FedProx(settings.proximal),
        "scaffold": Scaffold,
        "fednova": FedNova,
        "local-layers": lambda: LocalLayers(settings.local_layers),
    }
    return makers[settings.algorithm]()


def build_chunking(config: Config, train: Any) -> Chunking:
    """The chunks of a cohort that the `[cohort]` section describes.

    Args:
        config: The settings.
        train: The training of a client.

    Raises:
        ConfigError: If the clients are to be trained in batches, and the training cannot do so.
    """
    settings = config.cohort
    if settings.training == "batched":
        check_cohort_train(train)
    return Chunking(settings.training, settings.chunk or (_BATCHED if settings.training == "batched" else 1))


def build_keep(config: Config) -> Keep:
    """The rule by which models are kept; raises `ConfigError` if the selected model might not be among them."""
    keep, server = Keep.read(config.keep), config.server
    needed = max(server.average_last, ALWAYS)
    spared = keep.kind == "all" or needed == ALWAYS or (keep.kind == "last" and keep.count >= needed)
    if not spared or (keep.kind != "all" and server.choose == "best"):
        raise ConfigError(
            f"keep = {config.keep!r} drops models that server.choose = {server.choose!r} and server.average_last = "
            f"{server.average_last} may select: set keep = 'all'"
        )
    return keep


def build_executor(config: Config) -> Executor:
    """Make the executor that runs the clients, in this process or in a pool of worker processes."""
    if not config.engine.workers:
        return LoopExecutor()
    if config.client.device != "cpu":
        raise ConfigError(
            f"engine.workers = {config.engine.workers} forks processes, which cannot use client.device = "
            f"{config.client.device!r}; set engine.workers = 0"
        )
    return ProcessExecutor(config.engine.workers, initializer=single_threaded)


def build_learner(config: Config, federation: FederatedData) -> Learner:
    """The model of the `[model]` section over the federation's examples.

    Args:
        config: The settings: `model`, `client` and the seed.
        federation: The clients and their examples, standardized.

    Raises:
        ConfigError: If the task is text or "own", or the settings do not fit the task or the model.
    """
    task = federation.dataset.task
    if task in ("text", "own"):
        what = "text" if task == "text" else "an array of your own"
        raise ConfigError(
            f"{federation.dataset.name} is {what}: give a `train` of your own; built-in models take tables of numbers"
        )
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
        persons=persons_of(config, federation),
    )
    public = _on_public(LinearMeasure(model, lambda _: federation.public_test()), federation)
    initial = model.initial(config.model.init or "zeros", seed=config.seed)
    layers = (len(initial) - outputs, outputs)
    return Learner(initial, train, LinearMeasure(model, federation.local_test), public, layers)


def _torch_learner(config: Config, federation: FederatedData, kind: str) -> Learner:
    if config.model.init == "zeros":
        raise ConfigError(f"model.init = 'zeros' would leave {kind!r} where it starts: every unit would learn the same")
    from privfl.adapters.torch import Sgd, TorchExamples, TorchMeasure, TorchTrain, losses, models

    dataset, client = federation.dataset, config.client
    outputs = len(dataset.classes) if dataset.task == "multiclass" else 1
    module = models.build(kind, dataset.width, config.model.hidden, outputs, seed=config.seed)
    loss = {
        "binary": losses.binary_cross_entropy,
        "multiclass": losses.cross_entropy,
        "regression": losses.squared_error,
    }[dataset.task]
    task: Any = "regression" if dataset.task == "regression" else "classification"
    train: TorchTrain | TorchExamples
    if config.privacy.unit == "example":
        train = TorchExamples(
            module, federation.train, loss=loss, persons=persons_of(config, federation), device=client.device
        )
    else:
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

    def measure(rows: ClientArrays) -> Measure:
        return TorchMeasure(module, rows, task=task, loss=loss, device=client.device)

    public = _on_public(measure(lambda _: federation.public_test()), federation)
    initial = train.initial()
    return Learner(initial, train, measure(federation.local_test), public, layers_of(train, len(initial)))


def persons_of(config: Config, federation: FederatedData) -> Persons | None:
    """The person of each training example of a client; None where each example is a person by itself.

    Args:
        config: The settings: `privacy.person` names a grouping of the data set.
        federation: The clients and their examples.

    Raises:
        ConfigError: If the data set has no such grouping.
    """
    if config.privacy.person is None:
        return None
    codes = federation.dataset.grouping(config.privacy.person).codes

    def persons(client: ClientId) -> npt.NDArray[np.int64]:
        own: npt.NDArray[np.int64] = codes[federation.clients[client].train]
        return own

    return persons


def _on_public(measure: Measure, federation: FederatedData) -> Callable[[Vector], MetricSums] | None:
    """`measure` on the public examples, for every client that it is asked for; None where there are none."""
    return (lambda model: measure(model, 0)) if len(federation.test) else None


def _doubled(rows: ClientArrays) -> ClientArrays:
    """Examples as float64, converted once for each client: the linear models compute in double precision."""
    kept: dict[ClientId, tuple[Any, Any]] = {}

    def get(client: ClientId) -> tuple[Any, Any]:
        if client not in kept:
            features, labels = rows(client)
            kept[client] = (features.astype(np.float64), labels.astype(np.float64))
        return kept[client]

    return get
