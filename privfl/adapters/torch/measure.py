"""A `Measure`: the loss and the metrics of a model on a client's own examples."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from privfl.adapters.torch.buffers import Buffers, is_frozen
from privfl.adapters.torch.examples import TensorRows, check_rows, examples_of, outputs_of, to_tensor, widened
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.labels import Labels
from privfl.adapters.torch.layout import Trainable
from privfl.adapters.torch.losses import BatchMean, cross_entropy
from privfl.adapters.torch.state import Turn, borrowed, open_device, prepare_process
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.metrics import MetricSums, measure_predictions, measure_scores
from privfl.wire import ClientId


class TorchMeasure:
    """Sums over each client's own test examples, `batch_size` at a time, in evaluation mode.

    Class numbers that a loss is known to ignore (-100, or its `ignore_index`) do not count.

    Args:
        module: The module, as `TorchTrain` has it.
        rows: Maps a client to its (features, targets).
        task: "classification": the module gives logits `[n]` (binary), `[n, outputs]`, or for sequences
            `[n, outputs, length]`, of which every position counts as an example; targets are `[n]` or `[n, length]`.
            "regression": as many predictions as targets.
        loss: A mean over examples.
        buffers: Which buffers are in the vector.
        calibration: With `buffers="local"` a module with BatchNorm needs examples of the same client (its training
            examples), from which the statistics are estimated, because no client keeps any.
        trainable: Which parameters are in the vector.
        batch_size: The number of examples that are computed at a time.
        device: "cpu", "cuda" or "cuda:1".
        threads: The number of torch's threads; None takes as many as torch has.

    Raises:
        ConfigError: A parameter is outside its range; or, when called, a shared running variance is negative, or the
            examples do not fit the module or the loss.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: TensorRows,
        *,
        task: Literal["classification", "regression"] = "classification",
        loss: BatchMean = cross_entropy,
        buffers: Buffers = "shared",
        calibration: TensorRows | None = None,
        trainable: Trainable = "only",
        batch_size: int = 1024,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        if task not in ("classification", "regression"):
            raise ConfigError(f"task must be 'classification' or 'regression', not {task!r}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self._rows, self._calibration, self._task, self._loss = check_rows(rows), calibration, task, loss
        self._batch_size, self._threads, self._buffers = batch_size, threads, buffers
        prepare_process(threads)
        self._turn = Turn()
        self._flat = FlatModule(module, buffers=buffers, device=open_device(device), trainable=trainable)
        self._norms = [
            (name, part)
            for name, part in self._flat.module.named_modules()
            if isinstance(part, _BatchNorm)
            and part.running_var is not None
            and not (trainable == "only" and is_frozen(part))
        ]
        if self._norms and buffers == "local" and calibration is None:
            raise ConfigError("a module with BatchNorm whose statistics are local needs calibration rows")

    @torch.no_grad()
    def __call__(self, model: Vector, client: ClientId) -> MetricSums:
        """The sums of `model` (float `[size]`) over the examples of `client`."""
        flat = self._flat
        prepare_process(self._threads, flat.device, trains=False)
        features, targets = (to_tensor(part, flat) for part in examples_of(self._rows, client, flat.module))
        with self._turn, borrowed(self._threads, self._flat.device):
            flat.load(model)
            flat.module.eval()
            if self._calibration is not None and self._buffers == "local":
                self._calibrate(to_tensor(examples_of(self._calibration, client, flat.module)[0], flat))
            for name, norm in self._norms:
                if norm.running_var is not None and bool((norm.running_var < 0).any()):
                    raise ConfigError(f"the running variance of {name} is negative: use buffers='local' or GroupNorm")
            outputs, losses = self._predict(features, targets, client)
        values = targets.reshape(-1).cpu().numpy()
        if outputs.numel() == targets.numel():
            columns = outputs.reshape(-1, 1)
        else:
            columns = outputs[:, None] if outputs.dim() == 1 else outputs.movedim(1, -1)
        scores = columns.reshape(-1, columns.shape[-1]).double().cpu().numpy()
        if self._task == "regression":
            return measure_predictions(scores[:, 0], values.astype(np.float64))
        ignored = Labels.of(self._loss, targets, client).ignored
        if ignored is not None:
            scores, values = scores[values != ignored], values[values != ignored]
        if scores.shape[1] == 1:  # two classes: 1 and 0, or 1 and -1, or probabilities of 1
            values = (values > (0.5 if values.dtype.kind == "f" else 0)).astype(np.int64)
        return measure_scores(scores, values, losses)

    def _predict(
        self, features: torch.Tensor, targets: torch.Tensor, client: ClientId
    ) -> tuple[torch.Tensor, np.ndarray]:
        outputs, losses = [], []
        labels = Labels.of(self._loss, targets, client)
        for start in range(0, max(1, len(features)), self._batch_size):
            x, y = (widened(part[start : start + self._batch_size]) for part in (features, targets))
            output = outputs_of(self._flat.module, x)
            if self._task == "classification":
                labels.check_scored(tuple(output.shape))
            elif output.numel() != y.numel():
                raise ConfigError(
                    f"a regression needs one prediction for each target; the module gives {tuple(output.shape)} for "
                    f"targets {tuple(y.shape)}"
                )
            outputs.append(output)
            counted = y.numel() if labels.ignored is None else labels.counted(y)
            if counted:
                losses.append(np.full(counted, self._loss(output, y).item()))
        return torch.cat(outputs), np.concatenate([np.zeros(0), *losses])

    def _calibrate(self, features: torch.Tensor) -> None:
        """Plain averages of the batch statistics over `features`; a single row has no variance, and changes nothing."""
        rates = [norm.momentum for _, norm in self._norms]
        for _, norm in self._norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for start in range(0, len(features), self._batch_size):
            part = widened(features[start : start + self._batch_size])
            if len(part) > 1:
                self._flat.module(part)
        for (_, norm), rate in zip(self._norms, rates, strict=True):
            norm.momentum = rate
            norm.eval()
