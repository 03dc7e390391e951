"""Data sets by name, and partitions by a short spec: the words of a configuration file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from privfl.data import partitions
from privfl.data.adult import adult
from privfl.data.bundled import breast_cancer, diabetes, digits
from privfl.data.heart import heart
from privfl.data.mnist import mnist
from privfl.data.parkinsons import parkinsons
from privfl.data.sets import NO_EXAMPLES, ClientExamples, Dataset, FederatedData, Indices
from privfl.data.shakespeare import shakespeare
from privfl.errors import ConfigError

T = TypeVar("T", int, float)

Folder = str | os.PathLike[str] | None

BUNDLED: Final[dict[str, Callable[[], Dataset]]] = {
    "breast_cancer": breast_cancer,
    "diabetes": diabetes,
    "digits": digits,
}
"""Sets that come with scikit-learn."""

FROM_FOLDER: Final[dict[str, Callable[[Folder], Dataset]]] = {
    "adult": adult,
    "heart": heart,
    "mnist": mnist,
    "parkinsons": parkinsons,
    "shakespeare": shakespeare,
}
"""Sets that are read from the data folder."""

NAMES: Final = tuple(sorted([*BUNDLED, *FROM_FOLDER]))

SPECS: Final = ("iid", "dirichlet:ALPHA", "shards:PER_CLIENT", "quantity:EXPONENT", "natural", "natural:GROUPING")


def load(name: str, folder: Folder = None) -> Dataset:
    """Return a data set by its name.

    Args:
        name: One of `NAMES`.
        folder: The folder of data sets, as in `privfl.data.folder.data_folder`; not used for bundled sets.

    Raises:
        ConfigError: There is no such set.
        DataError: A file is absent or altered.
        MissingExtra: A bundled set needs scikit-learn.
    """
    if name in BUNDLED:
        return BUNDLED[name]()
    if name in FROM_FOLDER:
        return FROM_FOLDER[name](folder)
    raise ConfigError(f"unknown data set {name!r}; allowed are {', '.join(NAMES)}")


def partition(
    dataset: Dataset,
    spec: str,
    clients: int | None = None,
    seed: int = 0,
    *,
    test_fraction: float = 0.2,
    min_examples: int = 1,
) -> FederatedData:
    """Split the examples of `dataset` among clients.

    Test examples of the set's own stay with their group under "natural"; under every other spec no client holds them (a
    public test set). Labels of a regression are tenths of its targets.

    Args:
        dataset: The data set.
        spec: One of `SPECS`, such as "dirichlet:0.5". "natural" makes one client of each group with training examples.
        clients: The number of clients; may be left out under "natural".
        seed: The seed of the partition.
        test_fraction: The fraction of its examples that each client puts aside where the set has no test examples, in
            [0, 1). For text these are its last ones.
        min_examples: The minimum for each client under "dirichlet" and "quantity".

    Raises:
        ConfigError: The spec or an argument is not allowed; the message names the value found and the values allowed.
    """
    kind, argument = _parse(spec)
    if kind == "natural":
        return _natural(dataset, argument, clients, seed, test_fraction)
    if clients is None:
        raise ConfigError(f"partition {spec!r} needs the number of clients")
    rows = dataset.train_indices()
    parts = _deal(dataset, (kind, argument), rows, clients=clients, seed=seed, min_examples=min_examples)
    holders = []
    for client, part in enumerate(parts):
        own = rows[part]
        train, test = (own, NO_EXAMPLES) if len(dataset.test) else _hold_out(dataset, own, test_fraction, seed, client)
        holders.append(ClientExamples(f"client {client}", train, test))
    return FederatedData(dataset, tuple(holders), dataset.test)


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, argument = spec.partition(":")
    takes = {known.partition(":")[0]: known for known in SPECS}
    wrong = kind not in takes or (kind == "iid" and colon) or (colon and not argument)
    if wrong or (kind in ("dirichlet", "shards", "quantity") and not colon):
        raise ConfigError(f"unknown partition {spec!r}; allowed are {', '.join(SPECS)}")
    return kind, argument


def _deal(
    dataset: Dataset, spec: tuple[str, str], rows: Indices, *, clients: int, seed: int, min_examples: int
) -> partitions.Parts:
    kind, argument = spec
    if kind == "iid":
        return partitions.iid(len(rows), clients, seed)
    if kind == "quantity":
        return partitions.quantity(len(rows), clients, _number(kind, argument, float), seed, min_examples=min_examples)
    labels = _labels(dataset, kind)[rows]
    if kind == "shards":
        return partitions.shards(labels, clients, _number(kind, argument, int), seed)
    return partitions.dirichlet(labels, clients, _number(kind, argument, float), seed, min_examples=min_examples)


def _natural(dataset: Dataset, name: str, clients: int | None, seed: int, test_fraction: float) -> FederatedData:
    grouping = dataset.grouping(name or None)
    given = np.zeros(dataset.example_count, bool)
    given[dataset.test] = True
    holders: list[ClientExamples] = []
    orphans = [NO_EXAMPLES]
    parts = partitions.natural(grouping.codes, len(grouping.names))
    for group, part in zip(grouping.names, parts, strict=True):
        if len(dataset.test):
            train, test = part[~given[part]], part[given[part]]
        else:
            train, test = _hold_out(dataset, part, test_fraction, seed, len(holders))
        if len(train):
            holders.append(ClientExamples(group, train, test))
        else:
            orphans.append(test)  # a group that has test examples only trains nothing: its examples are public
    if clients is not None and clients != len(holders):
        raise ConfigError(
            f"{dataset.name} has {len(holders)} natural clients by {grouping.name}, not {clients}; "
            "leave clients out or choose another partition"
        )
    return FederatedData(dataset, tuple(holders), np.sort(np.concatenate(orphans)))


def _hold_out(dataset: Dataset, rows: Indices, fraction: float, seed: int, client: int) -> tuple[Indices, Indices]:
    return partitions.hold_out(rows, fraction, seed, client, tail=dataset.task == "text")


def _labels(dataset: Dataset, kind: str) -> npt.NDArray[Any]:
    if dataset.task == "text":
        raise ConfigError(
            f"{dataset.name} is text, whose examples have no label for {kind!r}: use iid, quantity or natural"
        )
    if dataset.task == "own" and (dataset.targets.ndim > 1 or dataset.targets.dtype.kind not in "iu"):
        raise ConfigError(f"the targets of {dataset.name} are no labels for {kind!r}: use iid, quantity or natural")
    return partitions.bins(dataset.targets) if dataset.task == "regression" else dataset.targets


def _number(kind: str, argument: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(argument)
    except ValueError as error:
        raise ConfigError(f"{kind} takes a number, not {argument!r}: allowed are {', '.join(SPECS)}") from error
