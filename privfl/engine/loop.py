"""Clients one after the other, in the caller's own process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

from privfl.codec import Vector
from privfl.errors import ClientFailed, TooFewSurvivors, reason_of
from privfl.fl.chunks import Chunk, ChunkAnswer
from privfl.fl.client import Work
from privfl.wire import ClientId


class LoopExecutor:
    """Runs every chunk in this process, each when the consumer asks for it: one chunk's contributions are held."""

    def run(
        self,
        work: Work,
        model: Vector,
        chunks: Iterable[Chunk],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> Iterator[ChunkAnswer]:
        """Yield the answers in the order of `chunks`.

        Args:
            work: Makes the contributions of a chunk.
            model: The global model, float `[d]`; clients see it read-only.
            chunks: The clients of the cohort, in chunks.
            order: The bytes of the round's plan.
            states: The state of each client, which its new state replaces; None for clients without one.
            counted: An answer holds one sum, over the clients of its chunk that are in `counted`. With None it holds
                the contribution of each client by itself.

        Raises:
            ClientFailed: `work` raised an error.
            TooFewSurvivors: There is no client at all.
        """
        lent = model.view()
        lent.flags.writeable = False
        empty = True
        for chunk in chunks:
            empty = False
            yield perform(work, lent, chunk, order=order, states=states, counted=counted)
        if empty:
            raise TooFewSurvivors(0, 1)

    def close(self) -> None:
        """Do nothing: this executor holds no process and no file."""


def perform(
    work: Work,
    model: Vector,
    chunk: Chunk,
    *,
    order: bytes,
    states: MutableMapping[ClientId, bytes] | None,
    counted: frozenset[ClientId] | None,
) -> ChunkAnswer:
    """The answer of one chunk, whose new states are in `states` then.

    Args:
        work: Makes the contributions.
        model: The global model, float `[d]`, read-only.
        chunk: The clients.
        order: The bytes of the round's plan.
        states: The state of each client; None for clients without one.
        counted: The clients whose contributions are added up; None keeps each by itself.

    Raises:
        ClientFailed: `work` raised an error. It names the client where `work` does, and the first of the chunk
            otherwise.
    """
    before = None if states is None else [states[client] for client in chunk]
    try:
        answer = work(model, chunk, order, states=before, counted=counted)
    except ClientFailed:
        raise
    except Exception as error:
        raise ClientFailed(chunk[0], reason_of(error)) from error
    if states is not None:
        states.update(zip(chunk, answer.states, strict=True))
    return answer
