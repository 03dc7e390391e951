"""A data set, and the same set seen as clients: the indices of each client over one shared array."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from privfl.errors import ConfigError, DataError
from privfl.wire import ClientId

Task = Literal["binary", "multiclass", "regression", "text", "own"]

Indices = npt.NDArray[np.int64]
"""Indices of examples, int64 `[k]`, read-only."""

NO_EXAMPLES: Final[Indices] = np.zeros(0, np.int64)
NO_EXAMPLES.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """A natural partition.

    Attributes:
        name: The name of the grouping, such as "hospital".
        codes: The position in `names` of each example's group, int64 `[n]`.
        names: The names of the groups.
        of_persons: Whether the groups are persons, for `privacy.person`. Such a grouping is never the usual one, and
            its names are numbers, which identify nobody.
    """

    name: str
    codes: Indices = field(repr=False)
    names: tuple[str, ...]
    of_persons: bool = False

    def __post_init__(self) -> None:
        codes = _frozen(np.asarray(self.codes, np.int64))
        if codes.ndim != 1 or (codes.size and not 0 <= codes.min() <= codes.max() < len(self.names)):
            raise DataError(f"grouping {self.name!r}: codes must be a flat array within [0, {len(self.names)})")
        object.__setattr__(self, "codes", codes)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples in memory, read-only, and their public description. Raises `DataError` for arrays of another form.

    Attributes:
        name: The name of the set.
        task: "binary", "multiclass", "regression", "text", or "own" for arrays that a training of your own takes.
        features: float32 `[n, p]`, where NaN marks a missing value. For text uint8 `[n, window]`: positions in
            `classes`, which is then the alphabet.
        targets: int64 `[n]` in [0, len(classes)) for binary and multiclass, float32 `[n]` for regression. For text
            uint8 `[n, window]`: the character after each character. For "own" features and targets are numbers of any
            shape and type, `[n, ...]`, such as images, tokens or several targets. A memory-mapped array stays one: a
            client that trains reads its own examples.
        feature_names: The name of each feature, or empty.
        classes: The name of each class, or empty.
        test: The examples that the publisher of the set (or its rule) put aside; empty where there is no such split.
        groupings: The natural partitions, the usual one first.
        ranges: The public (low, high) of each feature, `[p]`, or None where some feature has none.
        inferred: Whether categories and types were read from the examples themselves.
        own: Whether the examples are a user's own, and so belong to somebody.
    """

    name: str
    task: Task
    features: npt.NDArray[Any] = field(repr=False)
    targets: npt.NDArray[Any] = field(repr=False)
    feature_names: tuple[str, ...] = field(default=(), repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    test: Indices = field(default_factory=lambda: NO_EXAMPLES, repr=False)
    groupings: tuple[Grouping, ...] = ()
    ranges: tuple[tuple[float, float], ...] | None = field(default=None, repr=False)
    inferred: bool = False
    own: bool = False

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ConfigError(f"task must be one of {', '.join(get_args(Task))}, not {self.task!r}")
        features, targets = np.asarray(self.features), np.asarray(self.targets)
        if self.task == "own":
            self._check_own(features, targets)
        else:
            self._check_features(features)
            self._check_targets(features, targets)
        test = np.asarray(self.test, np.int64)
        _check_indices([test], len(features), f"{self.name}: test")
        for grouping in self.groupings:
            if len(grouping.codes) != len(features):
                raise DataError(f"{self.name}: grouping {grouping.name!r} has {len(grouping.codes)} examples")
        for key, array in (("features", features), ("targets", targets), ("test", test)):
            object.__setattr__(self, key, _frozen(array))

    def _check_own(self, features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        for what, array in (("features", features), ("targets", targets)):
            if array.dtype.kind not in "biufc" or not array.ndim or not array.size:
                raise DataError(
                    f"{self.name}: {what} must be numbers [n, ...] with n >= 1, not {array.dtype} {array.shape}: give "
                    "an array whose first axis counts the examples"
                )
        if len(features) != len(targets):
            raise DataError(f"{self.name}: {len(features)} features, {len(targets)} targets: give one for each example")

    def _check_features(self, features: npt.NDArray[Any]) -> None:
        dtype = np.dtype(np.uint8 if self.task == "text" else np.float32)
        if features.ndim != 2 or features.dtype != dtype or 0 in features.shape:
            raise DataError(
                f"{self.name}: features must be {dtype} [n, p] with n, p >= 1, not {features.dtype} {features.shape}: "
                f"give features.astype(np.{dtype}), or numbers of another type from the rows of a `train` of your own"
            )
        if self.feature_names and len(self.feature_names) != features.shape[1]:
            raise DataError(f"{self.name}: {len(self.feature_names)} names for {features.shape[1]} features")
        if self.task != "text" and np.isinf(features).any():
            raise DataError(f"{self.name}: a feature is infinite")

    def _check_targets(self, features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        shape = features.shape if self.task == "text" else features.shape[:1]
        dtype = np.dtype({"text": np.uint8, "regression": np.float32}.get(self.task, np.int64))
        if targets.shape != shape or targets.dtype != dtype:
            raise DataError(
                f"{self.name}: targets must be {dtype} of shape {shape}, not {targets.dtype} {targets.shape}"
            )
        if self.task == "regression":
            if not np.isfinite(targets).all():
                raise DataError(f"{self.name}: a target is not finite")
            return
        if self.task == "binary" and len(self.classes) != 2:
            raise DataError(f"{self.name}: a binary task has 2 classes, not {len(self.classes)}")
        for array in (targets, features) if self.task == "text" else (targets,):
            if not 0 <= array.min() <= array.max() < len(self.classes):
                raise DataError(f"{self.name}: a label lies outside [0, {len(self.classes)})")

    @property
    def example_count(self) -> int:
        """The number of examples, n."""
        return len(self.features)

    @property
    def width(self) -> int:
        """The number of features of an example, p (of characters, for text; of all numbers, for arrays of your own)."""
        return math.prod(self.features.shape[1:])

    def train_indices(self) -> Indices:
        """Return the indices of all examples that `test` does not hold, increasing."""
        kept = np.ones(self.example_count, bool)
        kept[self.test] = False
        return _frozen(np.flatnonzero(kept))

    def grouping(self, name: str | None = None) -> Grouping:
        """Return the natural partition called `name`, or the usual one. Raises `ConfigError` where there is none."""
        for grouping in self.groupings:
            if grouping.name == name or (name is None and not grouping.of_persons):
                return grouping
        known = ", ".join(g.name for g in self.groupings) or "none"
        raise ConfigError(f"{self.name} has no natural clients by {name or 'anything'}; it has: {known}")

    def with_features(self, features: npt.NDArray[Any]) -> Dataset:
        """Return the same examples with other features `[n, p]` of the same names."""
        return dataclasses.replace(self, features=features)


@dataclass(frozen=True, slots=True, eq=False)
class ClientExamples:
    """The examples of one client, as indices: never a copy of the data.

    Attributes:
        name: The client's name.
        train: The indices of its training examples.
        test: The indices of its test examples.
    """

    name: str
    train: Indices = field(repr=False)
    test: Indices = field(default_factory=lambda: NO_EXAMPLES, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", _frozen(np.asarray(self.train, np.int64)))
        object.__setattr__(self, "test", _frozen(np.asarray(self.test, np.int64)))


@dataclass(frozen=True, slots=True, eq=False)
class FederatedData:
    """A data set and the examples of each client. The position in `clients` is the client's identity.

    Attributes:
        dataset: The data set.
        clients: The examples of each client.
        test: The indices of examples that no client holds: a public test set.

    Raises:
        ConfigError: An index is out of range or held twice, or a client has no example to train on.
    """

    dataset: Dataset
    clients: tuple[ClientExamples, ...] = field(repr=False)
    test: Indices = field(default_factory=lambda: NO_EXAMPLES, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "test", _frozen(np.asarray(self.test, np.int64)))
        if not self.clients:
            raise ConfigError("a federation has at least one client")
        held = [self.test]
        for client in self.clients:
            if not len(client.train):
                raise ConfigError(f"client {client.name!r} has no example to train on")
            held += [client.train, client.test]
        _check_indices(held, self.dataset.example_count, self.dataset.name, error=ConfigError)

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names, by identity."""
        return tuple(client.name for client in self.clients)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of training examples of each client, int64 `[clients]`."""
        return np.array([len(client.train) for client in self.clients], np.int64)

    def train(self, client: ClientId) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a client's training features and targets, gathered from the shared arrays."""
        return self._gather(self.clients[client].train)

    def local_test(self, client: ClientId) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a client's own test features and targets; empty where all test examples are public."""
        return self._gather(self.clients[client].test)

    def public_test(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return features and targets of the examples that no client holds; empty where the clients hold the test
        examples.
        """
        return self._gather(self.test)

    def all_train(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return all clients' training examples in one place: the data of a pooled model."""
        return self._gather(np.concatenate([client.train for client in self.clients]))

    def all_test(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return all clients' test examples and the public ones, in one place."""
        return self._gather(np.concatenate([*(client.test for client in self.clients), self.test]))

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Return the number of training examples of each class at each client, int64 `[clients, classes]`."""
        if self.dataset.task not in ("binary", "multiclass"):
            raise ConfigError(f"{self.dataset.name} is a {self.dataset.task} task: its examples have no class")
        width = len(self.dataset.classes)
        return np.stack([np.bincount(self.dataset.targets[c.train], minlength=width) for c in self.clients])

    def fingerprint(self) -> str:
        """Return SHA-256 (64 hex digits) over every value and over each client's indices: equal for equal
        federations.
        """
        digest = hashlib.sha256()
        tables = [rows for client in self.clients for rows in (client.train, client.test)]
        for array in (self.dataset.features, self.dataset.targets, self.test, *tables):
            digest.update(f"{array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        for grouping in self.dataset.groupings:
            if grouping.of_persons:  # whose examples are clipped together
                digest.update(f"{grouping.name}\n".encode() + grouping.codes.tobytes())
        return digest.hexdigest()

    def with_features(self, features: npt.NDArray[Any]) -> FederatedData:
        """Return the same clients over other features `[n, p]`."""
        return dataclasses.replace(self, dataset=self.dataset.with_features(features))

    def _gather(self, rows: Indices) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return self.dataset.features[rows], self.dataset.targets[rows]


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A read-only view: the caller's own array stays as writeable as it was."""
    view = array.view()
    view.flags.writeable = False
    return view


def persons_grouping(name: str, labels: npt.NDArray[Any], examples: npt.NDArray[np.bool_]) -> Grouping:
    """Return the grouping of examples by person, which keeps no label.

    Args:
        name: The name of the grouping.
        labels: The label of each example's person, `[n]`.
        examples: The examples that have a person, bool `[n]`; public test examples have none.
    """
    codes = np.zeros(len(labels), np.int64)
    persons, codes[examples] = np.unique(labels[examples], return_inverse=True)
    return Grouping(name, codes, tuple(map(str, range(1, len(persons) + 1))), of_persons=True)


def _check_indices(
    parts: Sequence[Indices], count: int, what: str, *, error: type[ConfigError | DataError] = DataError
) -> None:
    seen = np.zeros(count, bool)
    for part in parts:
        if part.ndim != 1 or (part.size and not 0 <= part.min() <= part.max() < count):
            raise error(f"{what}: indices of examples must be a flat array within [0, {count})")
        if seen[part].any() or len(np.unique(part)) != len(part):
            raise error(f"{what}: an example is held twice")
        seen[part] = True
