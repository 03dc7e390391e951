"""The state that torch keeps for a whole process, borrowed for the time of one client and given back."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, Self

import torch

from privfl.errors import ConfigError

_parent_threads: int | None = None  # of the process that this one was forked from; None in any other process
_parent_used_gpu = False


def open_device(name: str) -> torch.device:
    """The device of that name; raises `ConfigError` unless it is "cpu", or a "cuda" that this machine has."""
    kind, _, index = name.partition(":")
    if kind == "cuda" and torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count():
        return torch.device(name)
    if name != "cpu":
        raise ConfigError(f"device must be 'cpu' or a 'cuda' that torch finds on this machine, not {name!r}")
    return torch.device("cpu")


class Turn:
    """A lock for one object that several threads may use; a forked child, and a copy of the object, have a free one.

    Without it a child would wait forever for a thread that only its parent has.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _turns.add(self)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()

    def renew(self) -> None:
        """Forget who holds the lock."""
        self._lock = threading.RLock()


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()
_process: Final = Turn()
"""Held by the thread that has borrowed what torch keeps for the whole process."""


def _before_fork() -> None:
    global _parent_used_gpu  # noqa: PLW0603 (a child asks for it, and inherits nothing else)
    _parent_used_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def _after_fork() -> None:
    global _parent_threads  # noqa: PLW0603 (the same)
    _parent_threads = torch.get_num_threads()
    _check_gradients.cache_clear()
    for turn in list(_turns):
        turn.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def one_thread() -> None:
    """Limit torch to one thread in this process: the `initializer` of a worker that trains clients next to others.

    From then on `torch.set_num_threads` refuses more with a `ConfigError`. In a forked process torch would wait forever
    for threads that only the parent has.
    """
    torch.set_num_threads(1)
    torch.set_num_threads = _refuse_threads  # type: ignore[assignment]  # for a training of the user's own too


def _refuse_threads(count: int) -> None:
    if count != 1:
        raise ConfigError(f"a worker process computes with one torch thread, not {count}: {_REMEDY}")


_REMEDY: Final = "set threads=1 (torch.set_num_threads(1)), or engine.workers = 0"


def prepare_process(threads: int | None, device: torch.device | None = None, *, trains: bool = True) -> None:
    """Refuse what would hang or fail in a forked process, and limit torch to one thread there.

    Args:
        threads: What a training was given; None computes with as many threads as torch has.
        device: Where the training computes; None where nothing is computed yet.
        trains: Gradients are computed; False where a model is only measured.

    Raises:
        ConfigError: This process was forked, and `threads` asks for several threads or differs from what the parent
            computes with. The same if the parent has used the GPU, or has trained on a machine that has one.
    """
    if _parent_threads is None:
        return
    wanted = _parent_threads if threads is None else threads
    if wanted != 1:
        raise ConfigError(
            f"threads={threads} computes with {wanted} torch threads, and a forked process has one: {_REMEDY}"
        )
    if device is not None and device.type == "cuda" and _parent_used_gpu:
        raise ConfigError("a forked process cannot use a GPU that its parent has used: set engine.workers = 0")
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    if device is not None and trains:
        _check_gradients()


@cache
def _check_gradients() -> None:
    """Refuse a forked process in which torch computes no gradients: its parent did, with a thread for each GPU."""
    try:
        torch.ones(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ConfigError(
            "torch has trained in this process before it forked, on a machine with a GPU, and cannot train in a forked "
            "process then: set engine.workers = 0, or hide the GPU with CUDA_VISIBLE_DEVICES= in the environment"
        ) from None


@contextmanager
def borrowed(threads: int | None, device: torch.device) -> Iterator[None]:
    """Compute with `threads` threads and full precision inside, and with the settings of before afterwards.

    Sums of floats depend on the number of threads, so only a fixed number makes a training repeatable bit by bit. Other
    threads of this process that borrow, too, wait for their turn.

    Args:
        threads: The number of torch's threads; None computes with as many as now.
        device: The device of the computation. By torch's default, a GPU rounds the inputs of convolutions to 11 bits.
    """
    with _process, _full_precision(device):
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
def _full_precision(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    kernels = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [kernel.fp32_precision for kernel in kernels]
    for kernel in kernels:
        kernel.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kernel, precision in zip(kernels, before, strict=True):
            kernel.fp32_precision = precision


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's own randomness (dropout and the like) starts from `seed` inside, and goes on as before afterwards.

    Other threads of this process that train wait for their turn: torch has one generator for all of them.

    Args:
        seed: The seed of all of torch's generators inside.
        device: The device of the training; the generator of a CUDA device is seeded too.
    """
    with _process:
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
