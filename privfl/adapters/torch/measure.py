"""What a model is worth on a client's own rows: a `Measure`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.layout import Buffers
from privfl.adapters.torch.losses import BatchMean, cross_entropy
from privfl.adapters.torch.state import borrowed, prepare_process
from privfl.adapters.torch.train import TensorRows, open_device, to_tensor, widened
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.metrics import MetricSums, measure_predictions, measure_scores
from privfl.wire import ClientId


class TorchMeasure:
    """Sums over each client's own test rows, `batch_size` at a time, in evaluation mode.

    `task="classification"`: the module gives logits `[n]` (binary), `[n, outputs]`, or for sequences
    `[n, outputs, length]`, of which every position counts as a row; targets are `[n]` or `[n, length]`.
    "regression": predictions `[n]` or `[n, 1]`. `loss` is a mean over rows. With `buffers="local"` a module with
    BatchNorm needs `calibration`: rows of the same client (its training rows) from which the statistics are
    estimated anew, since no client keeps any. Raises `ConfigError` when a shared running variance has become negative.
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
        batch_size: int = 1024,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        if task not in ("classification", "regression"):
            raise ConfigError(f"task must be 'classification' or 'regression', not {task!r}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self._rows, self._calibration, self._task, self._loss = rows, calibration, task, loss
        self._batch_size, self._threads, self._buffers = batch_size, threads, buffers
        prepare_process(threads)
        self._flat = FlatModule(module, buffers=buffers, device=open_device(device))
        self._norms = [
            (name, part)
            for name, part in self._flat.module.named_modules()
            if isinstance(part, _BatchNorm) and part.running_var is not None
        ]
        if self._norms and buffers == "local" and calibration is None:
            raise ConfigError("a module with BatchNorm whose statistics are local needs calibration rows")

    @torch.no_grad()
    def __call__(self, model: Vector, client: ClientId) -> MetricSums:
        """The sums of `model` (float `[size]`) over the rows of `client`."""
        flat = self._flat
        prepare_process(self._threads, flat.device)
        features, targets = (to_tensor(part, flat) for part in self._rows(client))
        flat.load(model)
        flat.module.eval()
        with borrowed(self._threads):
            if self._calibration is not None and self._buffers == "local":
                self._calibrate(to_tensor(self._calibration(client)[0], flat))
            for name, norm in self._norms:
                if norm.running_var is not None and bool((norm.running_var < 0).any()):
                    raise ConfigError(f"the running variance of {name} is negative: use buffers='local' or GroupNorm")
            outputs, losses = self._predict(features, targets)
        labels = targets.reshape(-1).cpu().numpy()
        columns = outputs[:, None] if outputs.dim() == 1 else outputs.movedim(1, -1)
        scores = columns.reshape(-1, columns.shape[-1]).double().cpu().numpy()
        if self._task == "regression":
            return measure_predictions(scores[:, 0], labels.astype(np.float64))
        return measure_scores(scores, labels, losses)

    def _predict(self, features: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        outputs, losses = [], []
        for start in range(0, max(1, len(features)), self._batch_size):
            x, y = (widened(part[start : start + self._batch_size]) for part in (features, targets))
            output = self._flat.module(x)
            outputs.append(output)
            if len(y):
                losses.append(np.full(y.numel(), self._loss(output, y).item()))
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
