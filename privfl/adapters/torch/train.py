"""Local training of a torch module: a `Train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privfl.adapters.torch.chain import Chain
from privfl.adapters.torch.chain import accuracy as chain_accuracy
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.layout import Buffers, Layout
from privfl.adapters.torch.losses import BatchMean, accuracy, cross_entropy
from privfl.adapters.torch.optim import FlatStep, OptimizerFactory, Sgd, TorchStep, check_rate
from privfl.adapters.torch.state import borrowed, prepare_process, seeded
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.linear import minibatches
from privfl.wire import ClientId

Array = npt.NDArray[Any] | torch.Tensor
TensorRows = Callable[[ClientId], tuple[Array, Array]]
"""Client -> its (features `[n, ...]`, targets `[n, ...]`), as numpy arrays or tensors."""


class TorchTrain:
    """Trains a copy of `module` at each client, from the vector it is given.

    Runs `steps` minibatches, or `epochs` shuffled passes when steps is None, of `batch_size` rows (None: all rows),
    with `optimizer`: an `Sgd`, or any function from parameters to an optimizer of torch's. `learning_rate`, where
    given, maps the round to the rate that replaces the optimizer's own. `loss` is a mean over rows; `metrics` are
    reported beside it as means over all rows seen in training, each as it was when seen (by default accuracy, if
    targets are integers). `update="gradient"` is FedSGD: the delta of a parameter is minus the gradient of the mean
    loss over all rows, taken `batch_size` rows at a time with no step in between.

    `buffers`: see `layout`. All of torch's randomness comes from the client's own generator, and torch's global state
    is as before afterwards. With `threads=1` (None: as many as torch has) a CPU training is repeatable bit by bit.
    A client that holds no rows returns a zero delta and no metrics. NaN goes into the delta; the codec refuses it.
    Raises `ConfigError` for parameters outside their range.
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
        update: Literal["delta", "gradient"] = "delta",
        buffers: Buffers = "shared",
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        counts = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "threads": threads}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if update not in ("delta", "gradient"):
            raise ConfigError(f"update must be 'delta' or 'gradient', not {update!r}")
        self._rows, self._optimizer, self._learning_rate = rows, optimizer, learning_rate
        self._loss, self._metrics = loss, metrics
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._update, self._threads = update, threads
        prepare_process(threads)
        self._flat = _trained(module, buffers, device)
        self._first = self.layout.flatten(self._flat.module)
        self._chain = self._find_chain()

    @property
    def layout(self) -> Layout:
        """Where each tensor lies in the vector."""
        return self._flat.layout

    def initial(self) -> Vector:
        """The vector `[size]` of the module as it was handed over."""
        return self._first.copy()

    def module(self, model: Vector) -> nn.Module:
        """An independent module with the values of `model`, in evaluation mode: to predict with, or to save."""
        self._flat.load(model)
        return self._flat.unbound().eval()

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train `client` from `model` (float `[size]`)."""
        prepare_process(self._threads, self._flat.device)
        features, targets = self._rows(client)
        count = targets.shape[0]
        if features.shape[0] != count:
            raise ConfigError(f"client {client} has {features.shape[0]} rows of features and {count} targets")
        self._flat.load(model)
        if not count:
            return ClientUpdate(np.zeros(len(model), self.layout.dtype), 0)
        whole = self._update == "gradient"
        batches = minibatches(
            count, self._batch_size, 1 if whole else self._epochs, None if whole else self._steps, rng
        )
        if isinstance(features, np.ndarray) and isinstance(targets, np.ndarray):
            metrics = self._follow(features, targets, batches, round)
            if metrics is not None:
                return ClientUpdate(self._flat.change(model), count, metrics)
        x, y = to_tensor(features, self._flat), to_tensor(targets, self._flat)
        job = _Job(x, y, batches, _Tally(self._named_metrics(y)), round)
        with borrowed(self._threads), seeded(int(rng.integers(1 << 63)), self._flat.device):
            self._record(job)
        delta = self._flat.change(model)
        if whole:
            delta[: self.layout.parameters] = -self._flat.gradient.cpu().numpy()
        return ClientUpdate(delta, count, job.tally.means())

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned worker: views of one tensor would each bring the whole of it along."""
        buffers, device = self.layout.buffers, str(self._flat.device)
        return {**self.__dict__, "_flat": (self.module(self._first), buffers, device), "_chain": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module, buffers, device = state["_flat"]
        self.__dict__.update(state, _flat=_trained(module, buffers, device))
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
        features: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        batches: list[npt.NDArray[np.intp]],
        round: int,
    ) -> dict[str, float] | None:
        """Train a chain in closed form; returns the metrics, or None where autograd has to do it."""
        chain = self._chain
        if chain is None or not chain.takes(features, targets, len(batches[0])):
            return None
        features, step = chain.prepare(features), self._step(round).step
        rule, rate = self._optimizer, self._rate(round)
        if isinstance(rule, Sgd) and not (rule.momentum or rule.weight_decay):
            step = partial(chain.descend, rate or rule.learning_rate)
        scored = self._metrics is None and targets.dtype.kind != "f"
        rows, loss_sum, right_sum = 0, 0.0, 0.0
        with np.errstate(all="ignore"):  # an overflow shows in the delta, as it does with torch
            for batch in batches:
                whole = len(batch) == len(targets)  # all rows need no copy, whatever their order
                x, y = (features, targets) if whole else (features[batch], targets[batch])
                loss, output = chain.gradient(x, y)
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
            output = module(x)
            loss = loss_of(output, y)
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step()
            job.tally.add(loss, output, y, len(batch))

    def _differentiate(self, job: _Job) -> None:
        self._flat.gradient.zero_()
        for batch in job.batches:
            x, y = select(job.features, job.targets, batch)
            output = self._flat.module(x)
            loss = self._loss(output, y)
            (loss * (len(batch) / job.targets.shape[0])).backward()  # type: ignore[no-untyped-call]
            job.tally.add(loss, output, y, len(batch))

    def _find_chain(self) -> Chain | None:
        # Metrics and losses of the user's own are functions of tensors.
        plain = isinstance(self._optimizer, Sgd) and not self._metrics and self._update == "delta"
        return Chain.of(self._flat, self._loss) if plain else None

    def _named_metrics(self, targets: torch.Tensor) -> Mapping[str, BatchMean]:
        if self._metrics is not None:
            return self._metrics
        return {} if targets.is_floating_point() else {"accuracy": accuracy}


def _trained(module: nn.Module, buffers: Buffers, device: str) -> FlatModule:
    flat = FlatModule(module, buffers=buffers, device=open_device(device))
    flat.module.train()
    return flat


@dataclass(frozen=True, slots=True)
class _Job:
    """One client's training: its rows, the row numbers of each minibatch, what is told of it, and the round."""

    features: torch.Tensor
    targets: torch.Tensor
    batches: list[npt.NDArray[np.intp]]
    tally: _Tally
    round: int


class _Tally:
    """Batch means, kept on their device until the end, so that a GPU need not wait for them."""

    def __init__(self, metrics: Mapping[str, BatchMean]) -> None:
        self._metrics = metrics
        self._sizes: list[int] = []
        self._values: dict[str, list[torch.Tensor]] = {name: [] for name in ("loss", *metrics)}

    def add(self, loss: torch.Tensor, output: torch.Tensor, targets: torch.Tensor, rows: int) -> None:
        self._sizes.append(rows)
        self._values["loss"].append(loss.detach())
        if self._metrics:
            output = output.detach()
            for name, metric in self._metrics.items():
                self._values[name].append(metric(output, targets))

    def means(self) -> dict[str, float]:
        total = sum(self._sizes)
        return {
            name: sum(value.item() * size for value, size in zip(values, self._sizes, strict=True)) / total
            for name, values in self._values.items()
        }


def select(
    features: torch.Tensor, targets: torch.Tensor, batch: npt.NDArray[np.intp]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of one minibatch; all of them need no copy, whatever their order. Integers become int64."""
    if len(batch) < targets.shape[0]:
        index = torch.from_numpy(batch).to(features.device)
        features, targets = features.index_select(0, index), targets.index_select(0, index)
    return widened(features), widened(targets)


def widened(values: torch.Tensor) -> torch.Tensor:
    """Integers as int64, which embeddings and class numbers have to be; floats as they are."""
    return values if values.is_floating_point() else values.long()


def to_tensor(values: Array, flat: FlatModule) -> torch.Tensor:
    """An array as a tensor on the module's device; floats in the module's own precision."""
    if isinstance(values, np.ndarray):
        writable = values if values.flags.writeable and values.flags.c_contiguous else values.copy()
        values = torch.from_numpy(writable)
    if values.is_floating_point():
        return values.to(flat.device, flat.values.dtype)
    return values.to(flat.device)


def open_device(name: str) -> torch.device:
    """The device of that name; raises `ConfigError` unless it is "cpu", or a "cuda" that this machine has."""
    kind, _, index = name.partition(":")
    if kind == "cuda" and torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count():
        return torch.device(name)
    if name != "cpu":
        raise ConfigError(f"device must be 'cpu' or a 'cuda' that torch finds on this machine, not {name!r}")
    return torch.device("cpu")
