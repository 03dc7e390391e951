"""What torch keeps for a whole process, borrowed for the time of one client and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def one_thread() -> None:
    """Compute with one thread from now on: the `initializer` of a process that trains clients beside others."""
    torch.set_num_threads(1)


@contextmanager
def borrowed(threads: int | None) -> Iterator[None]:
    """Compute with `threads` threads inside (None: as many as now), and with as many as before afterwards.

    Sums of floats depend on the number of threads, so that only a fixed number makes a training repeatable bit by bit.
    """
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's own randomness (dropout and the like) starts from `seed` inside, and goes on as before afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        with torch.cuda.device(device):
            generators.append(torch.cuda.default_generators[torch.cuda.current_device()])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
