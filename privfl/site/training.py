"""The training of a site: a function that the site installed and pinned by hash, run in a child process."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np

from privfl.codec import Vector
from privfl.engine.child import follow_parent, serve
from privfl.errors import ClientFailed, ConfigError, StateError
from privfl.experiment.workers import single_threaded
from privfl.files import canonical_json
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_state import ClientState, Stateful, pack_state, unpack_state
from privfl.site.policy import Training
from privfl.wire import ClientId

TRAINING_FRACTION: Final = 0.9
"""The part of `answer_after` that training may take; the rest is for encoding, noise and the disk."""

_DELTA: Final = "delta"
_BLOCK: Final = "block "


Evaluate = Callable[[Vector], tuple[int, Mapping[str, float]]]
"""(model) -> (number of test examples, mean of each metric over them)."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The functions that a site installed, over its own data.

    Attributes:
        train: The training function; a `Stateful` one keeps a state at the site between rounds.
        evaluate: The evaluation of a model on the site's test examples; None refuses plans that evaluate.
    """

    train: Train | Stateful
    evaluate: Evaluate | None = None


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


def installed_training(folder: Path, training: Training) -> Installed:
    """Return the training function of the policy, and its evaluation if it names one, over the site's data.

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
    module, made = _module(source, folder / file), []
    for function in filter(None, (name, training.evaluate)):
        make = getattr(module, function, None)
        if not callable(make):
            raise ConfigError(f"{folder / file} has no function {function}")
        made.append(make(folder / training.data))
    return Installed(*made)


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
    """A site's training and evaluation in a forked child, which dies with this process.

    Fork it before any key is read and before any thread or socket is made: the child then holds none of them. Where
    this process has loaded torch before, the child runs torch in one thread.

    Args:
        make: Makes the training function, alone or with an evaluation, in the child.
        seconds: The longest time that one training may take; None sets no limit.
    """

    def __init__(self, make: Callable[[], Train | Stateful | Installed], *, seconds: float | None = None) -> None:
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
        return self._worked("train", model, client, round, rng=rng)[0]

    def with_state(
        self, model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
    ) -> tuple[ClientUpdate, ClientState]:
        """Train in the child from a client's state; see `Stateful`.

        Args:
            model: The model.
            client: The client.
            round: The round.
            rng: The client's own randomness.
            state: Its state before the round.

        Returns:
            The update and the state after it.

        Raises:
            ClientFailed: As in a call.
        """
        update, after = self._worked("train", model, client, round, rng=rng, state=pack_state(state))
        return update, unpack_state(after)

    def evaluate(self, model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
        """Evaluate in the child, as an update of one zero with the examples and the metrics.

        Args:
            model: The model.
            client: The client.
            round: The round.
            rng: Not used.

        Raises:
            ClientFailed: As in a call, or the policy names no evaluation.
        """
        return self._worked("evaluate", model, client, round, rng=rng)[0]

    def learner(self) -> Train | Stateful:
        """The training as a round takes it: `Stateful` if the child's is. Waits until the child has made it.

        Raises:
            ConfigError: The training function could not be made.
        """
        with self._lock:
            try:
                reply = self._reply(canonical_json({"work": "describe"}) + b"\n", 0, None)
            except _InChild as error:
                raise ConfigError(f"the training function could not be made: {error.reason}\n{error.trace}") from error
            except (EOFError, OSError) as error:
                raise ConfigError("the process that makes the training function has died") from error
        return Stateful(self.with_state) if json.loads(reply)["stateful"] else self

    def _worked(
        self, work: str, model: Vector, client: ClientId, round: int, *, rng: np.random.Generator, state: bytes = b""
    ) -> tuple[ClientUpdate, bytes]:
        facts = {"work": work, "kind": model.dtype.name, "client": client, "round": round, "length": len(model)}
        request = b"\n".join((canonical_json({**facts, "rng": rng.bit_generator.state}), model.tobytes() + state))
        with self._lock:
            try:
                end = None if self._seconds is None else time.monotonic() + self._seconds
                reply = self._reply(request, client, end)
            except _InChild as error:
                raise ClientFailed(client, f"{error.reason}\n{error.trace}") from error
            except (EOFError, OSError) as error:
                raise ClientFailed(client, "the process that trains has died: start the agent again") from error
        head, _, rest = reply.partition(b"\n")
        found = json.loads(head)
        blocks, after = unpack_state(rest[: found["arrays"]]), rest[found["arrays"] :]
        rng.bit_generator.state = found["rng"]
        delta = blocks.pop(_DELTA)
        named = {name.removeprefix(_BLOCK): array for name, array in blocks.items()}
        return ClientUpdate(delta, found["examples"], found["metrics"], named, found["steps"]), after

    def _reply(self, request: bytes, client: ClientId, end: float | None) -> bytes:
        while self._late:  # the replies of trainings that took too long
            self._receive(client, end)
            self._late -= 1
        self._pipe.send_bytes(b"r" + bytes(4) + request)
        self._late += 1
        reply = self._receive(client, end)
        self._late -= 1
        if reply[:1] == b"f":
            error, _, trace = json.loads(reply[1:])
            raise _InChild(error, trace)
        return reply[1:]

    def _receive(self, client: ClientId, end: float | None) -> bytes:
        if end is not None and not self._pipe.poll(max(0.0, end - time.monotonic())):
            raise ClientFailed(client, f"the training took longer than {self._seconds:g} s")
        return self._pipe.recv_bytes()


class _InChild(Exception):
    """The child raised an error."""

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason)
        self.reason, self.trace = reason, trace


class _Child:
    """The child's side: it makes what the site installed, and answers requests with updates."""

    def __init__(self, make: Callable[[], Train | Stateful | Installed]) -> None:
        self._make, self._installed = make, cast("Installed", None)

    def begin(self) -> None:
        if "torch" in sys.modules:  # forked from a process that used torch, whose threads do not exist here
            single_threaded()
        made = self._make()
        self._installed = made if isinstance(made, Installed) else Installed(made)

    def handle(self, place: int, common: bytes, request: bytes) -> bytes:
        head, _, data = request.partition(b"\n")
        facts = json.loads(head)
        train = self._installed.train
        if facts["work"] == "describe":
            return json.dumps({"stateful": isinstance(train, Stateful)}).encode()
        model, state = np.frombuffer(data, facts["kind"], facts["length"]), b""
        rng = np.random.default_rng()
        rng.bit_generator.state = facts["rng"]
        given = model, facts["client"], facts["round"], rng
        if facts["work"] == "evaluate":
            update = _evaluated(self._installed.evaluate, model)
        elif isinstance(train, Stateful):
            update, after = train(*given, unpack_state(data[model.nbytes :]))
            state = pack_state(after)
        else:
            update = train(*given)
        # Python's own JSON keeps a NaN, which the encoding counts as a rejected update.
        arrays = pack_state({_DELTA: update.delta} | {_BLOCK + name: array for name, array in update.blocks.items()})
        reply: dict[str, Any] = {
            "arrays": len(arrays),
            "steps": update.steps,
            "examples": update.examples,
            "metrics": {name: float(value) for name, value in update.metrics.items()},
            "rng": rng.bit_generator.state,
        }
        return json.dumps(reply).encode() + b"\n" + arrays + state


def _evaluated(evaluate: Evaluate | None, model: Vector) -> ClientUpdate:
    if evaluate is None:
        raise ConfigError("this site evaluates nothing: set training.evaluate in policy.toml")
    examples, metrics = evaluate(model)
    return ClientUpdate(np.zeros(1), examples, dict(metrics))
