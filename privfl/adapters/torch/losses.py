"""Losses and metrics as means over the examples of a batch: (output of the module, targets) -> scalar tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch.nn import functional

from privfl.errors import ConfigError

BatchMean = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

IGNORED: Final = -100
"""The class number that `cross_entropy` leaves out, as torch's does."""


def cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Softmax cross-entropy in nats.

    Args:
        output: Logits `[n, classes, ...]`.
        targets: Class numbers `[n, ...]`, of which -100 is left out; or probabilities of the classes.
    """
    return functional.cross_entropy(output, targets)


def binary_cross_entropy(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logistic loss in nats.

    Args:
        output: As many logits as targets.
        targets: 0 and 1, or probabilities.
    """
    flat = matched(output, targets)
    return functional.binary_cross_entropy_with_logits(flat, targets.to(flat.dtype))


def squared_error(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Half the mean squared error, as `LinearModel` has it.

    Args:
        output: As many predictions as targets.
        targets: Values.
    """
    flat = matched(output, targets)
    return 0.5 * functional.mse_loss(flat, targets.to(flat.dtype))


def accuracy(output: torch.Tensor, targets: torch.Tensor, *, ignored: int | None = None) -> torch.Tensor:
    """The fraction of targets whose class has the largest logit; of one logit for each target, whose sign is right.

    Args:
        output: Logits `[n, classes, ...]`, or as many as targets.
        targets: Class numbers `[n, ...]`.
        ignored: A class number that does not count.

    Raises:
        ConfigError: The shapes do not fit each other.
    """
    if output.numel() == targets.numel():
        return ((output.reshape(targets.shape) > 0) == (targets > 0)).mean(dtype=torch.float32)
    predicted = output.argmax(1)
    if predicted.shape != targets.shape:
        raise ConfigError(
            f"accuracy needs logits [n, classes, ...] and targets [n, ...], not {tuple(output.shape)} and "
            f"{tuple(targets.shape)}: give `metrics` of your own, or metrics={{}}"
        )
    right = predicted == targets
    return (right if ignored is None else right[targets != ignored]).mean(dtype=torch.float32)


def matched(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`output` in the shape of `targets`: nothing is broadcast.

    Args:
        output: The module's output.
        targets: The targets.

    Raises:
        ConfigError: The numbers of outputs and of targets differ.
    """
    if output.numel() != targets.numel():
        raise ConfigError(
            f"the module gives outputs of shape {tuple(output.shape)} for targets of shape {tuple(targets.shape)}: "
            "this loss needs one output for each target"
        )
    return output.reshape(targets.shape)
