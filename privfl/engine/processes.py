"""Clients in a pool of processes that share memory with the server.

The model is written once a round into memory that all workers see, and a contribution comes back as int64 in a slot of
such memory. A client's state goes to it through a place of such memory, and its new state comes back through a pipe.
Otherwise only the plan of the round and a few numbers per client cross a pipe. Sums are exact integers, and all
randomness is keyed by the plan and the client. The model therefore does not depend on the number of workers or on their
order.
"""

from __future__ import annotations

import mmap
import types
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.engine.loop import LoopExecutor, perform
from privfl.engine.pool import Failure, Pool, can_fork
from privfl.errors import ClientFailed, ConfigError, LocalProtocolError, TooFewSurvivors
from privfl.fl.client import StatefulWork, Work
from privfl.ring import Ints
from privfl.wire import ClientId

SLOTS: Final = 2
"""Contributions a worker may have under way: it trains one client while the server still reads the one before."""


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as the `__cause__` of the `ClientFailed` it led to.

    Args:
        failure: What the worker sent.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"in worker process {failure.pid}:\n{failure.traceback}")


class ProcessExecutor:
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
        self.workers = workers
        self._initializer, self._length = initializer, length
        self._clients: _Clients | None = None
        self._pool: Pool | None = None
        self._busy = False

    def run(
        self,
        work: Work | StatefulWork,
        model: Vector,
        clients: Iterable[ClientId],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
    ) -> Iterator[tuple[ClientId, Ints]]:
        """Yield each client's contribution as it is ready.

        A client that fails ends the round and the pool with it; so does a consumer that stops early. The next round
        starts a new pool.

        Args:
            work: A client's whole contribution.
            model: The model of this round, float `[d]`; workers see it read-only.
            clients: The cohort.
            order: The bytes of the round's plan.
            states: The state of each client, which its new state replaces; None for clients without one.

        Returns:
            An iterator over (client, int64 `[length]`), in the order of arrival.

        Raises:
            ClientFailed: The work of a client raised an error, or its process ended.
            LocalProtocolError: Another round of this executor is still under way.
            TooFewSurvivors: There is no client at all.
        """
        if self._busy:
            raise LocalProtocolError("this executor is still running another round")
        self._busy = True
        whole, cohort = False, list(clients)
        try:
            if not cohort:
                raise TooFewSurvivors(0, 1)
            if can_fork():
                yield from self._in_workers(work, model, cohort, order, states)
            else:
                yield from LoopExecutor().run(work, model, cohort, order=order, states=states)
            whole = True
        finally:
            self._busy = False
            if not whole:
                self.close()

    def close(self) -> None:
        """End the workers, at once if they are busy, and give their memory back; may be called again."""
        pool, self._pool, self._clients = self._pool, None, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _in_workers(
        self,
        work: Work | StatefulWork,
        model: Vector,
        cohort: Sequence[ClientId],
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None,
    ) -> Iterator[tuple[ClientId, Ints]]:
        known, pool = self._ready(work, model, max(map(len, states.values()), default=0) if states else 0)
        # A request is the client, and the length of its state where clients have one.
        requests = [f"{int(client)} {'' if states is None else len(states[client])}".encode() for client in cohort]

        def lend(place: int, index: int) -> None:
            if states is not None:
                known.lend(place, states[cohort[index]])

        for index, got in pool.map(requests, known.read, common=order, lend=lend):
            if isinstance(got, Failure):
                cause = WorkerTraceback(got) if got.traceback else None
                raise ClientFailed(cohort[index], got.reason) from cause
            contribution, state = got
            if states is not None:
                states[cohort[index]] = state
            yield cohort[index], contribution

    def _ready(self, work: Work | StatefulWork, model: Vector, state: int) -> tuple[_Clients, Pool]:
        """The pool for this work, for models of this form, and for states of up to `state` bytes."""
        known, pool = self._clients, self._pool
        if known is None or pool is None or not (pool.usable and known.fits(work, model, state)):
            self.close()
            room = self._length or 2 * len(model) + 4096
            known = self._clients = _Clients.of(work, model, self.workers * SLOTS, room, 2 * state)
            pool = self._pool = Pool(known, self.workers, ahead=SLOTS, initializer=self._initializer)
        np.copyto(known.model, model)
        return known, pool


@dataclass
class _Clients:
    """The clients' work, and the memory that it shares with the server: a model, and a slot a place of the pool."""

    work: Work | StatefulWork
    model: Vector
    slots: npt.NDArray[np.int64]
    states: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, work: Work | StatefulWork, model: Vector, places: int, room: int, state: int) -> _Clients:
        shared = np.frombuffer(_share(model.nbytes), model.dtype, len(model))
        slots = np.frombuffer(_share(8 * places * room), np.int64, places * room)
        states = np.frombuffer(_share(places * state), np.uint8, places * state)
        return cls(work, shared, slots.reshape(places, room), states.reshape(places, state))

    def fits(self, work: Work | StatefulWork, model: Vector, state: int) -> bool:
        """Report if these are for this `work`, for models of this form, and for states of up to `state` bytes."""
        same = _same(self.work, work) and state <= self.states.shape[1]
        return same and (self.model.dtype, len(self.model)) == (model.dtype, len(model))

    def __call__(self, place: int, common: bytes, request: bytes) -> bytes:
        """In a worker: one client's contribution into its slot; the answer is its length and the new state."""
        lent = self.model.view()
        lent.flags.writeable = False
        client, size = request.split(b" ")
        state = self.states[place, : int(size)].tobytes() if size else None
        result, after = perform(self.work, lent, int(client), common, state)
        room = self.slots.shape[1]
        if len(result) > room:
            raise ConfigError(f"a contribution has {len(result)} entries, and length is {room}")
        self.slots[place, : len(result)] = result
        return b"%d " % len(result) + after

    def read(self, place: int, answer: bytes) -> tuple[Ints, bytes]:
        """In the server: the contribution, copied out of its slot, and the client's new state."""
        size, _, state = answer.partition(b" ")
        return self.slots[place, : int(size)].copy(), state

    def lend(self, place: int, state: bytes) -> None:
        """In the server: a client's state into the memory of the place where it will be trained."""
        self.states[place, : len(state)] = np.frombuffer(state, np.uint8)


def _share(size: int) -> mmap.mmap:
    """Zeroed memory of at least `size` bytes that forked children see.

    It has no name, so no crash can leave it behind; it is not bounded by the size of /dev/shm, and is not taken until
    it is written to.
    """
    return mmap.mmap(-1, max(mmap.PAGESIZE, size))


def _same(a: Callable[..., object], b: Callable[..., object]) -> bool:
    """Report if two callables are one: the same object, or the same method of the same object."""
    if isinstance(a, types.MethodType) and isinstance(b, types.MethodType):
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    return a is b
