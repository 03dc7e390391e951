"""Examples that a program holds already: numpy arrays, and data sets of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from privfl.data.sets import NO_EXAMPLES, Dataset, Grouping, Task, persons_grouping
from privfl.errors import ConfigError, DataError


def from_arrays(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    clients: Sequence[Any] | npt.NDArray[Any] | None = None,
    persons: Sequence[Any] | npt.NDArray[Any] | None = None,
    test: npt.ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    task: Literal["classes", "regression"] | None = None,
    feature_names: Sequence[str] = (),
    name: str = "arrays",
) -> Dataset:
    """Return a data set of arrays.

    Args:
        features: Numbers `[n, ...]`; images and other shapes are flattened to `[n, p]`. NaN marks a missing value.
        targets: Whole numbers or text are classes, other numbers are a regression; `[n]`.
        clients: The client of each example, `[n]`; None leaves clients to a partition.
        persons: The person of each example, `[n]`, for `privacy.person = "person"`; None states none. The labels are
            not kept.
        test: The indices of the examples that belong to nobody and are tested on; none by default.
        classes: The names of the classes 0, 1, ...; None takes the different values of `targets`, in their order.
        task: "classes" or "regression"; by default a regression if some target is no whole number.
        feature_names: The names of the features, `[p]`; none by default.
        name: The name of the data set.

    Raises:
        DataError: The arrays have no example, other lengths than each other, or values of another kind.
    """
    table, labels = np.asarray(features), np.asarray(targets)
    if table.dtype.kind not in "fiub" or table.ndim < 2 or not table.size:
        raise DataError(f"{name}: features must be numbers [n, p] with n, p >= 1, not {table.dtype} {table.shape}")
    if labels.shape != table.shape[:1]:
        raise DataError(f"{name}: targets must be one for each of {len(table)} examples, not of shape {labels.shape}")
    kind, codes, names = _targets(name, labels, classes, task)
    groups: tuple[Grouping, ...] = ()
    if clients is not None:
        owners, places = np.unique(np.asarray(clients).astype(str), return_inverse=True)
        if places.shape != labels.shape:
            raise DataError(f"{name}: clients must be one for each of {len(table)} examples, not {places.shape}")
        groups = (Grouping("client", places, tuple(map(str, owners))),)
    if persons is not None:
        of_whom = np.asarray(persons).astype(str)
        if of_whom.shape != labels.shape:
            raise DataError(f"{name}: persons must be one for each of {len(table)} examples, not {of_whom.shape}")
        groups += (persons_grouping("person", of_whom, np.ones(len(of_whom), bool)),)
    return Dataset(
        name=name,
        task=kind,
        features=table.reshape(len(table), -1).astype(np.float32),
        targets=codes,
        feature_names=tuple(feature_names),
        classes=names,
        test=NO_EXAMPLES if test is None else np.asarray(test, np.int64),
        groupings=groups,
        own=True,
    )


def from_torch(dataset: Any, **settings: Any) -> Dataset:
    """Return a data set of a torch `Dataset` whose items are (features, target); it is read once, into memory.

    Args:
        dataset: Anything with a length and items `(features, target)`, tensors or arrays.
        settings: Further arguments of `from_arrays`.

    Raises:
        DataError: The items are no such pairs, or have different shapes.
    """
    try:
        items = [dataset[at] for at in range(len(dataset))]
        features = np.stack([np.asarray(item[0]) for item in items])
        targets = np.array([np.asarray(item[1]).item() for item in items])
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"the items of a data set must be (features, target) of one shape ({type(error).__name__}): give a "
            "transform that makes them so"
        ) from None
    return from_arrays(features, targets, **{"name": type(dataset).__name__, **settings})


def _targets(
    name: str, labels: npt.NDArray[Any], classes: Sequence[str] | None, task: str | None
) -> tuple[Task, npt.NDArray[Any], tuple[str, ...]]:
    if task not in (None, "classes", "regression"):
        raise ConfigError(f"task must be 'classes' or 'regression', not {task!r}")
    fractions = labels.dtype.kind == "f" and not bool((labels == np.rint(labels)).all())
    if task == "regression" or (task is None and classes is None and fractions):
        return "regression", labels.astype(np.float32), ()
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"{name}: {int((~np.isfinite(labels)).sum())} targets are not finite: leave them out")
    if classes is not None:
        codes = labels.astype(np.int64)
        return ("binary" if len(classes) == 2 else "multiclass"), codes, tuple(map(str, classes))
    if labels.dtype.kind == "f":
        labels = labels.astype(np.int64)
    values, codes = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"{name}: all targets are equal: there is nothing to learn")
    return ("binary" if len(values) == 2 else "multiclass"), codes.astype(np.int64), tuple(map(str, values))
