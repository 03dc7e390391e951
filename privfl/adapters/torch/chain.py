"""Forward and backward of small chains of plain layers in closed form.

The step of a small MLP on ten examples is some 15 operations of a microsecond or two. Torch takes several times as long
to record them as a graph and to walk it backward. A `Sequential` of linear layers and activations under one of our own
losses is differentiated here by the chain rule itself, in numpy, on the memory of the flat vector. The chain is taken
only where every product is so small that it needs one thread, and where the result is autograd's up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.losses import BatchMean, binary_cross_entropy, cross_entropy, squared_error
from privfl.fl.lessons import check_width

Floats = npt.NDArray[np.floating[Any]]

LARGEST: Final = 1 << 18
"""Multiplications in one product up to which OpenBLAS stays with one thread, and torch's bookkeeping is what costs."""

_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HALF: Final = np.float32(0.5)


@dataclass(frozen=True, slots=True)
class _Linear:
    """Views of the flat values and of the flat gradient; weight `[out, in]`, transposed once, since it never moves."""

    weight: Floats
    transposed: Floats
    bias: Floats | None
    weight_gradient: Floats
    bias_gradient: Floats | None

    def forward(self, x: Floats) -> Floats:
        y: Floats = x @ self.transposed
        if self.bias is not None:
            y += self.bias
        return y

    def backward(self, gradient: Floats, x: Floats) -> None:
        np.matmul(gradient.T, x, out=self.weight_gradient)
        if self.bias_gradient is not None:
            np.add.reduce(gradient, 0, out=self.bias_gradient)


@dataclass(frozen=True, slots=True)
class _Activation:
    """`backward` takes (gradient, the layer's own output)."""

    forward: Callable[[Floats], Floats]
    backward: Callable[[Floats, Floats], Floats]


_ACTIVATIONS: Final[dict[type[nn.Module], _Activation]] = {
    nn.ReLU: _Activation(lambda x: np.maximum(x, 0), lambda g, y: g * (y > 0)),
    nn.Tanh: _Activation(np.tanh, lambda g, y: g * (1 - y * y)),
    nn.Sigmoid: _Activation(lambda x: _sigmoid(x), lambda g, y: g * (y * (1 - y))),  # noqa: PLW0108 - defined below
}


class Chain:
    """The chain that a `FlatModule` holds.

    Args:
        layers: The linear layers and activations, in order.
        flattens: True where the first layer flattens all but the first axis.
        loss: The mean loss, one of `privfl.adapters.torch.losses`.
        flat: The module, whose values and gradient the chain shares.
    """

    def __init__(self, layers: list[_Linear | _Activation], flattens: bool, loss: BatchMean, flat: FlatModule) -> None:
        self._layers, self._flattens, self._dtype = layers, flattens, flat.layout.dtype
        self._values, self._gradient = flat.values.numpy(), flat.gradient.numpy()
        self._change = np.empty_like(self._gradient)
        self._classes = loss not in (binary_cross_entropy, squared_error)
        self._loss = _LOSSES[loss]
        self._size = max(layer.weight.size for layer in layers if isinstance(layer, _Linear))

    @classmethod
    def of(cls, flat: FlatModule, loss: BatchMean) -> Chain | None:
        """The chain of a module on the CPU, or None where it is anything else.

        Args:
            flat: The module.
            loss: The mean loss.
        """
        parts = chain_parts(flat.module)
        buffers = flat.layout.parameters != flat.layout.size
        if parts is None or loss not in _LOSSES or flat.device.type != "cpu" or buffers:
            return None
        flattens = bool(parts) and _flattens(parts[0])
        parts = parts[flattens:]
        linears = [part for part in parts if type(part) is nn.Linear]
        count = sum(len(list(part.parameters())) for part in linears)
        known = all(type(part) in (nn.Linear, *_ACTIVATIONS) for part in parts)
        # Every parameter once, and all of them trained: a gradient is written here, and never added to.
        if not (known and linears and count == len(flat.trained)):
            return None
        gradients = {key: view.numpy() for key, view in flat.gradients().items()}
        layers = [_linear(p, gradients) if isinstance(p, nn.Linear) else _ACTIVATIONS[type(p)] for p in parts]
        return cls(layers, flattens, loss, flat)

    def outputs(self, rows: int) -> tuple[int, ...]:
        """The shape of the output for a batch of so many examples."""
        last = next(layer for layer in reversed(self._layers) if isinstance(layer, _Linear))
        return (rows, last.weight.shape[0])

    def takes(self, features: npt.NDArray[Any], targets: npt.NDArray[Any], rows: int) -> bool:
        """True where batches of these examples are small, flat, and numbered or valued as the loss needs.

        Args:
            features: All features.
            targets: All targets: class numbers, or values.
            rows: The largest number of examples of one batch.
        """
        flat = features.ndim == 2 or (self._flattens and features.ndim > 2)
        if not flat or features.dtype.kind != "f" or targets.ndim != 1 or rows * self._size > LARGEST:
            return False
        if not self._classes and len(targets) != len(features) * self.outputs(rows)[1]:
            return False
        # torch leaves a class number of -100 out: it may do so.
        return not self._classes or (targets.dtype.kind in "iu" and int(np.minimum.reduce(targets)) >= 0)

    def prepare(self, features: Floats) -> Floats:
        """Features as `[n, inputs]` in the module's precision."""
        return features.reshape(len(features), -1).astype(self._dtype, copy=False)

    def gradient(self, x: Floats, targets: npt.NDArray[Any]) -> tuple[float, Floats]:
        """Fill the flat gradient as `loss(module(x), targets).backward()` would.

        Args:
            x: The prepared features `[n, inputs]`.
            targets: Their targets.

        Returns:
            The mean loss, and the output.
        """
        values = [x]
        for layer in self._layers:
            x = layer.forward(x)
            values.append(x)
        loss, gradient = self._loss(x, targets)
        for index in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[index]
            if isinstance(layer, _Linear):
                layer.backward(gradient, values[index])
                if index:
                    gradient = gradient @ layer.weight
            else:
                gradient = layer.backward(gradient, values[index + 1])
        return loss, x

    def descend(self, rate: float) -> None:
        """Take one step of plain SGD along the gradient, in numpy, whose bookkeeping costs less than torch's."""
        np.multiply(self._gradient, rate, out=self._change)
        np.subtract(self._values, self._change, out=self._values)


def accuracy(output: Floats, targets: npt.NDArray[Any]) -> float:
    """The accuracy of `losses.accuracy`, for arrays.

    Args:
        output: The module's output `[n, outputs]`.
        targets: Class numbers, or two classes where there is one output for each target.
    """
    right = (output.reshape(-1) > 0) == (targets > 0) if output.size == targets.size else output.argmax(1) == targets
    return np.count_nonzero(right) / len(targets)


def _cross_entropy(output: Floats, targets: npt.NDArray[Any]) -> tuple[float, Floats]:
    count, numbers = len(targets), np.arange(len(targets))
    shifted = output - np.maximum.reduce(output, 1, keepdims=True)
    gradient: Floats = np.exp(shifted)
    sums = np.add.reduce(gradient, 1, keepdims=True)
    loss = float(np.add.reduce(np.log(sums[:, 0]) - shifted[numbers, targets])) / count
    gradient /= sums * count
    gradient[numbers, targets] -= 1 / count
    return loss, gradient


def _binary_cross_entropy(output: Floats, targets: npt.NDArray[Any]) -> tuple[float, Floats]:
    flat = output.reshape(len(targets))
    wanted = targets.astype(flat.dtype)
    loss = float(np.add.reduce(np.logaddexp(0, flat) - wanted * flat)) / len(targets)
    return loss, ((_sigmoid(flat) - wanted) / len(targets)).reshape(output.shape)


def _squared_error(output: Floats, targets: npt.NDArray[Any]) -> tuple[float, Floats]:
    errors = output.reshape(len(targets)) - targets.astype(output.dtype)
    return 0.5 * float(np.dot(errors, errors)) / len(targets), (errors / len(targets)).reshape(output.shape)


def _sigmoid(x: Floats) -> Floats:
    half = x * _HALF
    return np.asarray(_HALF * np.tanh(half) + _HALF)


_LOSSES: Final[dict[BatchMean, Callable[[Floats, npt.NDArray[Any]], tuple[float, Floats]]]] = {
    cross_entropy: _cross_entropy,
    nn.functional.cross_entropy: _cross_entropy,
    binary_cross_entropy: _binary_cross_entropy,
    squared_error: _squared_error,
}


def _linear(part: nn.Linear, gradients: dict[int, Floats]) -> _Linear:
    weight, bias_gradient = part.weight.detach().numpy(), gradients.get(id(part.bias))
    bias = None if bias_gradient is None else part.bias.detach().numpy()
    return _Linear(weight, weight.T, bias, gradients[id(part.weight)], bias_gradient)


def chain_parts(module: nn.Module) -> list[nn.Module] | None:
    """The layers of nested `Sequential`s in order; None if anybody listens in between."""
    if any(getattr(module, hooks, None) for hooks in _HOOKS):
        return None
    if type(module) is nn.Identity:
        return []
    if type(module) is not nn.Sequential:
        return [module]
    parts: list[nn.Module] = []
    for child in module:
        inner = chain_parts(child)
        if inner is None:
            return None
        parts += inner
    return parts


def check_axes(module: nn.Module, features: Any) -> None:
    """Raise `ConfigError` for features whose shape cannot pass the first layer, where that is a linear one.

    What any other first layer takes is known to that layer alone.

    Args:
        module: The module.
        features: The features of a client's examples, an array or tensor `[n, ...]`, n at least 1.
    """
    usual: nn.Module | None = module
    while type(usual) is nn.Sequential:
        usual = next(iter(usual), None)
    if type(usual) is nn.Linear and features.ndim == 2 and features.shape[1] == usual.in_features:
        return  # the usual case costs less than a look at every layer
    parts = chain_parts(module) or []
    flattens = bool(parts) and _flattens(parts[0])
    first = next((part for part in parts[flattens:] if type(part) not in _ACTIVATIONS), None)
    if type(first) is not nn.Linear:
        return
    if (
        flattens or features.ndim <= 2 or features.shape[-1] != first.in_features
    ):  # a layer maps each place of more axes
        check_width(features, first.in_features, flattens=flattens)


def _flattens(layer: nn.Module) -> bool:
    """True for a layer that flattens all but the first axis."""
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
