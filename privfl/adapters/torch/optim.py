"""Local optimizers: plain SGD on the flat vector, or any of torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from privfl.adapters.torch.flat import FlatModule
from privfl.codec import Vector
from privfl.errors import ConfigError

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""A function of the parameters to train. It is called for every client, so no client gets the state of another."""


@dataclass(frozen=True, slots=True)
class Sgd:
    """The rule of torch.optim.SGD, in a few operations over the whole flat vector instead of a few for each tensor.

    Unlike torch.optim.SGD it also decays a parameter that did not take part in the forward pass.

    Attributes:
        learning_rate: Positive and finite.
        momentum: In [0, 1).
        weight_decay: Finite and at least 0.
        nesterov: Nesterov's form of momentum, which needs a momentum above 0.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_rate(self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), not {self.momentum!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be finite and at least 0, not {self.weight_decay!r}")
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum above 0")

    def steps(self, count: int) -> float:
        """The sum of the factors that `count` gradients have in a change of the parameters, in units of the rate.

        It is `count` without momentum: the l1 norm of a_i in Wang et al. 2020, section 4.
        """
        velocity = total = 0.0
        for _ in range(count if self.momentum else 0):
            velocity = self.momentum * velocity + 1.0
            total += 1.0 + self.momentum * velocity if self.nesterov else velocity
        return total if self.momentum else float(count)


class FlatStep:
    """One client's `Sgd`: `zero` before a backward pass, `step` after it.

    Args:
        rule: The optimizer's constants.
        flat: The module to train.
        rate: The learning rate, in place of the rule's.
    """

    def __init__(self, rule: Sgd, flat: FlatModule, rate: float) -> None:
        self._rule, self._rate, self._gradient = rule, rate, flat.gradient
        self._runs = flat.runs
        self._velocities: list[torch.Tensor] = []

    def zero(self) -> None:
        """Forget the gradients."""
        self._gradient.zero_()

    def step(self) -> None:
        """Move the trained parameters."""
        rule = self._rule
        if rule.weight_decay:
            for values, gradient in self._runs:
                gradient.add_(values, alpha=rule.weight_decay)
        if not rule.momentum:
            for values, gradient in self._runs:
                values.add_(gradient, alpha=-self._rate)
            return
        if self._velocities:
            for velocity, (_, gradient) in zip(self._velocities, self._runs, strict=True):
                velocity.mul_(rule.momentum).add_(gradient)
        else:
            self._velocities = [gradient.clone() for _, gradient in self._runs]
        for velocity, (values, gradient) in zip(self._velocities, self._runs, strict=True):
            if rule.nesterov:
                values.add_(gradient.add_(velocity, alpha=rule.momentum), alpha=-self._rate)
            else:
                values.add_(velocity, alpha=-self._rate)


class TorchStep:
    """One client's torch optimizer, with the same two methods.

    Args:
        factory: Maps the trained parameters to an optimizer.
        flat: The module to train.
        rate: The learning rate; None keeps the optimizer's own.
    """

    def __init__(self, factory: OptimizerFactory, flat: FlatModule, rate: float | None) -> None:
        self._optimizer = factory(flat.trained)
        if rate is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = rate

    def zero(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Move the trained parameters."""
        self._optimizer.step()


class Pull:
    """The addition of an algorithm to every gradient: a constant vector, and a pull towards the model of the round.

    Args:
        flat: The module, which holds the model of the round now.
        correction: The vector, float `[parameters]`; None adds nothing.
        proximal: The factor of the pull.
    """

    def __init__(self, flat: FlatModule, correction: Vector | None, proximal: float) -> None:
        self._flat, self._proximal = flat, proximal
        self._start = flat.values[: flat.layout.parameters].clone() if proximal else None
        self._constant: torch.Tensor | None = None
        if correction is not None:
            if correction.shape != (flat.layout.parameters,):
                raise ConfigError(f"a correction has {flat.layout.parameters} entries, not shape {correction.shape}")
            own = torch.from_numpy(np.array(correction, flat.layout.dtype))
            self._constant = own.to(flat.device)

    def add(self, *, flat: bool) -> None:
        """Add it to the gradients.

        Args:
            flat: True where the gradients are views of the flat gradient; False where each is a tensor of its own.
        """
        if flat:
            for start, stop in self._flat.spans:
                self._add(self._flat.gradient[start:stop], start, stop)
            return
        for parameter, (start, stop) in zip(self._flat.trained, self._flat.places, strict=True):
            if parameter.grad is not None:
                self._add(parameter.grad.view(-1), start, stop)

    def _add(self, gradient: torch.Tensor, start: int, stop: int) -> None:
        if self._constant is not None:
            gradient.add_(self._constant[start:stop])
        if self._start is not None:
            gradient.add_(self._flat.values[start:stop] - self._start[start:stop], alpha=self._proximal)


def check_rate(rate: float) -> float:
    """`rate`, if it can be a learning rate."""
    if not 0 < rate < math.inf:
        raise ConfigError(f"a learning rate must be positive and finite, not {rate!r}")
    return rate
