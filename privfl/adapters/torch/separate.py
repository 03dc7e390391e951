"""Losses that are means of the losses of single examples, as per-example clipping needs them."""

from __future__ import annotations

import torch
from torch.nn import functional

from privfl.adapters.torch.labels import Labels
from privfl.adapters.torch.losses import BatchMean, binary_cross_entropy, cross_entropy, squared_error
from privfl.errors import ConfigError

_TOLERANCE = 1e-3


class SeparateLoss:
    """A loss of a batch in which no example's part depends on another example.

    The losses of `privfl.adapters.torch` are such means, except where labels are ignored: then torch divides by the
    number of labels that count. Here each example is a mean over its own labels, and the batch is divided by the number
    of its examples. A loss of the user's own is computed example by example, and compared once with its value for a
    whole batch.

    Args:
        loss: A mean over examples.
        labels: The facts of the client's targets.
    """

    def __init__(self, loss: BatchMean, labels: Labels) -> None:
        self._loss, self._labels = loss, labels
        self._known = loss in (cross_entropy, functional.cross_entropy, binary_cross_entropy, squared_error)
        self._checked = False

    def __call__(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch.

        Args:
            output: The module's output `[n, ...]`.
            targets: `[n, ...]`.

        Raises:
            ConfigError: The labels do not fit, or the loss is no mean over examples.
        """
        first, self._checked = not self._checked, True
        if first:
            self._labels.check(tuple(output.shape))
        if self._known and self._labels.ignored is None:
            return self._loss(output, targets)
        if self._known:
            losses = functional.cross_entropy(output, targets, reduction="none").reshape(len(targets), -1).sum(1)
            counted = targets.ne(self._labels.ignored or 0).reshape(len(targets), -1).sum(1)
            mean: torch.Tensor = (losses / counted.clamp(min=1)).mean()
            return mean
        pairs = zip(torch.split(output, 1), torch.split(targets, 1), strict=True)
        mean = torch.stack([self._loss(*pair).reshape(()) for pair in pairs]).mean()
        if first:
            self._compare(mean.detach(), self._loss(output, targets).detach())
        return mean

    @staticmethod
    def _compare(mean: torch.Tensor, batch: torch.Tensor) -> None:
        """Raise `ConfigError` where the loss of a batch is not the mean of its examples' losses."""
        both = bool(torch.isfinite(mean)) and bool(torch.isfinite(batch))
        if both and bool((mean - batch).abs() > _TOLERANCE * (1 + mean.abs())):
            raise ConfigError(
                "the loss of a batch is not the mean of the losses of its examples, so one example would change the "
                "gradients of others: leave out class weights and ignored labels, and divide by the number of examples"
            )
