"""Checks of a client's labels against the loss and the module's output: handled as torch does, or refused with the fix.

No message holds a label: errors name the client, a count, and what is allowed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from privfl.adapters.torch.losses import IGNORED, BatchMean, binary_cross_entropy, cross_entropy, squared_error
from privfl.errors import ConfigError
from privfl.wire import ClientId

Family = Literal["classes", "binary", "values", "own"]

_CLASSES: Final[tuple[Any, ...]] = (cross_entropy, functional.cross_entropy, functional.nll_loss)


@functools.lru_cache(maxsize=64)
def family(loss: BatchMean) -> Family:
    """The targets that a loss takes: class numbers, 0 and 1, values, or what only its author knows ("own")."""
    if loss in _CLASSES or isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return "classes"
    if loss is binary_cross_entropy:
        return "binary"
    return "values" if loss is squared_error else "own"


@functools.lru_cache(maxsize=64)
def ignored_label(loss: BatchMean) -> int | None:
    """The class number that a loss leaves out; None where it is not known to leave one out."""
    index = getattr(loss, "ignore_index", getattr(loss, "keywords", {}).get("ignore_index"))
    if index is None and family(loss) == "classes":
        return IGNORED
    return None if index is None else int(index)


@dataclass(frozen=True, slots=True)
class Labels:
    """The facts of one client's targets that the checks need, looked up once.

    Attributes:
        client: The client that holds them; errors name it.
        kind: The family of the loss.
        integer: Whether they are integers or booleans.
        low: The smallest one that counts; None where none counts.
        high: The largest one that counts.
        ignored: The class number that is left out, where the targets hold it.
        shape: `[n, ...]`.
        outside: Counts the targets outside a range, when an error needs it.
    """

    client: ClientId
    kind: Family
    integer: bool
    low: float | None
    high: float | None
    ignored: int | None
    shape: tuple[int, ...]
    outside: Callable[[int, int], int]

    @classmethod
    def of(cls, loss: BatchMean, targets: torch.Tensor | npt.NDArray[Any], client: ClientId) -> Labels:
        """Look at all targets of a client.

        Args:
            loss: The loss, which decides what is allowed.
            targets: `[n, ...]`, integers widened.
            client: Whose they are.
        """
        kind, integer = family(loss), not _is_float(targets)
        if integer and isinstance(targets, torch.Tensor):
            targets = targets.long()
        skipped = ignored_label(loss) if integer else None
        counted, found, low, high = targets, None, None, None
        needed = kind == "binary" or (integer and kind != "values")
        if needed and 0 not in targets.shape:
            low, high = _range(targets)
        # Nothing is ignored where the label that would be is not between the smallest and the largest.
        if skipped is not None and low is not None and high is not None and low <= skipped <= high:
            kept = targets != skipped
            if not bool(kept.all()):
                counted, found, low, high = targets[kept], skipped, None, None
                if 0 not in counted.shape:
                    low, high = _range(counted)

        def outside(first: int, last: int) -> int:
            inside = (counted >= first) & (counted <= last)
            return math.prod(counted.shape) - int(inside.sum())

        return cls(client, kind, integer, low, high, found, tuple(targets.shape), outside)

    def counted(self, targets: torch.Tensor) -> int:
        """The weight of a batch with these targets in a mean: its examples, or the labels that are not ignored."""
        return len(targets) if self.ignored is None else int((targets != self.ignored).sum())

    def check(self, output: tuple[int, ...]) -> None:
        """Compare with the shape of the module's output for a batch.

        Args:
            output: `[batch, ...]`.

        Raises:
            ConfigError: The loss cannot be computed, or would learn something else than the labels say.
        """
        rest, row = self.shape[1:], output[1:]
        if self.kind == "classes":
            self._check_classes(output)
        elif self.kind == "binary":
            self._check_binary()
        elif self.kind == "own" and self.integer and len(output) > 1 and output[2:] == rest and row[0] > 1:
            self._check_range(row[0], "; set loss=nn.CrossEntropyLoss(ignore_index=...) to leave a label out")

    def check_scored(self, output: tuple[int, ...]) -> None:
        """The same, where an accuracy is computed from integers and a loss of the user's own.

        Raises:
            ConfigError: The labels of two classes are neither 0 and 1 nor -1 and 1.
        """
        self.check(output)
        single = math.prod(output[1:]) == math.prod(self.shape[1:])
        if self.kind != "own" or not self.integer or not single or self.low is None or self.high is None:
            return
        mixed = self.low < 0 and self.outside(0, 0) < _size(self.shape)  # -1, 0 and 1
        if self.low < -1 or self.high > 1 or mixed:
            raise ConfigError(
                f"client {self.client} has labels of two classes that are not written as 0 and 1, or as -1 and 1: "
                "write them as 0 and 1"
            )

    def _check_classes(self, output: tuple[int, ...]) -> None:
        rest, row = self.shape[1:], output[1:]
        if not self.integer:
            if row != rest:
                raise ConfigError(
                    f"client {self.client}: this loss takes class numbers as integers, and the targets are floating "
                    "point: convert them with astype('int64'), or use loss=squared_error for values"
                )
            return
        if not row or row[0] == 1 or row == rest:
            raise ConfigError(
                f"the module gives outputs of shape [n{_listed(row)}], and this loss needs one for each class: set "
                "loss=binary_cross_entropy for two classes under one output"
            )
        if row[1:] != rest:
            raise ConfigError(
                f"client {self.client} has targets of shape [n{_listed(rest)}], and the module's outputs of shape "
                f"[n{_listed(row)}] need [n{_listed(row[1:])}]: reshape the targets"
            )
        self._check_range(row[0], f"; the label {IGNORED} is left out by cross_entropy")

    def _check_binary(self) -> None:
        if self.low is None or self.high is None or (self.low >= 0 and self.high <= 1):
            return
        if not self.integer:
            raise ConfigError(
                f"binary_cross_entropy takes targets from 0 to 1; {self.outside(0, 1)} of client {self.client} are "
                "outside: write the classes as 0 and 1, or use loss=squared_error for values"
            )
        remedy = {
            (-1, 1): "labels of -1 and 1 become 0 and 1 by (y + 1) // 2",
            (1, 2): "labels that count from 1 become 0 and 1 by y - 1",
        }.get((int(self.low), int(self.high)), "write the two classes as 0 and 1")
        raise ConfigError(
            f"binary_cross_entropy takes the labels 0 and 1; {self.outside(0, 1)} labels of client {self.client} are "
            f"others: {remedy}"
        )

    def _check_range(self, classes: int, further: str) -> None:
        if self.low is None or self.high is None or (self.low >= 0 and self.high < classes):
            return
        remedy = f"number the classes from 0 to {classes - 1}{further}"
        if self.low >= 1 and self.high == classes:
            remedy = "labels that count from 1 become right by y - 1"
        raise ConfigError(
            f"{self.outside(0, classes - 1)} labels of client {self.client} are outside the classes 0 to {classes - 1} "
            f"of the module's {classes} outputs: {remedy}"
        )


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def _listed(shape: tuple[int, ...]) -> str:
    return "".join(f", {size}" for size in shape)


def _range(values: torch.Tensor | npt.NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest value."""
    if isinstance(values, torch.Tensor):
        return tuple(end.item() for end in torch.aminmax(values))  # type: ignore[return-value]
    flat = values.reshape(-1)
    return float(np.minimum.reduce(flat)), float(np.maximum.reduce(flat))


def _is_float(targets: torch.Tensor | npt.NDArray[Any]) -> bool:
    return targets.is_floating_point() if isinstance(targets, torch.Tensor) else targets.dtype.kind == "f"
