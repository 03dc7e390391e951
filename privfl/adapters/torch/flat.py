"""A module whose tensors are views of one flat vector: loading is one copy, a step of SGD one operation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from privfl.adapters.torch.buffers import (
    Buffers,
    Derived,
    constants,
    copied,
    free_norm,
    guard_norms,
    train_mode,
    unguard_norms,
)
from privfl.adapters.torch.layout import Layout, Trainable
from privfl.codec import Vector
from privfl.errors import ConfigError


class FlatModule:
    """A copy of `module` on `device`, bound to a flat tensor `values` `[size]`.

    `gradient` `[parameters]` is what backward passes add to, once `watch` was called; `runs` are the pieces of both
    that are trained, frozen parameters being the gaps between them. `trained` are the parameters that are trained, and
    `places` their entries. Every `load` resets the state of the module that
    is not in the vector to its first value.

    Args:
        module: The user's module, which is left alone.
        buffers: Which buffers are in the vector.
        device: Where the copy lies.
        trainable: Which parameters are in the vector.

    Raises:
        ConfigError: The module has tensors that no flat vector can hold.
    """

    def __init__(
        self, module: nn.Module, *, buffers: Buffers, device: torch.device, trainable: Trainable = "only"
    ) -> None:
        Layout.of(module, buffers=buffers, trainable=trainable)  # tensors that cannot be copied are named there
        self.module = copied(module).to(device)
        self.layout = Layout.of(self.module, buffers=buffers, trainable=trainable)
        self.device = device
        bound = self.layout.tensors(self.module)
        dtype = torch.float32 if self.layout.dtype == np.float32 else torch.float64
        self.values = torch.empty(self.layout.size, dtype=dtype, device=device)
        self.gradient = torch.zeros(self.layout.parameters, dtype=dtype, device=device)
        self.trained: list[nn.Parameter] = []
        self.spans: list[tuple[int, int]] = []
        self.places: list[tuple[int, int]] = []
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
            (name, tensor, tensor.detach().clone())
            for name, tensor in self.module.named_buffers()
            if id(tensor) not in shared
        ]
        self._constants = constants(self.module) if buffers != "local" else set()
        self._derived = Derived(self.module)
        self.half_types = {
            tensor.dtype for tensor in self.module.parameters() if tensor.dtype in (torch.float16, torch.bfloat16)
        }
        self._guarded = guard_norms(self.module)

    def train(self) -> None:
        """Put the module into training mode, except frozen layers with running statistics."""
        train_mode(self.module, keep_frozen=self.layout.trainable == "only")

    def load(self, model: Vector) -> None:
        """Copy `model` into the module, float32 or float64 `[size]`; raises `ConfigError` for another shape."""
        np.copyto(self._host, self.layout.checked(model), casting="same_kind")
        if self.device.type != "cpu":
            self.values.copy_(torch.from_numpy(self._host))
        for _, tensor, first in self._local:
            tensor.copy_(first)
        for part in self._guarded:
            free_norm(part)
        self._derived.compute()

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
        for name, tensor, first in self._local:
            if name in self._constants and not _equal(tensor, first):
                raise ConfigError(
                    f"training changed the buffer {name!r}, which is not sent: set buffers to the tuple of all buffers "
                    "that are averaged, or to 'local', which drops their changes"
                )
        if flat and any(p.grad is not g for p, g in zip(self.trained, self._gradients, strict=True)):
            raise ConfigError("the module replaced or dropped a gradient; use an optimizer of torch.optim for it")

    def unbound(self) -> nn.Module:
        """An independent copy of the module with its present values."""
        module = copied(self.module)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
            tensor.grad = None
        unguard_norms(module)
        return module

    def _add_trained(self, parameter: nn.Parameter, start: int, stop: int) -> None:
        self.trained.append(parameter)
        self.places.append((start, stop))
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


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True when two tensors of one shape are the same, NaN included."""
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124 (NaN)
