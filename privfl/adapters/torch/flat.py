"""A module whose tensors are views of one flat vector: loading is one copy, a step of SGD one operation."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from privfl.adapters.torch.layout import Buffers, Layout
from privfl.codec import Vector
from privfl.errors import ConfigError


class FlatModule:
    """A copy of `module` on `device`, bound to a flat tensor `values` `[size]`.

    `gradient` `[parameters]` is what backward passes add to, once `watch` was called; `runs` are the pieces of both
    that are trained, frozen parameters being the gaps between them. Whatever state of the module is not in the vector
    is put back to its first value by every `load`.
    """

    def __init__(self, module: nn.Module, *, buffers: Buffers, device: torch.device) -> None:
        self.module = copy.deepcopy(module).to(device)
        self.layout = Layout.of(self.module, buffers=buffers)
        self.device = device
        bound = self.layout.tensors(self.module)
        dtype = torch.float32 if self.layout.dtype == np.float32 else torch.float64
        self.values = torch.empty(self.layout.size, dtype=dtype, device=device)
        self.gradient = torch.zeros(self.layout.parameters, dtype=dtype, device=device)
        self.trained: list[nn.Parameter] = []
        self.spans: list[tuple[int, int]] = []
        self._gradients: list[torch.Tensor] = []
        for entry, tensor in bound:
            view = self.values[entry.start : entry.stop].view(entry.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                self._add_trained(tensor, entry.start, entry.stop)
        self.runs = [(self.values[start:stop], self.gradient[start:stop]) for start, stop in self.spans]
        # On the CPU this is the memory of `values` itself; elsewhere a model passes through it.
        self._host = self.values.numpy() if device.type == "cpu" else np.empty(self.layout.size, self.layout.dtype)
        self._homes = self._find_homes()
        shared = {id(tensor) for _, tensor in bound}
        self._local = [
            (tensor, tensor.detach().clone()) for tensor in self.module.buffers() if id(tensor) not in shared
        ]

    def load(self, model: Vector) -> None:
        """Take over `model` `[size]`, float32 or float64; raises `ConfigError` for another shape."""
        np.copyto(self._host, self.layout.checked(model), casting="same_kind")
        if self.device.type != "cpu":
            self.values.copy_(torch.from_numpy(self._host))
        for tensor, first in self._local:
            tensor.copy_(first)

    def change(self, model: Vector) -> Vector:
        """The present values minus those that `load(model)` put there, as a new array `[size]`."""
        start = model.astype(self.layout.dtype, copy=False)
        return np.asarray((self._host if self.device.type == "cpu" else self.values.cpu().numpy()) - start)

    def watch(self, flat: bool) -> None:
        """Let gradients be views of `gradient` (`flat`), or tensors of their own as torch makes them."""
        for parameter, gradient in zip(self.trained, self._gradients, strict=True):
            parameter.grad = gradient if flat else None

    def gradients(self) -> dict[int, torch.Tensor]:
        """The view of `gradient` for each trained parameter, by its id."""
        return {id(parameter): view for parameter, view in zip(self.trained, self._gradients, strict=True)}

    def check(self, flat: bool) -> None:
        """Raise `ConfigError` if the training has put new tensors in the place of these views."""
        for owner, name, tensor in self._homes:
            if getattr(owner, name) is not tensor:
                raise ConfigError(f"the module replaced its tensor {name!r} during training; change it in place")
        if flat and any(p.grad is not g for p, g in zip(self.trained, self._gradients, strict=True)):
            raise ConfigError("the module replaced or dropped a gradient; use an optimizer of torch.optim for it")

    def unbound(self) -> nn.Module:
        """An independent copy of the module with its present values."""
        module = copy.deepcopy(self.module)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
            tensor.grad = None
        return module

    def _add_trained(self, parameter: nn.Parameter, start: int, stop: int) -> None:
        self.trained.append(parameter)
        self._gradients.append(self.gradient[start:stop].view(parameter.shape))
        if self.spans and self.spans[-1][1] == start:
            start = self.spans.pop()[0]
        self.spans.append((start, stop))

    def _find_homes(self) -> list[tuple[nn.Module, str, torch.Tensor]]:
        homes = []
        for path, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            owner, _, name = path.rpartition(".")
            homes.append((self.module.get_submodule(owner), name, tensor))
        return homes
