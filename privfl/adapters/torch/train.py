"""Local training of a torch module: a `Train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privfl.adapters.torch.buffers import Buffers
from privfl.adapters.torch.chain import Chain
from privfl.adapters.torch.chain import accuracy as chain_accuracy
from privfl.adapters.torch.cohort import CohortChain
from privfl.adapters.torch.examples import TensorRows, check_rows, examples_of, outputs_of, select, to_tensor, widened
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.labels import Labels
from privfl.adapters.torch.layout import Layout, Trainable
from privfl.adapters.torch.losses import BatchMean, accuracy, cross_entropy
from privfl.adapters.torch.optim import FlatStep, OptimizerFactory, Pull, Sgd, TorchStep, check_rate
from privfl.adapters.torch.state import Turn, borrowed, open_device, prepare_process, seeded
from privfl.adapters.torch.tally import Tally
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.lessons import NO_CORRECTIONS, Corrections, Lesson
from privfl.fl.linear import minibatches
from privfl.wire import ClientId


class TorchTrain:
    """Trains a copy of `module` at each client, from the vector it is given.

    All of torch's randomness comes from the client's own generator, and torch's global state is as before afterwards;
    trainings in several threads wait for each other. With `threads=1` a CPU training is repeatable bit by bit. A client
    that holds no examples returns a zero delta and no metrics. NaN goes into the delta; the encoding rejects it. A
    batch may have one value for each channel of a BatchNorm, as a last batch of one example may. That layer then uses
    its running statistics, because torch has no variance for it.

    Args:
        module: The user's module, which is left alone.
        rows: Maps a client to its (features, targets).
        optimizer: An `Sgd`, or any function from parameters to an optimizer of torch's.
        learning_rate: Maps the round to the rate that replaces the optimizer's own; None keeps the optimizer's.
        loss: A mean over examples. Class numbers that a loss is known to ignore (-100, or its `ignore_index`) do not
            count in any mean.
        metrics: Reported next to the loss, as means over all examples seen in training, each as it was when seen;
            accuracy by default, if targets are integers.
        epochs: Shuffled passes; not used with `steps`.
        steps: The number of minibatches, in place of `epochs`.
        batch_size: The number of examples of a minibatch; None takes all.
        drop_last: Leave out the last minibatch of a pass where it is smaller than the others.
        update: "delta", or "gradient" for FedSGD. The delta of a parameter is then minus the gradient of the mean loss
            over all examples, taken `batch_size` at a time with no step in between.
        buffers: Which buffers are in the vector; see `privfl.adapters.torch.buffers`.
        trainable: "only": frozen parameters are neither sent nor noised; "all": they are in the vector too.
        device: "cpu", "cuda" or "cuda:1".
        threads: The number of torch's threads; None takes as many as torch has.

    Raises:
        ConfigError: A parameter is outside its range, or nothing of the module is trained.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: TensorRows,
        *,
        optimizer: Sgd | OptimizerFactory = Sgd(0.1),  # noqa: B008 - frozen
        learning_rate: Callable[[int], float] | None = None,
        loss: BatchMean = cross_entropy,
        metrics: Mapping[str, BatchMean] | None = None,
        epochs: int = 1,
        steps: int | None = None,
        batch_size: int | None = None,
        drop_last: bool = False,
        update: Literal["delta", "gradient"] = "delta",
        buffers: Buffers = "shared",
        trainable: Trainable = "only",
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        counts = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "threads": threads}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if update not in ("delta", "gradient"):
            raise ConfigError(f"update must be 'delta' or 'gradient', not {update!r}")
        self._rows, self._optimizer, self._learning_rate = check_rows(rows), optimizer, learning_rate
        self._loss, self._metrics = loss, metrics
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._drop_last, self._update, self._threads = drop_last, update, threads
        self._turn = Turn()
        prepare_process(threads)
        self._flat = trained_module(module, buffers, device, trainable)
        self._first = self.layout.flatten(self._flat.module)
        self._chain = self._find_chain()
        self._cohort: CohortChain | None = None

    @property
    def layout(self) -> Layout:
        """The place of each tensor in the vector."""
        return self._flat.layout

    def initial(self) -> Vector:
        """The vector `[size]` of the module as it was handed over."""
        return self._first.copy()

    def module(self, model: Vector) -> nn.Module:
        """An independent module with the values of `model`, in evaluation mode: to predict with, or to save."""
        with self._turn:
            self._flat.load(model)
            return self._flat.unbound().eval()

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train one client.

        Args:
            model: The global model, float `[size]`.
            client: Whose examples.
            round: The round, which decides the learning rate.
            rng: The client's own generator for this round: the only randomness.

        Returns:
            The change of the model, the number of examples, and the means of loss and metrics.

        Raises:
            ConfigError: The model or the client's examples do not fit the module or the loss.
        """
        return self.corrected(model, client, round, rng)

    def check_cohort(self) -> None:
        """Raise `ConfigError` unless many clients can be trained at once; see `privfl.adapters.torch.cohort`."""
        if not isinstance(self._optimizer, Sgd) or self._metrics or self._update == "gradient":
            raise ConfigError(
                "clients are trained in batches by optimizer=Sgd(...), with metrics=None or {} and update='delta': set "
                "cohort.training = 'single'"
            )
        if self._cohort is None:
            self._cohort = CohortChain.of(self._flat, self._loss)

    def train_cohort(
        self,
        model: Vector,
        clients: tuple[ClientId, ...],
        round: int,
        rngs: Sequence[np.random.Generator],
        corrections: Corrections = NO_CORRECTIONS,
    ) -> list[ClientUpdate]:
        """Train many clients at once, each as `corrected` does up to rounding; see `privfl.fl.client.CohortTrain`.

        Args:
            model: The global model, float `[size]`.
            clients: Whose examples.
            round: The round, which decides the learning rate.
            rngs: Each client's own generator for this round.
            corrections: What is added to every gradient.
        """
        self.check_cohort()
        rule, cohort = self._optimizer, self._cohort
        assert isinstance(rule, Sgd) and cohort is not None  # noqa: S101, PT018 - `check_cohort` has made sure
        with self._turn, borrowed(self._threads, self._flat.device):
            prepare_process(self._threads, self._flat.device)
            lessons = [self._lesson(client, rng) for client, rng in zip(clients, rngs, strict=True)]
            rate, start = self._rate(round) or rule.learning_rate, self.layout.checked(model)
            return cohort.updates(start, lessons, rule, rate, corrections, scored=self._metrics is None)

    def _lesson(self, client: ClientId, rng: np.random.Generator) -> Lesson:
        features, targets = (np.asarray(part) for part in examples_of(self._rows, client, self._flat.module))
        return Lesson(features, targets, self._batches(len(targets), rng) if len(targets) else [])

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics that an update may have next to the loss."""
        return ("accuracy",) if self._metrics is None else tuple(self._metrics)

    @property
    def parameters(self) -> int:
        """The first entries of the vector, which are parameters; running statistics come after them."""
        return self.layout.parameters

    @property
    def layers(self) -> Mapping[str, slice[int, int, None]]:
        """The place of each tensor in the vector, by its name in the module."""
        return {entry.name: slice(entry.start, entry.stop) for entry in self.layout.entries}

    def rate(self, round: int) -> float:
        """The learning rate of a round; raises `ConfigError` unless the optimizer is an `Sgd`."""
        if not isinstance(self._optimizer, Sgd) or self._update == "gradient":
            raise ConfigError("SCAFFOLD and FedNova count steps of SGD: give optimizer=Sgd(...) and update='delta'")
        return self._rate(round) or self._optimizer.learning_rate

    def corrected(
        self,
        model: Vector,
        client: ClientId,
        round: int,
        rng: np.random.Generator,
        *,
        correction: Vector | None = None,
        proximal: float = 0.0,
    ) -> ClientUpdate:
        """Train one client with other gradients; see `privfl.fl.algorithms.LocalTrain`.

        Args:
            model: The global model, float `[size]`.
            client: Whose examples.
            round: The round, which decides the learning rate.
            rng: The client's own generator for this round.
            correction: Added to every gradient, float `[parameters]`; None adds nothing.
            proximal: The factor of the pull towards the global model.

        Raises:
            ConfigError: The model or the client's examples do not fit, or FedSGD is to be corrected.
        """
        if self._update == "gradient" and (correction is not None or proximal):
            raise ConfigError("FedSGD takes no local steps that could be corrected: set update to 'delta'")
        with self._turn:
            return self._trained(model, client, round, rng, (correction, proximal))

    def _trained(
        self,
        model: Vector,
        client: ClientId,
        round: int,
        rng: np.random.Generator,
        corrections: tuple[Vector | None, float],
    ) -> ClientUpdate:
        prepare_process(self._threads, self._flat.device)
        features, targets = examples_of(self._rows, client, self._flat.module)
        count = targets.shape[0]
        self._flat.load(model)
        if not count:
            return ClientUpdate(np.zeros(len(model), self.layout.dtype), 0)
        whole = self._update == "gradient"
        batches, labels = self._batches(count, rng), Labels.of(self._loss, targets, client)
        pull = Pull(self._flat, *corrections) if corrections[0] is not None or corrections[1] else None
        steps = self._optimizer.steps(len(batches)) if isinstance(self._optimizer, Sgd) and not whole else 0.0
        if isinstance(features, np.ndarray) and isinstance(targets, np.ndarray):
            metrics = self._follow((features, targets), batches, round, labels, pull)
            if metrics is not None:
                return ClientUpdate(self._flat.change(model), count, metrics, steps=steps)
        x, y = to_tensor(features, self._flat), to_tensor(targets, self._flat)
        job = _Job(x, y, batches, labels, Tally(self._named_metrics(y, labels), labels), round, pull)
        with borrowed(self._threads, self._flat.device), seeded(int(rng.integers(1 << 63)), self._flat.device):
            self._record(job)
        delta = self._flat.change(model)
        if whole:
            delta[: self.layout.parameters] = -self._flat.gradient.cpu().numpy()
        return ClientUpdate(delta, count, job.tally.means(), steps=steps)

    def _batches(self, count: int, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
        size = self._batch_size or count
        if self._update == "gradient":
            return minibatches(count, size, 1, None, rng)
        if not self._drop_last or count <= size:
            return minibatches(count, size, self._epochs, self._steps, rng)
        passes = self._epochs if self._steps is None else -(-self._steps // (count // size))
        return [batch for batch in minibatches(count, size, passes, None, rng) if len(batch) == size][: self._steps]

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned worker: views of one tensor would each bring the whole of it along."""
        layout, device = self.layout, str(self._flat.device)
        flat = (self.module(self._first), layout.buffers, device, layout.trainable)
        return {**self.__dict__, "_flat": flat, "_chain": None, "_cohort": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _flat=trained_module(*state["_flat"]))
        self._chain = self._find_chain()

    def _record(self, job: _Job) -> None:
        """Train with autograd."""
        flat_gradients = self._update == "gradient" or isinstance(self._optimizer, Sgd)
        self._flat.watch(flat_gradients)
        if self._update == "gradient":
            self._differentiate(job)
        else:
            self._descend(job)
        self._flat.check(flat_gradients)

    def _rate(self, round: int) -> float | None:
        """The rate that replaces the optimizer's own in this round, if any."""
        return None if self._learning_rate is None else check_rate(self._learning_rate(round))

    def _step(self, round: int) -> FlatStep | TorchStep:
        rate = self._rate(round)
        if isinstance(self._optimizer, Sgd):
            return FlatStep(self._optimizer, self._flat, rate or self._optimizer.learning_rate)
        return TorchStep(self._optimizer, self._flat, rate)

    def _follow(
        self,
        examples: tuple[npt.NDArray[Any], npt.NDArray[Any]],
        batches: list[npt.NDArray[np.intp]],
        round: int,
        labels: Labels,
        pull: Pull | None,
    ) -> dict[str, float] | None:
        """Train a chain in closed form; returns the metrics, or None where autograd has to do it."""
        chain, (features, targets) = self._chain, examples
        if chain is None or not chain.takes(features, targets, len(batches[0])):
            return None
        labels.check(chain.outputs(len(batches[0])))
        features, step = chain.prepare(features), self._step(round).step
        rule, rate = self._optimizer, self._rate(round)
        if isinstance(rule, Sgd) and not (rule.momentum or rule.weight_decay):
            step = partial(chain.descend, rate or rule.learning_rate)
        scored = self._metrics is None and targets.dtype.kind != "f"
        rows, loss_sum, right_sum = 0, 0.0, 0.0
        with np.errstate(all="ignore"):  # an overflow shows in the delta, as it does with torch
            for batch in batches:
                whole = len(batch) == len(targets)  # all examples need no copy, in any order
                x, y = (features, targets) if whole else (features[batch], targets[batch])
                loss, output = chain.gradient(x, y)
                if pull is not None:
                    pull.add(flat=True)
                step()
                rows += len(batch)
                loss_sum += loss * len(batch)
                if scored:
                    right_sum += chain_accuracy(output, y) * len(batch)
        return {"loss": loss_sum / rows} | ({"accuracy": right_sum / rows} if scored else {})

    def _descend(self, job: _Job) -> None:
        stepper = self._step(job.round)
        module, loss_of = self._flat.module, self._loss
        for batch in job.batches:
            x, y = select(job.features, job.targets, batch)
            stepper.zero()
            output = outputs_of(module, x)
            job.tally.check(output)
            loss = loss_of(output, y)
            loss.backward()  # type: ignore[no-untyped-call]
            if job.pull is not None:
                job.pull.add(flat=isinstance(self._optimizer, Sgd))
            stepper.step()
            job.tally.add(loss, output, y)

    def _differentiate(self, job: _Job) -> None:
        self._flat.gradient.zero_()
        total = job.labels.counted(widened(job.targets))
        for batch in job.batches:
            x, y = select(job.features, job.targets, batch)
            output = outputs_of(self._flat.module, x)
            job.tally.check(output)
            loss = self._loss(output, y)
            if counted := job.labels.counted(y):
                (loss * (counted / total)).backward()  # type: ignore[no-untyped-call]
            job.tally.add(loss, output, y)

    def _find_chain(self) -> Chain | None:
        # Metrics and losses of the user's own are functions of tensors.
        plain = isinstance(self._optimizer, Sgd) and not self._metrics and self._update == "delta"
        return Chain.of(self._flat, self._loss) if plain else None

    def _named_metrics(self, targets: torch.Tensor, labels: Labels) -> Mapping[str, BatchMean]:
        if self._metrics is not None:
            return self._metrics
        return {} if targets.is_floating_point() else {"accuracy": partial(accuracy, ignored=labels.ignored)}


def trained_module(module: nn.Module, buffers: Buffers, device: str, trainable: Trainable) -> FlatModule:
    """The flat module of a training, in training mode.

    Args:
        module: The user's module.
        buffers: Which buffers are in the vector.
        device: "cpu", "cuda" or "cuda:1".
        trainable: Which parameters are in the vector.

    Raises:
        ConfigError: Nothing of the module is trained.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        reason = "all its parameters are frozen" if any(True for _ in module.parameters()) else "it has no parameters"
        raise ConfigError(
            f"there is nothing to train in this {type(module).__name__}: {reason}. Call requires_grad_(True) on what "
            "is trained"
        )
    flat = FlatModule(module, buffers=buffers, device=open_device(device), trainable=trainable)
    flat.train()
    return flat


@dataclass(frozen=True, slots=True)
class _Job:
    """One client's training: its examples, the numbers of each minibatch, its reports, the round, and corrections."""

    features: torch.Tensor
    targets: torch.Tensor
    batches: list[npt.NDArray[np.intp]]
    labels: Labels
    tally: Tally
    round: int
    pull: Pull | None
