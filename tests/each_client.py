"""Executors with the work of one client at a time, as the tests write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from privfl.codec import Vector
from privfl.fl.chunks import Chunk, ChunkAnswer, Chunking, one_by_one
from privfl.fl.client import Executor, Work
from privfl.ring import Ints

One = Callable[..., Any]
"""(model, client, order) -> contribution, or (model, client, order, state) -> (contribution, new state)."""


@lru_cache(maxsize=256)
def chunked(one: One) -> Work:
    """The work of a chunk, client by client; the same for the same function."""

    def work(
        model: Vector,
        clients: Chunk,
        order: bytes,
        *,
        states: Sequence[bytes] | None = None,
        counted: frozenset[int] | None = None,
    ) -> ChunkAnswer:
        def with_state(model: Vector, client: int, order: bytes, state: bytes) -> tuple[Ints, bytes]:
            return one(model, client, order, state) if states is not None else (one(model, client, order), b"")

        return one_by_one(with_state, model, clients, order, states)

    return work


def each(
    executor: Executor,
    one: One,
    model: Vector,
    clients: Iterable[int],
    *,
    order: bytes,
    states: MutableMapping[int, bytes] | None = None,
    size: int = 1,
) -> Iterator[tuple[int, Ints]]:
    """Each client and its contribution, as the executor yields them."""
    chunks = Chunking(size=size).of(list(clients))
    for answer in executor.run(chunked(one), model, chunks, order=order, states=states):
        yield from zip(answer.clients, answer.rows, strict=True)
