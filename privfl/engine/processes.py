"""Clients in a pool of processes that share memory with the server.

The model is written once a round into memory that all workers see, and the contributions of a chunk come back as int64
in a slot of such memory. Clients' states go to them through a place of such memory, and new states come back through a
pipe. Otherwise only the plan of the round and a few numbers per chunk cross a pipe. Sums are exact integers, and all
randomness is keyed by the plan and the client. The model therefore does not depend on the number of workers or on their
order.
"""

from __future__ import annotations

import json
import mmap
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.engine.exclusive import ExclusiveExecutor
from privfl.engine.loop import LoopExecutor, perform
from privfl.engine.pool import Failure, Pool, can_fork
from privfl.errors import ClientFailed, ConfigError, TooFewSurvivors
from privfl.files import canonical_json
from privfl.fl.chunks import Chunk, ChunkAnswer
from privfl.fl.client import Work
from privfl.wire import ClientId

SLOTS: Final = 2
"""Chunks that a worker may have under way: it trains one while the server still reads the one before."""


_MAX_TRACEBACK: Final = 20_000
"""Characters: the pipe must take an answer while nobody reads it."""


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as the `__cause__` of the `ClientFailed` it led to.

    Args:
        failure: What the worker sent.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"in worker process {failure.pid}:\n{failure.traceback}")


class ProcessExecutor(ExclusiveExecutor):
    """Runs clients in worker processes, which are forked at the first round and kept while the work stays the same.

    Workers see the caller's objects as they were when the pool started. What changes from round to round reaches them
    as bytes: the `order`, which is the round's plan. Another `work`, or a model of another length,
    starts a new pool. Where this process cannot fork (`privfl.engine.pool.can_fork`) it runs the clients itself; the
    result is the same.

    A context manager; `close` ends the workers.

    Args:
        workers: The number of processes, at least 1.
        initializer: Called once in each worker before its first client. A work that uses torch needs
            `privfl.adapters.torch.state.one_thread`.
        length: The room for one contribution, in int64 entries. The default is twice the model and 4096 more, which
            costs address space and no memory.

    Raises:
        ConfigError: `workers` or `length` is below 1.
    """

    def __init__(
        self, workers: int, *, initializer: Callable[[], None] | None = None, length: int | None = None
    ) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        if length is not None and length < 1:
            raise ConfigError(f"length must be at least 1, not {length}")
        super().__init__()
        self.workers = workers
        self._initializer, self._length = initializer, length
        self._clients: _Clients | None = None
        self._pool: Pool | None = None

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
        """Yield the answer of each chunk when it is ready.

        If a client fails, or the consumer stops early, the round and the pool end. The next round starts a new pool.

        Args:
            work: Makes the contributions of a chunk.
            model: The model of this round, float `[d]`; workers see it read-only.
            chunks: The clients of the cohort, in chunks that one worker takes at a time.
            order: The bytes of the round's plan.
            states: The state of each client, which its new state replaces; None for clients without one.
            counted: An answer holds one sum, over the clients of its chunk that are in `counted`. With None it holds
                the contribution of each client by itself.

        Returns:
            An iterator over the answers, in the order of arrival.

        Raises:
            ClientFailed: The work of a client raised an error, or its process ended.
            LocalProtocolError: Another round of this executor is still under way.
            TooFewSurvivors: There is no client at all.
        """
        with self._one_round():
            if not (cohort := list(chunks)):
                raise TooFewSurvivors(0, 1)
            if can_fork():
                yield from self._in_workers(work, model, cohort, order=order, states=states, counted=counted)
            else:
                yield from LoopExecutor().run(work, model, cohort, order=order, states=states, counted=counted)

    def close(self) -> None:
        """End the workers, at once if they are busy, and give their memory back; may be called again."""
        pool, self._pool, self._clients = self._pool, None, None
        if pool is not None:
            pool.close()

    def _in_workers(
        self,
        work: Work,
        model: Vector,
        chunks: Sequence[Chunk],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None,
        counted: frozenset[ClientId] | None,
    ) -> Iterator[ChunkAnswer]:
        given = [[] if states is None else [states[client] for client in chunk] for chunk in chunks]
        clients = 1 if counted is not None else max(map(len, chunks))
        known, pool = self._ready(work, model, clients, max(sum(map(len, one)) for one in given))
        requests = [
            canonical_json([chunk, None if states is None else list(map(len, before)), _among(chunk, counted)])
            for chunk, before in zip(chunks, given, strict=True)
        ]

        def lend(place: int, index: int) -> None:
            known.lend(place, b"".join(given[index]))

        for index, got in pool.map(requests, known.read, common=order, lend=lend):
            chunk = chunks[index]
            if isinstance(got, Failure):
                who = "" if len(chunk) == 1 else f" with the clients {', '.join(map(str, chunk))}"
                cause = WorkerTraceback(got) if got.traceback else None
                raise ClientFailed(chunk[0], f"{got.reason}{who}") from cause
            if isinstance(got, _Fault):
                raise ClientFailed(got.client, got.failure.reason) from WorkerTraceback(got.failure)
            if states is not None:
                states.update(zip(chunk, got.states, strict=True))
            yield got

    def _ready(self, work: Work, model: Vector, clients: int, state: int) -> tuple[_Clients, Pool]:
        """The pool for this work, models of this form, chunks of so many clients, and states of up to `state` bytes."""
        known, pool = self._clients, self._pool
        if known is None or pool is None or not (pool.usable and known.fits(work, model, clients, state)):
            self.close()
            room = (self._length or 2 * len(model) + 4096) * clients
            known = self._clients = _Clients.of(
                work, model, self.workers * SLOTS, room=room, clients=clients, state=2 * state
            )
            pool = self._pool = Pool(known, self.workers, ahead=SLOTS, initializer=self._initializer)
        np.copyto(known.model, model)
        return known, pool


def _among(chunk: Chunk, counted: frozenset[ClientId] | None) -> list[ClientId] | None:
    return None if counted is None else [client for client in chunk if client in counted]


@dataclass(frozen=True, slots=True)
class _Fault:
    """A client whose work raised an error in a worker."""

    client: ClientId
    failure: Failure


@dataclass
class _Clients:
    """The clients' work, and the memory that it shares with the server: a model, and a slot a place of the pool."""

    work: Work
    model: Vector
    slots: npt.NDArray[np.int64]
    states: npt.NDArray[np.uint8]
    clients: int

    @classmethod
    def of(cls, work: Work, model: Vector, places: int, *, room: int, clients: int, state: int) -> _Clients:
        shared = np.frombuffer(_share(model.nbytes), model.dtype, len(model))
        slots = np.frombuffer(_share(8 * places * room), np.int64, places * room)
        states = np.frombuffer(_share(places * state), np.uint8, places * state)
        return cls(work, shared, slots.reshape(places, room), states.reshape(places, state), clients)

    def fits(self, work: Work, model: Vector, clients: int, state: int) -> bool:
        """Report if these are for this `work`, models of this form, and chunks and states of this size."""
        same = self.work is work and state <= self.states.shape[1] and clients <= self.clients
        return same and (self.model.dtype, len(self.model)) == (model.dtype, len(model))

    def __call__(self, place: int, common: bytes, request: bytes) -> bytes:
        """In a worker: the contributions of a chunk into the slot; the answer says what they are, and new states."""
        lent = self.model.view()
        lent.flags.writeable = False
        chunk, sizes, counted = json.loads(request)
        states = None
        if sizes is not None:
            parts = pairwise(accumulate(sizes, initial=0))
            states = {c: self.states[place, i:j].tobytes() for c, (i, j) in zip(chunk, parts, strict=True)}
        among = None if counted is None else frozenset(counted)
        try:
            answer = perform(self.work, lent, tuple(chunk), order=common, states=states, counted=among)
        except ClientFailed as error:
            trace = "".join(traceback.format_exception(error.__cause__ or error))[-_MAX_TRACEBACK:]
            return canonical_json({"failed": [error.client, error.reason, os.getpid(), trace]}) + b"\n"
        rows, room = answer.rows, self.slots.shape[1]
        if rows.size > room:
            each = room // self.clients
            raise ConfigError(f"a contribution has {rows.shape[1]} entries, and length is {each}")
        self.slots[place, : rows.size] = rows.ravel()
        record: dict[str, Any] = {
            "clients": answer.clients,
            "shape": rows.shape,
            "sizes": list(map(len, answer.states)),
            "faults": list(answer.faults.items()),
            "added": answer.added,
        }
        return canonical_json(record) + b"\n" + b"".join(answer.states)

    def read(self, place: int, answer: bytes) -> ChunkAnswer | _Fault:
        """In the server: the contributions, copied out of their slot, and the clients' new states."""
        line, _, rest = answer.partition(b"\n")
        record = json.loads(line)
        if "failed" in record:
            client, reason, pid, trace = record["failed"]
            return _Fault(client, Failure(reason, pid, trace))
        count, length = record["shape"]
        rows = self.slots[place, : count * length].reshape(count, length).copy()
        states = tuple(rest[i:j] for i, j in pairwise(accumulate(record["sizes"], initial=0)))
        return ChunkAnswer(tuple(record["clients"]), rows, states, dict(record["faults"]), record["added"])

    def lend(self, place: int, states: bytes) -> None:
        """In the server: the clients' states into the memory of the place where they will be trained."""
        self.states[place, : len(states)] = np.frombuffer(states, np.uint8)


def _share(size: int) -> mmap.mmap:
    """Zeroed memory of at least `size` bytes that forked children see.

    It has no name, so no crash can leave it behind; it is not bounded by the size of /dev/shm, and is not taken until
    it is written to.
    """
    return mmap.mmap(-1, max(mmap.PAGESIZE, size))
