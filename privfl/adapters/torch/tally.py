"""The means of loss and metrics over the batches of one client's training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from privfl.adapters.torch.labels import Labels
from privfl.adapters.torch.losses import BatchMean, accuracy


class Tally:
    """Batch means, kept on their device until the end: a GPU need not wait for them.

    Args:
        metrics: The metrics next to the loss.
        labels: The facts of the targets.
    """

    def __init__(self, metrics: Mapping[str, BatchMean], labels: Labels) -> None:
        self._metrics, self._labels = metrics, labels
        self._scored = any(isinstance(metric, partial) and metric.func is accuracy for metric in metrics.values())
        self._checked = False
        self._sizes: list[int] = []
        self._values: dict[str, list[torch.Tensor]] = {name: [] for name in ("loss", *metrics)}

    def check(self, output: torch.Tensor) -> None:
        """Compare the labels with the first output."""
        if not self._checked and isinstance(output, torch.Tensor):
            shape = tuple(output.shape)
            self._labels.check_scored(shape) if self._scored else self._labels.check(shape)
        self._checked = True

    def add(self, loss: torch.Tensor, output: torch.Tensor, targets: torch.Tensor) -> None:
        """Add one batch.

        Args:
            loss: Its mean loss.
            output: The module's output.
            targets: Its targets.
        """
        self._sizes.append(self._labels.counted(targets))
        self._values["loss"].append(loss.detach())
        if self._metrics:
            output = output.detach()
            for name, metric in self._metrics.items():
                self._values[name].append(metric(output, targets))

    def means(self) -> dict[str, float]:
        """The means over what counts; none where every label is ignored."""
        total = sum(self._sizes)
        if not total:
            return {}
        return {
            name: sum(value.item() * size for value, size in zip(values, self._sizes, strict=True) if size) / total
            for name, values in self._values.items()
        }
