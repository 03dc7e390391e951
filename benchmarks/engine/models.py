"""The models of the engine's benchmarks; torch only, for contestants in any environment."""

from __future__ import annotations

import torch
from torch import nn


def mlp() -> nn.Module:
    """64-64-10 for digits: 4,810 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions of 5x5 with 16 and 32 channels on 28x28, one linear layer: 28,938 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def two_hidden() -> nn.Module:
    """784-200-200-10, the 2NN of McMahan et al. 2017: 199,210 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
