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
from typing import Final

import numpy as np
import torch
from torch import nn

from privfl.adapters.torch.chain import chain_parts
from privfl.adapters.torch.flat import FlatModule
from privfl.adapters.torch.losses import BatchMean, binary_cross_entropy, cross_entropy, squared_error
from privfl.adapters.torch.optim import Sgd
from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.fl.client import ClientUpdate
from privfl.fl.lessons import Lesson, by_steps, gather, segments

_NOTHING: Final = np.zeros(0)


@dataclass(frozen=True, slots=True)
class _Linear:
    """The places of a layer in the flat vector; weight `[out, in]`."""

    weight: slice
    shape: tuple[int, int]
    bias: slice | None

    def views(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight = vectors[:, self.weight].view(len(vectors), *self.shape)
        return weight, None if self.bias is None else vectors[:, self.bias]


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
"""(output `[clients, batch, outputs]`, targets, weights `[clients, batch]`) -> loss of each example, gradient."""


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

    def check(self, lesson: Lesson) -> None:
        """Raise `ConfigError` for examples that a batched training does not take."""
        features, targets, linear = lesson.features, lesson.targets, self._linears[0]
        if not len(targets):
            return
        if features.dtype.kind != "f" or targets.ndim != 1 or not (features.ndim == 2 or self._flattens):
            raise ConfigError(
                f"clients are trained in batches on real features and flat targets, not on {features.dtype} "
                f"{features.shape[1:]} and targets {targets.shape}: set cohort.training = 'single'"
            )
        if features[0].size != linear.shape[1]:
            raise ConfigError(f"the module takes {linear.shape[1]} features, and an example has {features[0].size}")
        outputs = self._linears[-1].shape[0]
        if not self._classes and outputs != 1:
            raise ConfigError(f"a value for each example needs a module with one output, and this one has {outputs}")
        binary = self._loss is _binary_cross_entropy
        if binary and not 0 <= targets.min() <= targets.max() <= 1:
            raise ConfigError("the labels of two classes must be 0 and 1, or probabilities")
        if self._classes and (targets.dtype.kind not in "iu" or not 0 <= targets.min() <= targets.max() < outputs):
            raise ConfigError(
                f"clients are trained in batches on class numbers from 0 to {outputs - 1}, and no label is left out: "
                "set cohort.training = 'single'"
            )

    def updates(
        self, model: Vector, lessons: Sequence[Lesson], rule: Sgd, rate: float, *, scored: bool
    ) -> list[ClientUpdate]:
        """Train all clients of a chunk from one model.

        Args:
            model: The global model, float `[size]`.
            lessons: What each client trains on.
            rule: The local optimizer's constants.
            rate: The learning rate, in place of the rule's.
            scored: Whether the accuracy is reported next to the loss, where the targets are classes.

        Returns:
            The updates, in the order of `lessons`.
        """
        order = by_steps(lessons)
        ordered = [lessons[place] for place in order]
        scored = scored and all(lesson.targets.dtype.kind != "f" for lesson in lessons)
        start = torch.empty(self._size, dtype=self._dtype)
        np.copyto(start.numpy(), model, casting="same_kind")
        start = start.to(self._device)
        vectors = start.repeat(len(ordered), 1)
        steps = _Steps(self, vectors, rule, rate, scored=scored)
        with torch.no_grad():
            for piece in self._pieces(ordered):
                steps.over(*piece)
            vectors -= start
        deltas, losses, rights = vectors.cpu().numpy(), steps.losses.tolist(), steps.rights.tolist()
        updates: list[ClientUpdate] = [ClientUpdate(_NOTHING, 0)] * len(lessons)
        for place, lesson in enumerate(ordered):
            rows, metrics = sum(map(len, lesson.batches)), dict[str, float]()
            if rows:
                metrics["loss"] = losses[place] / rows
                if scored:
                    metrics["accuracy"] = rights[place] / rows
            count = rule.steps(len(lesson.batches))
            updates[order[place]] = ClientUpdate(deltas[place], len(lesson.targets), metrics, steps=count)
        return updates

    def _pieces(self, lessons: list[Lesson]) -> Iterator[_Piece]:
        """The minibatches of all clients, for as many steps as are gathered at a time."""
        width = self._linears[0].shape[1]
        for segment in segments(lessons, width):
            # In memory of torch's, whose alignment does not change from call to call.
            x = torch.empty((*segment.shape, width), dtype=self._dtype)
            y = torch.zeros(segment.shape, dtype=torch.int64 if self._classes else self._dtype)
            weights = torch.zeros(segment.shape, dtype=self._dtype)
            gather(lessons, segment, x.numpy(), y.numpy(), weights.numpy())
            yield x.to(self._device), y.to(self._device), weights.to(self._device), segment.active


class _Steps:
    """Steps of all clients: forward, backward, and the rule of `Sgd`."""

    def __init__(self, chain: CohortChain, vectors: torch.Tensor, rule: Sgd, rate: float, *, scored: bool) -> None:
        self._chain, self._vectors, self._rule, self._rate, self._scored = chain, vectors, rule, rate, scored
        self._fused = not (rule.momentum or rule.weight_decay)
        clients = len(vectors)
        self.losses = torch.zeros(clients, dtype=torch.float64, device=vectors.device)
        self.rights = torch.zeros(clients, dtype=torch.float64, device=vectors.device)
        self._gradients = torch.zeros(0 if self._fused else clients, vectors.shape[1], dtype=vectors.dtype)
        self._gradients = self._gradients.to(vectors.device)
        self._velocities: torch.Tensor | None = None

    def over(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, counts: tuple[int, ...]) -> None:
        """Take the steps of one piece, the first `counts[i]` clients each."""
        for number, active in enumerate(counts):
            self._take(x[:active, number], y[:active, number], weights[:active, number], active)

    def _take(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, active: int) -> None:
        layers, vectors, values = self._chain._layers, self._vectors[:active], [x]
        for layer in layers:
            if isinstance(layer, _Linear):
                weight, bias = layer.views(vectors)
                turned = weight.transpose(1, 2)
                x = torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)
            else:
                x = layer.forward(x)
            values.append(x)
        losses, gradient = self._chain._loss(x, y, weights)
        seen = weights > 0
        self.losses[:active] += (losses * seen).sum(1)
        if self._scored:
            self.rights[:active] += (_right(x, y) & seen).sum(1)
        for index in range(len(layers) - 1, -1, -1):
            layer = layers[index]
            if not isinstance(layer, _Linear):
                gradient = layer.backward(gradient, values[index + 1])
                continue
            further = torch.bmm(gradient, layer.views(vectors)[0]) if index else gradient
            self._learn(layer, gradient, values[index], active)
            gradient = further
        if not self._fused:
            self._descend(active)

    def _learn(self, layer: _Linear, gradient: torch.Tensor, x: torch.Tensor, active: int) -> None:
        """Add the step of one layer to its weights, or write its gradient."""
        turned = gradient.transpose(1, 2)
        if self._fused:
            weight, bias = layer.views(self._vectors[:active])
            weight.baddbmm_(turned, x, alpha=-self._rate)
            if bias is not None:
                bias.add_(gradient.sum(1), alpha=-self._rate)
            return
        weight, bias = layer.views(self._gradients[:active])
        torch.bmm(turned, x, out=weight)
        if bias is not None:
            bias.copy_(gradient.sum(1))

    def _descend(self, active: int) -> None:
        """The rule of `FlatStep`, for all clients."""
        rule, values, gradient = self._rule, self._vectors[:active], self._gradients[:active]
        if rule.weight_decay:
            gradient.add_(values, alpha=rule.weight_decay)
        if not rule.momentum:
            values.add_(gradient, alpha=-self._rate)
            return
        if self._velocities is None:
            self._velocities = gradient.clone()
            velocity = self._velocities
        else:
            velocity = self._velocities[:active].mul_(rule.momentum).add_(gradient)
        if rule.nesterov:
            velocity = gradient.add_(velocity, alpha=rule.momentum)
        values.add_(velocity, alpha=-self._rate)


def _right(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (output.squeeze(2) > 0) == (targets > 0) if output.shape[2] == 1 else output.argmax(2) == targets


def _cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logs = torch.log_softmax(output, 2)
    chosen = targets.unsqueeze(2)
    losses = -logs.gather(2, chosen).squeeze(2)
    gradient = logs.exp_().scatter_add_(2, chosen, torch.full_like(losses, -1.0).unsqueeze(2))
    return losses, gradient.mul_(weights.unsqueeze(2))


def _binary_cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    flat = output.squeeze(2)
    losses = nn.functional.binary_cross_entropy_with_logits(flat, targets, reduction="none")
    return losses, ((torch.sigmoid(flat) - targets) * weights).unsqueeze(2)


def _squared_error(
    output: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    errors = output.squeeze(2) - targets
    return 0.5 * errors.square(), (errors * weights).unsqueeze(2)


_LOSSES: Final[dict[BatchMean, _Loss]] = {
    cross_entropy: _cross_entropy,
    nn.functional.cross_entropy: _cross_entropy,
    binary_cross_entropy: _binary_cross_entropy,
    squared_error: _squared_error,
}
