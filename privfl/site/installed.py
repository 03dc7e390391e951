"""The functions that a site installed and pinned by hash: training, and the evaluation of models."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from privfl.codec import Vector
from privfl.errors import ConfigError, StateError
from privfl.fl.client import Train
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleGradients
from privfl.site.policy import Training

Evaluate = Callable[[Vector], tuple[int, Mapping[str, float]]]
"""(model) -> (number of test examples, mean of each metric over them)."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The functions that a site installed, over its own data.

    Attributes:
        train: The training function; a `Stateful` one keeps a state at the site between rounds, and an
            `ExampleGradients` serves plans about examples.
        evaluate: The evaluation of a model on the site's test examples; None refuses plans that evaluate.
    """

    train: Train | Stateful | ExampleGradients
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
