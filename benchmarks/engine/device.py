"""Local training on a CUDA device: each client alone and clients at once, next to the CPU.

    python benchmarks/engine/device.py [--clients 64]

The training of one cohort, without clipping, encoding and sum. The 2NN trains alone on the CPU, alone on the device,
and at once on both; the CNN, which cannot be trained at once, alone on both. All take turns. `furthest_from_cpu`
is that of the furthest client: where rounding moves a ReLU or a maximum across its edge, training differs from there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import models
import numpy as np
import torch
from common import report

from privfl.adapters.torch import Sgd, TorchTrain
from privfl.fl.client import client_rng

SHAPES = {"two_hidden": (784,), "cnn": (1, 28, 28)}


def contestant(name: str, device: str, together: bool, clients: int) -> Any:
    """A function that trains the cohort once and returns the updates."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(clients, 300, *SHAPES[name])).astype(np.float32)
    targets = rng.integers(0, 10, size=(clients, 300))
    train = TorchTrain(
        getattr(models, name)(),
        lambda client: (features[client], targets[client]),
        optimizer=Sgd(0.05),
        batch_size=10,
        device=device,
    )
    model = train.initial()

    def once(round: int) -> Any:
        rngs = [client_rng(0, round, client) for client in range(clients)]
        if together:
            found = train.train_cohort(model, tuple(range(clients)), round, rngs)
        else:
            found = [train(model, client, round, rngs[client]) for client in range(clients)]
        return np.stack([update.delta for update in found])

    return once


def main() -> int:
    """Exit code 1 where torch finds no device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no CUDA device on this machine")
        return 1
    seconds: dict[str, list[float]] = {}
    apart = {}
    for name in SHAPES:
        ways = [(device, together) for device in ("cpu", "cuda") for together in (False, True)]
        names = {
            f"{name} {device} {'at once' if together else 'alone'}": contestant(name, device, together, options.clients)
            for device, together in ways
            if name == "two_hidden" or not together
        }
        for round in range(options.rounds + 1):
            deltas = {}
            for label, once in names.items():
                start = time.perf_counter()
                deltas[label] = once(round)
                if round:
                    seconds.setdefault(label, []).append(time.perf_counter() - start)
            first = next(iter(deltas.values()))
            apart |= {
                label: float(np.abs(delta - first).max() / np.abs(first).max()) for label, delta in deltas.items()
            }
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    figures = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clients": options.clients,
        "seconds": medians,
        "furthest_from_cpu": apart,
    }
    report("engine-device", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
