"""The training of a site: a function that the site installed and pinned by hash, run in a child process."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np

from privfl.codec import Vector
from privfl.engine.child import follow_parent, serve
from privfl.errors import ClientFailed, ConfigError, StateError
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_state import pack_state, unpack_state
from privfl.site.policy import Training
from privfl.wire import ClientId

TRAINING_FRACTION: Final = 0.9
"""The part of `answer_after` that training may take; the rest is for encoding, noise and the disk."""

_DELTA: Final = "delta"
_BLOCK: Final = "block "


def file_hash(folder: Path, training: Training) -> str:
    """The SHA-256 of the training file, 64 hexadecimal digits.

    Args:
        folder: The site's folder.
        training: The section of the policy.

    Raises:
        ConfigError: There is no such file.
    """
    return hashlib.sha256(_source(folder, training)).hexdigest()


def _source(folder: Path, training: Training) -> bytes:
    file, colon, name = training.entry.partition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise ConfigError(
            "training.entry must name a Python file, a colon and a function, such as train.py:make, not "
            f"{training.entry!r}"
        )
    try:
        return (folder / file).read_bytes()
    except OSError as error:
        raise ConfigError(f"training.entry names {folder / file}, which cannot be read: {error.strerror}") from error


def installed_training(folder: Path, training: Training) -> Train:
    """Return the training function of the policy, over the site's data.

    Args:
        folder: The site's folder.
        training: The section of the policy.

    Raises:
        ConfigError: The file is not there, or has no such function.
        StateError: The file has another hash than the policy pins.
    """
    source, (file, _, name) = _source(folder, training), training.entry.partition(":")
    found = hashlib.sha256(source).hexdigest()
    if found != training.sha256:
        raise StateError(
            f"{folder / file} has the SHA-256 {found}, and training.sha256 is {training.sha256 or 'empty'}: read the "
            "file, then set training.sha256"
        )
    module = _module(source, folder / file)
    make = getattr(module, name, None)
    if not callable(make):
        raise ConfigError(f"{folder / file} has no function {name}")
    return cast("Train", make(folder / training.data))


class _Pinned(importlib.abc.SourceLoader):
    """Loads a module from the very bytes that were hashed, not from a file that may have changed since."""

    def __init__(self, source: bytes, path: Path) -> None:
        self._source, self._path = source, str(path)

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        if path != self._path:
            raise OSError("only the file that was hashed is read")
        return self._source


def _module(source: bytes, path: Path) -> ModuleType:
    loader = _Pinned(source, path)
    spec = importlib.util.spec_from_loader("privfl_site_training", loader)
    assert spec is not None  # noqa: S101 - a loader was given
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class ChildTraining:
    """A training function in a forked child, which dies with this process.

    Fork it before any key is read and before any thread or socket is made: the child then holds none of them.

    Args:
        make: Makes the training function, in the child.
        seconds: The longest time that one training may take; None sets no limit.
    """

    def __init__(self, make: Callable[[], Train], *, seconds: float | None = None) -> None:
        self._seconds, self._late = seconds, 0
        self._lock = threading.Lock()
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        child = _Child(make)
        follow = follow_parent()
        target, arguments = serve, (child.handle, theirs, follow, child.begin)
        self._process = context.Process(target=target, args=arguments, kwargs={"probe": False}, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        """False once the child has died; it is never started again, because the keys are read by now."""
        return self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """The child's process."""
        return self._process.pid

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def __call__(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Train in the child; see `Train`.

        Raises:
            ClientFailed: The training raised an error, took too long, or its process died.
        """
        facts = {"kind": model.dtype.name, "client": client, "round": round, "rng": rng.bit_generator.state}
        request = canonical_json(facts) + b"\n" + model.tobytes()
        with self._lock:
            try:
                return self._reply(request, client, rng)
            except (EOFError, OSError) as error:
                raise ClientFailed(client, "the process that trains has died: start the agent again") from error

    def _reply(self, request: bytes, client: ClientId, rng: np.random.Generator) -> ClientUpdate:
        end = None if self._seconds is None else time.monotonic() + self._seconds
        while self._late:  # the replies of trainings that took too long
            self._receive(client, end)
            self._late -= 1
        self._pipe.send_bytes(b"r" + bytes(4) + request)
        self._late += 1
        reply = self._receive(client, end)
        self._late -= 1
        if reply[:1] == b"f":
            error, _, trace = json.loads(reply[1:])
            raise ClientFailed(client, f"{error}\n{trace}")
        head, _, arrays = reply[1:].partition(b"\n")
        facts, blocks = json.loads(head), unpack_state(arrays)
        rng.bit_generator.state = facts["rng"]
        delta = blocks.pop(_DELTA)
        named = {name.removeprefix(_BLOCK): array for name, array in blocks.items()}
        return ClientUpdate(delta, facts["examples"], facts["metrics"], named, facts["steps"])

    def _receive(self, client: ClientId, end: float | None) -> bytes:
        if end is not None and not self._pipe.poll(max(0.0, end - time.monotonic())):
            raise ClientFailed(client, f"the training took longer than {self._seconds:g} s")
        return self._pipe.recv_bytes()


class _Child:
    """The child's side: it makes the training function, and answers requests with updates."""

    def __init__(self, make: Callable[[], Train]) -> None:
        self._make, self._train = make, cast("Train", None)

    def begin(self) -> None:
        self._train = self._make()

    def handle(self, place: int, common: bytes, request: bytes) -> bytes:
        head, _, data = request.partition(b"\n")
        facts = json.loads(head)
        model = np.frombuffer(data, facts["kind"])
        rng = np.random.default_rng()
        rng.bit_generator.state = facts["rng"]
        update = self._train(model, facts["client"], facts["round"], rng)
        reply: dict[str, Any] = {
            "steps": update.steps,
            "examples": update.examples,
            "metrics": {name: float(value) for name, value in update.metrics.items()},
            "rng": rng.bit_generator.state,
        }
        # Python's own JSON keeps a NaN, which the encoding counts as a rejected update.
        arrays = {_DELTA: update.delta} | {_BLOCK + name: array for name, array in update.blocks.items()}
        return json.dumps(reply).encode() + b"\n" + pack_state(arrays)
