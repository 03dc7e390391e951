"""The network, the examples of each node, and the training: nothing here knows of privfl or of Flower."""

import torch
from torch import nn


def network() -> nn.Module:
    """A small network with two features and two classes, equal at each call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


def examples(place: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """A node's own points: class 1 inside of a circle."""
    source = torch.Generator().manual_seed(place)
    points = torch.rand(count + 10 * place, 2, generator=source) * 2 - 1
    return points, (points.square().sum(1) < 0.6).long()


def train(module: nn.Module, points: torch.Tensor, labels: torch.Tensor, steps: int = 20) -> float:
    """Train in place on all examples; the loss of the last step."""
    optimizer, loss = torch.optim.SGD(module.parameters(), lr=0.5), torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(points), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def accuracy(module: nn.Module, points: torch.Tensor, labels: torch.Tensor) -> float:
    """The fraction of examples in the class that the network gives."""
    with torch.no_grad():
        return (module(points).argmax(1) == labels).float().mean().item()
