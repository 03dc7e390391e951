"""Chunks of a cohort: which clients are trained together in a simulation, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from privfl.checks import check_choice
from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, reason_of
from privfl.fl.faults import kind_of
from privfl.ring import Ints
from privfl.sums import SumTask
from privfl.sums.checks import checked_rows
from privfl.wire import ClientId

Chunk = tuple[ClientId, ...]
"""Clients that are handed to an executor together, increasing."""

MAX_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Chunking:
    """The size of the chunks of a cohort, and the training of a chunk: all that the result of a round depends on.

    Attributes:
        kind: "single" trains the clients of a chunk one by one; "batched" trains them at once, by the `train_cohort` of
            the training.
        size: The clients of a chunk, in [1, 65,536]; the last chunk of a cohort may be smaller. Without "batched" the
            model is the same for every size.
    """

    kind: Literal["single", "batched"] = "single"
    size: int = 1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("single", "batched"))
        if type(self.size) is not int or not 1 <= self.size <= MAX_CHUNK:
            raise ConfigError(f"the size of a chunk must be an integer in [1, {MAX_CHUNK}], not {self.size!r}")

    def of(self, cohort: Sequence[ClientId]) -> list[Chunk]:
        """The chunks of a cohort, in its order."""
        return [tuple(cohort[at : at + self.size]) for at in range(0, len(cohort), self.size)]


EACH_ALONE: Final = Chunking()


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """The contributions of the clients of one chunk to a round.

    Attributes:
        clients: The clients whose contributions are here, in the order of the rows.
        rows: The contributions, int64 `[clients, length]`; their sum alone, `[1, length]`, where `added` is true.
        states: The new state of every client of the chunk, in the chunk's order; empty for clients without states.
        faults: The type of the error of each client that drops out because its training raised one.
        added: True if `rows` is the sum of the contributions.
    """

    clients: Chunk
    rows: Ints = field(repr=False)
    states: tuple[bytes, ...] = field(default=(), repr=False)
    faults: Mapping[ClientId, str] = field(default_factory=dict)
    added: bool = False

    def sum(self, task: SumTask, counted: frozenset[ClientId]) -> ChunkAnswer:
        """The same with the exact sum in place of the rows, over the clients in `counted`.

        Args:
            task: The round's sum, within whose bound every contribution must lie.
            counted: The clients that do not drop out.

        Raises:
            ConfigError: If a row is beyond the bound.
        """
        if not self.clients:
            return replace(self, added=True)
        checked_rows(task, self.clients, self.rows)
        places = [place for place, client in enumerate(self.clients) if client in counted]
        clients = tuple(self.clients[place] for place in places)
        rows = self.rows if len(places) == len(self.clients) else self.rows[places]
        total = rows.sum(axis=0, keepdims=True) if len(rows) != 1 else rows
        return ChunkAnswer(clients, total, self.states, self.faults, added=True)


One = Callable[[Vector, ClientId, bytes, bytes], tuple[Ints, bytes]]
"""One client's work, (model, client, order, state) -> (contribution int64 `[length]`, new state)."""


def one_by_one(
    one: One,
    model: Vector,
    clients: Chunk,
    order: bytes,
    states: Sequence[bytes] | None = None,
    *,
    drops: bool = False,
) -> ChunkAnswer:
    """Have the clients of a chunk work one after the other.

    Args:
        one: The work of one client.
        model: The global model, float `[d]`.
        clients: The chunk.
        order: The bytes of the round's plan.
        states: The state of each client; None for clients without states.
        drops: True if a client whose work raises an error drops out, with its state unchanged.

    Raises:
        ClientFailed: If a client's work raised an error and `drops` is false, or its contribution is no flat int64
            array.
    """
    rows, taking_part, after, faults = list[Ints](), list[ClientId](), list[bytes](), dict[ClientId, str]()
    for place, client in enumerate(clients):
        before = b"" if states is None else states[place]
        try:
            row, new = one(model, client, order, before)
            _check(row)
        except Exception as error:
            if not drops:
                raise ClientFailed(client, reason_of(error)) from error
            faults[client] = kind_of(error)
            after.append(before)
            continue
        rows.append(row)
        taking_part.append(client)
        after.append(new)
    return ChunkAnswer(tuple(taking_part), stacked(rows), () if states is None else tuple(after), faults)


def stacked(rows: Sequence[Ints]) -> Ints:
    """Contributions of one length as int64 `[clients, length]`; a single one is not copied."""
    if len(rows) == 1:
        return rows[0][np.newaxis]
    return np.stack(rows) if rows else np.zeros((0, 0), np.int64)


def _check(result: Any) -> None:
    if not (isinstance(result, np.ndarray) and result.dtype == np.int64 and result.ndim == 1):
        found = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise ConfigError(f"a contribution is a flat int64 array, not {found}")


def joined(answers: Iterable[ChunkAnswer]) -> ChunkAnswer:
    """Add up several answers that each hold an exact sum, and return the total as one answer without states.

    The answers are read one after the other, so memory holds the total and one answer.
    """
    clients, faults, total = list[ClientId](), dict[ClientId, str](), np.zeros((0, 0), np.int64)
    for answer in answers:
        faults.update(answer.faults)
        if not answer.clients:
            continue
        if clients:
            np.add(total, answer.rows, out=total)
        else:
            total = answer.rows.copy()
        clients += answer.clients
    return ChunkAnswer(tuple(clients), total, faults=faults, added=True)
