"""Gradients of single examples of a torch module, for sums over examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from privfl.adapters.torch.buffers import copied
from privfl.adapters.torch.examples import TensorRows, check_rows, examples_of, to_tensor
from privfl.adapters.torch.layout import Layout
from privfl.adapters.torch.losses import BatchMean, cross_entropy
from privfl.adapters.torch.state import Turn, borrowed, prepare_process
from privfl.adapters.torch.train import trained_module
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.people import Persons, parts_of, people_of
from privfl.wire import ClientId

_ENTRIES: Final = 1 << 22
"""Entries of the gradients that are handed over at one time."""


class TorchExamples:
    """An `ExampleGradients` of a torch module.

    Examples go through the module one by one. In a batch, torch's kernels round an example's numbers differently from
    place to place. One example more would then change the integers of others, and no clip bounds that. Frozen
    parameters are not sent, and no buffer is.

    Args:
        module: The user's module, which is left alone.
        rows: Maps a client to its (features, targets).
        loss: The loss of a batch, which is asked for one example at a time.
        persons: Client -> the person of each of its examples; None counts each example by itself.
        device: "cpu", "cuda" or "cuda:1".
        threads: The number of torch's threads; None takes as many as torch has.

    Raises:
        ConfigError: The module has layers that mix the examples of a batch, or draw coins; or nothing to train.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: TensorRows,
        *,
        loss: BatchMean = cross_entropy,
        persons: Persons | None = None,
        device: str = "cpu",
        threads: int | None = 1,
    ) -> None:
        self._rows, self._loss, self._persons = check_rows(rows), loss, persons
        self._device, self._threads = device, threads
        self._turn = Turn()
        prepare_process(threads)
        self._module = copied(module)
        _check_layers(self._module)
        self._flat = trained_module(self._module, "local", device, "only")
        self._first = self._flat.layout.flatten(self._flat.module)

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

    def people(self, client: ClientId) -> int:
        """See `ExampleGradients.people`."""
        return people_of(self._persons, client, len(examples_of(self._rows, client, self._flat.module)[1]))

    def gradients(
        self, model: Vector, client: ClientId, chosen: npt.NDArray[np.intp]
    ) -> Iterator[npt.NDArray[np.floating[Any]]]:
        """See `ExampleGradients.gradients`.

        Args:
            model: The global model, float `[size]`.
            client: The client.
            chosen: The numbers of the people.
        """
        with self._turn:
            prepare_process(self._threads, self._flat.device)
            features, targets = (
                to_tensor(part, self._flat) for part in examples_of(self._rows, client, self._flat.module)
            )
            self._flat.load(model)
            self._flat.watch(flat=False)
            size = max(1, _ENTRIES // self.layout.size)
            for part in parts_of(self._persons, client, len(targets), chosen, size):
                with borrowed(self._threads, self._flat.device):
                    found = [self._of_one(features, targets, int(example)) for example in part.examples]
                yield part.sums(np.stack(found))

    def _of_one(self, features: torch.Tensor, targets: torch.Tensor, example: int) -> npt.NDArray[np.floating[Any]]:
        """The gradient of one example, `[size]`."""
        index = torch.tensor([example], device=self._flat.device)
        # A copy has the same alignment for every example.
        output = self._flat.module(features.index_select(0, index))
        loss = self._loss(output, targets.index_select(0, index))
        found = torch.autograd.grad(loss, self._flat.trained, allow_unused=True, materialize_grads=True)
        gradient: npt.NDArray[np.floating[Any]] = torch.cat([part.reshape(-1) for part in found]).cpu().numpy()
        return gradient


def _check_layers(module: nn.Module) -> None:
    """Raise `ConfigError` for layers by which one example enters the gradient of another, or that draw coins."""
    for name, layer in module.named_modules():
        where = f"{name or 'the module'} is a {type(layer).__name__}"
        if isinstance(layer, _BatchNorm) and any(p.requires_grad for p in layer.parameters()):
            raise ConfigError(f"{where}, which mixes the examples of a batch: use GroupNorm")
        if isinstance(layer, _DropoutNd) and layer.p > 0:
            raise ConfigError(
                f"{where}, which draws coins for each batch, so an example has no gradient of its own: set p = 0"
            )
