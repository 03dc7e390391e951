"""Checks of the vectors that go into a sum and of the total that comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privfl.errors import ConfigError, RemoteProtocolError
from privfl.ring import Ints
from privfl.sums.base import MIN_VECTORS, SumTask
from privfl.wire import ClientId


def checked_total(task: SumTask, total: Ints, survivors: int) -> Ints:
    """Return `total` if the vectors of the survivors, within the task's bound, can add up to it.

    Args:
        task: The task.
        total: int64 `[length]`.
        survivors: The number of clients in the sum.

    Raises:
        RemoteProtocolError: An entry is beyond survivors times bound: some client's vector broke the bound, so the
            opened sum is not the one that the clients agreed on. The message holds no entry.
    """
    limit = task.limit(survivors)
    if len(total) and (int(total.max()) > limit or int(total.min()) < -limit):
        raise RemoteProtocolError(
            f"an entry of the opened sum is beyond {survivors} times the task's bound of {task.bound}"
            f"{f', or its max_sum of {limit}' if task.max_sum else ''}: some client broke the bound, and nothing is "
            "released"
        )
    return total


def few_vectors(survivors: int) -> tuple[str, ...]:
    """The caveat of an opened sum of fewer than three vectors, or none."""
    if survivors >= MIN_VECTORS:
        return ()
    return (f"a sum of {survivors} vector{'s' if survivors != 1 else ''} hides nobody's: min_vectors allowed it",)


def checked_vector(task: SumTask, me: ClientId, vector: Ints) -> Ints:
    """Return `vector` as int64 `[task.length]`.

    Args:
        task: The task.
        me: The client.
        vector: Its vector.

    Raises:
        ConfigError: It is not a vector that `me` may sum under `task`.
    """
    if me not in task.clients:
        raise ConfigError(f"client {me} is not in the cohort")
    if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "iu":
        raise ConfigError("the vector must be a numpy array of integers; encode it with a FixedPoint codec")
    if vector.shape != (task.length,):
        raise ConfigError(f"the vector has shape {vector.shape}, the task asks for ({task.length},)")
    _check_bound(task, vector)
    return vector.astype(np.int64, copy=False)


def checked_rows(task: SumTask, clients: Sequence[ClientId], rows: Ints) -> Ints:
    """Return the vectors of several clients, int64 `[clients, task.length]`.

    Args:
        task: The task.
        clients: Whose vectors these are.
        rows: Their vectors.

    Raises:
        ConfigError: They are not vectors that these clients may sum under `task`.
    """
    if rows.shape != (len(clients), task.length):
        raise ConfigError(f"the vectors have shape {rows.shape}, the task asks for ({len(clients)}, {task.length})")
    if len(rows):
        _check_bound(task, rows)
    return rows


def _check_bound(task: SumTask, vector: Ints) -> None:
    # Python's integers compare exactly, where a signed and an unsigned numpy word would meet as floats.
    low, high = int(vector.min()), int(vector.max())
    bound = task.vector_bound
    if low < -bound or high > bound:
        raise ConfigError(f"an entry is beyond the task's bound of {bound}: clip the vector, or raise the bound")
