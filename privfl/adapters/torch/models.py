"""Two small networks to start from; any `torch.nn.Module` of your own serves as well."""

from __future__ import annotations

import math

import torch
from torch import nn

from privfl.errors import ConfigError


def build(kind: str, inputs: int, hidden: tuple[int, ...], outputs: int, *, seed: int) -> nn.Module:
    """A new network; torch's own random state stays as it was.

    Args:
        kind: "mlp" has ReLU layers; every other kind is the "cnn", for square gray images.
        inputs: The number of features; for "cnn" side^2 pixels.
        hidden: The widths of the hidden layers of "mlp", each at least 1.
        outputs: The number of logits; 1 for one prediction.
        seed: The seed from which the first weights are sampled.

    Raises:
        ConfigError: A width is below 1, or `inputs` is not a square image of at least 8 x 8 pixels ("cnn").
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _mlp(inputs, hidden, outputs) if kind == "mlp" else _cnn(inputs, outputs)


def _mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in hidden:
        if width < 1:
            raise ConfigError(f"model.hidden must hold widths of at least 1, not {width}")
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _cnn(inputs: int, outputs: int) -> nn.Module:
    side = math.isqrt(inputs)
    if side * side != inputs or side < 8:
        raise ConfigError(f"a cnn needs square images of at least 8 x 8 pixels, not rows of {inputs} values")
    reduced = side // 4
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * reduced * reduced, outputs),
    )
