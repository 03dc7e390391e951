"""Forward and backward of a chain of plain layers in closed form, for models so small that autograd is their cost.

An MLP's step is some 15 operations. Recording and replaying a graph for them takes several times as long as they do,
so a `Sequential` of linear layers and activations is differentiated here by the chain rule itself, straight into the
flat gradient. The operations are the ones that autograd would call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.losses import BatchMean, binary_cross_entropy, cross_entropy, squared_error

_ATEN: Final[Any] = torch.ops.aten
_FORWARD: Final[dict[type[nn.Module], Any]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
}
_BACKWARD: Final[dict[type[nn.Module], Any]] = {
    nn.ReLU: lambda gradient, output: _ATEN.threshold_backward.default(gradient, output, 0),
    nn.Tanh: _ATEN.tanh_backward.default,
    nn.Sigmoid: _ATEN.sigmoid_backward.default,
}
_CLOSED: Final[tuple[BatchMean, ...]] = (cross_entropy, nn.functional.cross_entropy)
LOSSES: Final = (*_CLOSED, binary_cross_entropy, squared_error)
"""Losses without randomness or state."""

_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class _Linear:
    """Views of the flat values and of the flat gradient; transposed once, since they never move."""

    weight: torch.Tensor
    transposed: torch.Tensor
    bias: torch.Tensor | None
    weight_gradient: torch.Tensor
    bias_gradient: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bias is None:
            return torch.mm(x, self.transposed)
        return torch.addmm(self.bias, x, self.transposed)

    def backward(self, gradient: torch.Tensor, x: torch.Tensor) -> None:
        torch.mm(gradient.t(), x, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(gradient, 0, out=self.bias_gradient)


class Chain:
    """The chain that `flat` holds: `gradient` does what `loss(module(x), y).backward()` would."""

    def __init__(self, layers: list[_Linear | type[nn.Module]], flattens: bool, loss: BatchMean) -> None:
        self._layers, self._flattens, self._loss = layers, flattens, loss
        self._closed = loss in _CLOSED
        self._one = torch.ones(())

    @classmethod
    def of(cls, flat: FlatModule, loss: BatchMean) -> Chain | None:
        """The chain of a module on the CPU under one of `LOSSES`, or None where it is anything else."""
        parts = _parts(flat.module)
        if (
            parts is None
            or loss not in LOSSES
            or flat.device.type != "cpu"
            or flat.layout.parameters != flat.layout.size
        ):
            return None
        flattens = (
            bool(parts) and isinstance(parts[0], nn.Flatten) and (parts[0].start_dim, parts[0].end_dim) == (1, -1)
        )
        parts = parts[flattens:]
        owned = {id(parameter) for part in parts for parameter in part.parameters()}
        count = sum(len(list(part.parameters())) for part in parts)
        known = all(type(part) in (nn.Linear, *_FORWARD) for part in parts)
        # Every parameter once, and all of them trained: a gradient is written here, and never added to.
        if not (known and count == len(owned) == len(flat.trained) and any(type(p) is nn.Linear for p in parts)):
            return None
        gradients = flat.gradients()
        layers: list[_Linear | type[nn.Module]] = []
        for part in parts:
            if isinstance(part, nn.Linear):
                weight, bias = part.weight.detach(), part.bias
                layers.append(
                    _Linear(
                        weight,
                        weight.t(),
                        None if bias is None else bias.detach(),
                        gradients[id(part.weight)],
                        None if bias is None else gradients[id(bias)],
                    )
                )
            else:
                layers.append(type(part))
        return cls(layers, flattens, loss)

    def fits(self, features: torch.Tensor) -> bool:
        """Whether these rows are flat, or are made so by the module."""
        return features.is_floating_point() and (features.dim() == 2 or (self._flattens and features.dim() > 2))

    @torch.no_grad()
    def gradient(self, x: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill the flat gradient; returns (mean loss, output)."""
        if self._flattens:
            x = x.flatten(1)
        values = [x]
        for layer in self._layers:
            x = layer.forward(x) if isinstance(layer, _Linear) else _FORWARD[layer](x)
            values.append(x)
        loss, gradient = self._loss_gradient(x, targets)
        for index in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[index]
            if isinstance(layer, _Linear):
                layer.backward(gradient, values[index])
                if index:
                    gradient = torch.mm(gradient, layer.weight)
            else:
                gradient = _BACKWARD[layer](gradient, values[index + 1])
        return loss, x

    def _loss_gradient(self, output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._closed and targets.dim() == 1 and not targets.is_floating_point():
            logs = torch.log_softmax(output, 1)
            loss, weight = _ATEN.nll_loss_forward.default(logs, targets, None, 1, -100)
            one = self._one if logs.dtype == torch.float32 else self._one.to(logs.dtype)
            gradient = _ATEN.nll_loss_backward.default(one, logs, targets, None, 1, -100, weight)
            return loss, _ATEN._log_softmax_backward_data.default(gradient, logs, 1, logs.dtype)
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            loss = self._loss(leaf, targets)
            (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient


def _parts(module: nn.Module) -> list[nn.Module] | None:
    """The layers of nested `Sequential`s in order; None if anybody listens in between."""
    if any(getattr(module, hooks, None) for hooks in _HOOKS):
        return None
    if type(module) is nn.Identity:
        return []
    if type(module) is not nn.Sequential:
        return [module]
    parts: list[nn.Module] = []
    for child in module:
        inner = _parts(child)
        if inner is None:
            return None
        parts += inner
    return parts
