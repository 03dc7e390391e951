"""Losses and metrics as means over the rows of a batch: (output of the module, targets) -> scalar tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

BatchMean = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy in nats: logits `[n, classes, ...]`, class numbers `[n, ...]`."""
    return functional.cross_entropy(output, targets)


def binary_cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logistic loss in nats: logits `[n]` or `[n, 1]`, targets `[n]` of 0 and 1."""
    flat = output.reshape(len(targets))
    return functional.binary_cross_entropy_with_logits(flat, targets.to(flat.dtype))


def squared_error(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error, as `LinearModel` has it: predictions `[n]` or `[n, 1]`, targets `[n]`."""
    flat = output.reshape(len(targets))
    return 0.5 * functional.mse_loss(flat, targets.to(flat.dtype))


def accuracy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of rows whose largest logit is the target's; of one logit a row, whose sign is."""
    if output.numel() == targets.numel():
        right = (output.reshape(targets.shape) > 0) == (targets > 0)
    else:
        right = output.argmax(1) == targets
    return right.mean(dtype=torch.float32)
