"""Many clients of a small network at once: matrix products over clients, on the same minibatches as one by one.

A chain of linear layers and activations has its gradient in closed form. The parameters of all clients of a chunk lie
next to each other, `[clients, size]`, and one product of stacked matrices takes a step of all of them. Where plain SGD
follows, the product adds its result to the weights itself, so no gradient is ever written.

A client with fewer steps than others is done earlier: clients are ordered by their steps, and a step is taken by the
first ones. A short minibatch is filled up with zeros, which have no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from privfl.adapters.torch.chain import chain_parts
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.losses import BatchMean, binary_cross_entropy, cross_entropy, squared_error
from privfl.adapters.torch.optim import Sgd
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.lessons import Corrections, Lesson, by_steps, gather, segments

_NOTHING: Final = np.zeros(0)

_CACHED: Final = 1 << 20
"""Parameters of several clients that are trained at a time on a CPU: 4 MiB of float32 stay in its last cache."""


@dataclass(frozen=True, slots=True)
class _Linear:
    """The places of a layer in the flat vector; weight `[out, in]`."""

    weight: slice
    shape: tuple[int, int]
    bias: slice | None

    def views(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weights `[clients, out, in]` and the biases `[clients, out]` in the vectors of some clients."""
        weight = vectors[:, self.weight].view(len(vectors), *self.shape)
        return weight, None if self.bias is None else vectors[:, self.bias]


@dataclass(frozen=True, slots=True)
class _Weights:
    """A layer of the clients that take a step: the weights to read, and where its step or its gradient goes.

    With a `rate` the step is added to the weights themselves; otherwise the gradient is written.
    """

    weight: torch.Tensor
    turned: torch.Tensor
    bias: torch.Tensor | None
    to_weight: torch.Tensor
    to_bias: torch.Tensor | None
    rate: float | None

    @classmethod
    def of(cls, layer: _Linear, values: torch.Tensor, gradients: torch.Tensor | None, rate: float) -> _Weights:
        weight, bias = layer.views(values)
        turned, row = weight.transpose(1, 2), None if bias is None else bias.unsqueeze(1)
        if gradients is None:
            return cls(weight, turned, row, weight, bias, rate)
        return cls(weight, turned, row, *layer.views(gradients), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, self.turned) if self.bias is None else torch.baddbmm(self.bias, x, self.turned)

    def learn(self, gradient: torch.Tensor, x: torch.Tensor) -> None:
        turned = gradient.transpose(1, 2)
        if self.rate is None:
            torch.bmm(turned, x, out=self.to_weight)
            if self.to_bias is not None:
                torch.sum(gradient, 1, out=self.to_bias)
            return
        self.to_weight.baddbmm_(turned, x, alpha=-self.rate)
        if self.to_bias is not None:
            self.to_bias.add_(gradient.sum(1), alpha=-self.rate)


@dataclass(frozen=True, slots=True)
class _Activation:
    """`backward` takes (gradient, the layer's own output)."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_ACTIVATIONS: Final[dict[type[nn.Module], _Activation]] = {
    nn.ReLU: _Activation(torch.relu, lambda g, y: torch.ops.aten.threshold_backward(g, y, 0)),
    nn.Tanh: _Activation(torch.tanh, lambda g, y: torch.ops.aten.tanh_backward(g, y)),  # noqa: PLW0108 - looked up late
    nn.Sigmoid: _Activation(torch.sigmoid, lambda g, y: torch.ops.aten.sigmoid_backward(g, y)),  # noqa: PLW0108
}

_Piece = tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]]
"""(features `[clients, steps, batch, inputs]`, targets, weights `[clients, steps, batch]`, clients of each step)."""

_Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(output `[clients, batch, outputs]`, targets and weights `[clients, batch, 1]`) -> losses like these, gradient."""


class CohortChain:
    """The batched training of one module.

    Args:
        layers: Linear layers and activations, in order.
        flattens: True where the first layer flattens all but the first axis.
        loss: The mean loss, one of `privfl.adapters.torch.losses`.
        flat: The module, for its layout and device.
    """

    def __init__(self, layers: list[_Linear | _Activation], flattens: bool, loss: BatchMean, flat: FlatModule) -> None:
        self._layers, self._flattens, self._loss = layers, flattens, _LOSSES[loss]
        self._size, self._dtype, self._device = flat.layout.size, flat.values.dtype, flat.device
        self._classes = loss not in (binary_cross_entropy, squared_error)
        self._linears = [layer for layer in layers if isinstance(layer, _Linear)]

    @classmethod
    def of(cls, flat: FlatModule, loss: BatchMean) -> CohortChain:
        """The batched training of a module.

        Args:
            flat: The module.
            loss: The mean loss.

        Raises:
            ConfigError: If the module is no chain of linear layers and activations, or the loss is another one.
        """
        remedy = "set cohort.training = 'single'"
        for layer in flat.module.modules():
            if type(layer) not in (nn.Sequential, nn.Identity, nn.Flatten, nn.Linear, *_ACTIVATIONS):
                raise ConfigError(
                    f"clients are trained in batches through linear layers, ReLU, Tanh and Sigmoid, and this module "
                    f"has a {type(layer).__name__}: {remedy}"
                )
        parts = chain_parts(flat.module)
        if parts is None:
            raise ConfigError(f"clients are not trained in batches through a module with hooks: {remedy}")
        first = parts[0] if parts else None
        flattens = isinstance(first, nn.Flatten) and f"{first.start_dim} {first.end_dim}" == "1 -1"
        parts = parts[flattens:]
        if any(isinstance(part, nn.Flatten) for part in parts):
            raise ConfigError(f"clients are trained in batches with nn.Flatten() as the first layer only: {remedy}")
        if loss not in _LOSSES:
            raise ConfigError(f"clients are trained in batches with the losses of privfl.adapters.torch only: {remedy}")
        linears = [part for part in parts if type(part) is nn.Linear]
        places = {id(p): slice(*place) for p, place in zip(flat.trained, flat.places, strict=True)}
        owned = [p for part in linears for p in part.parameters()]
        if not linears or len(owned) != len(places) or {id(p) for p in owned} != set(places):
            raise ConfigError(
                f"clients are trained in batches where each float32 or float64 parameter is trained and used once: "
                f"{remedy}"
            )
        layers = [
            _Linear(places[id(p.weight)], (p.out_features, p.in_features), places.get(id(p.bias)))
            if isinstance(p, nn.Linear)
            else _ACTIVATIONS[type(p)]
            for p in parts
        ]
        return cls(layers, flattens, loss, flat)

    def _check(self, lessons: Sequence[Lesson]) -> None:
        """Raise `ConfigError` for examples that a batched training does not take."""
        held = [lesson for lesson in lessons if len(lesson.targets)]
        for lesson in held:
            features, targets = lesson.features, lesson.targets
            if features.dtype.kind != "f" or targets.ndim != 1 or not (features.ndim == 2 or self._flattens):
                raise ConfigError(
                    f"clients are trained in batches on real features and flat targets, not on {features.dtype} "
                    f"{features.shape[1:]} and targets {targets.shape}: set cohort.training = 'single'"
                )
        if held:
            self._check_targets([lesson.targets for lesson in held])

    def _check_targets(self, parts: list[npt.NDArray[Any]]) -> None:
        outputs = self._linears[-1].shape[0]
        if not self._classes and outputs != 1:
            raise ConfigError(f"a value for each example needs a module with one output, and this one has {outputs}")
        targets = parts[0] if len(parts) == 1 else np.concatenate(parts)  # one look at all of them costs less
        if self._loss is _binary_cross_entropy and not 0 <= targets.min() <= targets.max() <= 1:
            raise ConfigError("the labels of two classes must be 0 and 1, or probabilities")
        whole = all(part.dtype.kind in "iu" for part in parts)
        if self._classes and not (whole and 0 <= targets.min() <= targets.max() < outputs):
            raise ConfigError(
                f"clients are trained in batches on class numbers from 0 to {outputs - 1}, and no label is left out: "
                "set cohort.training = 'single'"
            )

    def updates(
        self,
        model: Vector,
        lessons: Sequence[Lesson],
        rule: Sgd,
        rate: float,
        corrections: Corrections,
        *,
        scored: bool,
    ) -> list[ClientUpdate]:
        """Train all clients of a chunk from one model.

        Args:
            model: The global model, float `[size]`.
            lessons: What each client trains on.
            rule: The local optimizer's constants.
            rate: The learning rate, in place of the rule's.
            corrections: What is added to every gradient.
            scored: Whether the accuracy is reported next to the loss, where the targets are classes.

        Returns:
            The updates, in the order of `lessons`.

        Raises:
            ConfigError: If the examples are none that a batched training takes.
        """
        self._check(lessons)
        order = by_steps(lessons)
        scored = scored and all(lesson.targets.dtype.kind != "f" for lesson in lessons)
        start = torch.empty(self._size, dtype=self._dtype)
        np.copyto(start.numpy(), model, casting="same_kind")
        start = start.to(self._device)
        updates: list[ClientUpdate] = [ClientUpdate(_NOTHING, 0)] * len(lessons)
        together = max(1, _CACHED // self._size) if self._device.type == "cpu" else len(lessons)
        for first in range(0, len(order), together):
            places = order[first : first + together]
            ordered = [lessons[place] for place in places]
            steps = _Steps(self, start, len(places), rule, rate, scored=scored, corrections=corrections.of(places))
            with torch.no_grad():
                for piece in self._pieces(ordered):
                    steps.over(*piece)
            for place, update in zip(places, steps.updates(ordered), strict=True):
                updates[place] = update
        return updates

    def _pieces(self, lessons: list[Lesson]) -> Iterator[_Piece]:
        """The minibatches of all clients, for as many steps as are gathered at a time."""
        width = self._linears[0].shape[1]
        for segment in segments(lessons, width, times=1 if self._device.type == "cpu" else 32):
            # In memory of torch's, whose alignment does not change from call to call.
            x = torch.empty((*segment.shape, width), dtype=self._dtype)
            y = torch.zeros(segment.shape, dtype=torch.int64 if self._classes else self._dtype)
            weights = torch.zeros(segment.shape, dtype=self._dtype)
            gather(lessons, segment, x.numpy(), y.numpy(), weights.numpy())
            yield x.to(self._device), y.to(self._device), weights.to(self._device), segment.active


class _Steps:
    """Steps of all clients: forward, backward, what an algorithm adds to the gradients, and the rule of `Sgd`."""

    def __init__(
        self,
        chain: CohortChain,
        start: torch.Tensor,
        clients: int,
        rule: Sgd,
        rate: float,
        *,
        scored: bool,
        corrections: Corrections,
    ) -> None:
        self._chain, self._start, self._rule, self._rate, self._scored = chain, start, rule, rate, scored
        self._vectors, self._proximal = start.repeat(clients, 1), corrections.proximal
        fused = not (rule.momentum or rule.weight_decay or corrections)
        self._gradients = None if fused else torch.zeros_like(self._vectors)
        self._constants: torch.Tensor | None = None
        if corrections.constants is not None:
            self._constants = torch.from_numpy(corrections.constants).to(start)
        self._velocities: torch.Tensor | None = None
        self.losses = torch.zeros(clients, dtype=torch.float64, device=start.device)
        self.rights = torch.zeros_like(self.losses)

    def over(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, counts: tuple[int, ...]) -> None:
        """Take the steps of one piece, the first `counts[i]` clients each."""
        targets, shares, clients, layers = y.unsqueeze(3), weights.unsqueeze(3), 0, list[_Weights | _Activation]()
        losses, rights = torch.zeros_like(shares), torch.zeros_like(shares, dtype=torch.bool)
        for number, active in enumerate(counts):
            if active != clients:  # the views are made once for the steps of the same clients
                clients, layers = active, self._layers(active)
            labels = targets[:active, number]
            output, losses[:active, number] = self._take(layers, x[:active, number], labels, shares[:active, number])
            if self._scored:
                rights[:active, number] = _right(output, labels)
        seen, everyone = shares > 0, len(weights)
        self.losses[:everyone] += (losses * seen).sum((1, 2, 3), dtype=torch.float64)
        if self._scored:
            self.rights[:everyone] += (rights & seen).sum((1, 2, 3))

    def updates(self, lessons: Sequence[Lesson]) -> Iterator[ClientUpdate]:
        """The updates after all steps, in the order of the lessons."""
        deltas, losses = self._vectors.sub_(self._start).cpu().numpy(), self.losses.tolist()
        rights = self.rights.tolist()
        for place, lesson in enumerate(lessons):
            seen, metrics = sum(map(len, lesson.batches)), dict[str, float]()
            if seen:
                metrics["loss"] = losses[place] / seen
                if self._scored:
                    metrics["accuracy"] = rights[place] / seen
            steps = self._rule.steps(len(lesson.batches))
            yield ClientUpdate(deltas[place], len(lesson.targets), metrics, steps=steps)

    def _layers(self, active: int) -> list[_Weights | _Activation]:
        """The layers of the first clients."""
        values, gradients = self._vectors[:active], None if self._gradients is None else self._gradients[:active]
        return [
            _Weights.of(layer, values, gradients, self._rate) if isinstance(layer, _Linear) else layer
            for layer in self._chain._layers
        ]

    def _take(
        self, layers: list[_Weights | _Activation], x: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step; returns the output and the loss of each example before it."""
        values = [x]
        for layer in layers:
            values.append(layer.forward(values[-1]))
        losses, gradient = self._chain._loss(values[-1], targets, shares)
        for index in range(len(layers) - 1, -1, -1):
            layer = layers[index]
            if isinstance(layer, _Activation):
                gradient = layer.backward(gradient, values[index + 1])
                continue
            further = torch.bmm(gradient, layer.weight) if index else gradient  # before the weights move
            layer.learn(gradient, values[index])
            gradient = further
        if self._gradients is not None:
            self._descend(self._gradients[: len(x)])
        return values[-1], losses

    def _descend(self, gradient: torch.Tensor) -> None:
        """The rule of `FlatStep` after that of `Pull`, for the clients of a gradient."""
        rule, values = self._rule, self._vectors[: len(gradient)]
        if self._constants is not None:
            gradient.add_(self._constants[: len(gradient)])
        if self._proximal:
            gradient.add_(values - self._start, alpha=self._proximal)
        if rule.weight_decay:
            gradient.add_(values, alpha=rule.weight_decay)
        if not rule.momentum:
            values.add_(gradient, alpha=-self._rate)
            return
        if self._velocities is None:
            self._velocities = gradient.clone()
            velocity = self._velocities
        else:
            velocity = self._velocities[: len(gradient)].mul_(rule.momentum).add_(gradient)
        if rule.nesterov:
            velocity = gradient.add_(velocity, alpha=rule.momentum)
        values.add_(velocity, alpha=-self._rate)


def _right(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (output > 0) == (targets > 0) if output.shape[2] == 1 else output.argmax(2, keepdim=True) == targets


def _cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logs = torch.log_softmax(output, 2)
    losses = logs.gather(2, targets).neg_()
    gradient = logs.exp_().scatter_add_(2, targets, torch.full_like(losses, -1.0))
    return losses, gradient.mul_(weights)


def _binary_cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    losses = nn.functional.binary_cross_entropy_with_logits(output, targets, reduction="none")
    return losses, (torch.sigmoid(output) - targets) * weights


def _squared_error(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    errors = output - targets
    return 0.5 * errors.square(), errors * weights


_LOSSES: Final[dict[BatchMean, _Loss]] = {
    cross_entropy: _cross_entropy,
    nn.functional.cross_entropy: _cross_entropy,
    binary_cross_entropy: _binary_cross_entropy,
    squared_error: _squared_error,
}
