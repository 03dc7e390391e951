"""Clients in a pool of processes that share memory with the server.

The model is written once a round into memory that all workers see, and a contribution comes back as int64 in a slot
of such memory; only a few numbers a client cross a pipe, as JSON. Sums are exact integers and all randomness is keyed
by (seed, round, client), so the model does not depend on how many workers there are or on who is first.

Workers are forked, so that `work` and the data it refers to are inherited and need no copy. A forked child has none
of its parent's threads. That is safe for numpy, and for torch on the CPU as long as a worker computes with one thread:
`initializer` is the place to say so (`privfl.adapters.torch.one_thread`), before the first tensor is touched. It is not
safe once the parent has used a GPU, nor where fork does not exist: use `method="spawn"` there, with a `work` that is
importable by name (a function of a module, or an instance of a class of a module).
"""

from __future__ import annotations

import json
import math
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import signal
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.engine.loop import describe, perform
from privfl.errors import ClientFailed, ConfigError, LocalProtocolError, TooFewSurvivors
from privfl.fl.client import Work
from privfl.ring import Ints
from privfl.wire import ClientId

Connection = multiprocessing.connection.Connection

SLOTS: Final = 2
"""Contributions a worker may have under way: it trains one client while the server still reads the one before."""

_PATIENCE: Final = 5.0  # seconds that a worker is given to end before it is asked more firmly


class ProcessExecutor:
    """Runs clients in `workers` processes, started at the first round and kept while `work` is the same object.

    Forked workers see the caller's objects as they were when the pool started: let whatever changes from round to
    round reach `work` through its arguments, or hand over a new `work`, which starts a new pool. `initializer` runs
    once in each worker. `length` is the room for one contribution in int64 entries; by default twice the model and
    4096 more, which costs address space and no memory. A context manager; `close` ends the workers.
    """

    def __init__(
        self,
        workers: int,
        *,
        initializer: Callable[[], None] | None = None,
        method: Literal["fork", "spawn"] = "fork",
        length: int | None = None,
    ) -> None:
        allowed = multiprocessing.get_all_start_methods()
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        if method not in ("fork", "spawn") or method not in allowed:
            raise ConfigError(f"method must be 'fork' or 'spawn', and one of {allowed} on this machine, not {method!r}")
        if length is not None and length < 1:
            raise ConfigError(f"length must be at least 1, not {length}")
        self.workers = workers
        self._initializer, self._method, self._length = initializer, method, length
        self._pool: _Pool | None = None
        self._busy = False

    def run(
        self, work: Work, model: Vector, clients: Iterable[ClientId], *, round: int, seed: int
    ) -> Iterator[tuple[ClientId, Ints]]:
        """Yield (client, int64 `[length]`) as each is ready; `model` is float `[d]`.

        A client that raises, or whose process dies, ends the round with `ClientFailed` and the pool with it; so does a
        consumer that stops early. The next round starts a new pool. Raises `TooFewSurvivors` when there is no client
        at all, `LocalProtocolError` when another round of this executor is still under way.
        """
        if self._busy:
            raise LocalProtocolError("this executor is still running another round")
        self._busy = True
        whole = False
        try:
            empty = True
            pool = self._ready(work, model)
            for pair in pool.round(clients, round, seed):
                empty = False
                yield pair
            whole = True
        finally:
            self._busy = False
            if not whole:
                self.close()
        if empty:
            raise TooFewSurvivors(0, 1)

    def close(self) -> None:
        """End the workers, at once if they are busy, and give their memory back; may be called again."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ready(self, work: Work, model: Vector) -> _Pool:
        if self._pool is not None and not self._pool.fits(work, model):
            self.close()
        if self._pool is None:
            room = self._length or 2 * len(model) + 4096
            context = multiprocessing.get_context(self._method)
            self._pool = _Pool(context, work, model, workers=self.workers, room=room, initializer=self._initializer)
        np.copyto(self._pool.model, model)
        return self._pool


@dataclass
class _Worker:
    """One process as the server sees it: `free` slots, and the clients it was given, oldest first."""

    process: multiprocessing.process.BaseProcess
    pipe: Connection
    slots: npt.NDArray[np.int64]
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    given: deque[ClientId] = field(default_factory=deque)

    def give(self, client: ClientId, round: int, seed: int) -> None:
        """Ask for one more client."""
        self.given.append(client)
        task = json.dumps([self.free.pop(), int(client), int(round), int(seed)]).encode()
        try:
            self.pipe.send_bytes(task)
        except OSError as error:
            raise self.dead() from error

    def take(self) -> tuple[ClientId, Ints]:
        """The next contribution, copied out of its slot; raises `ClientFailed`."""
        try:
            reply = json.loads(self.pipe.recv_bytes()) if self.pipe.poll() else None
        except (EOFError, OSError) as error:
            raise self.dead() from error
        if reply is None:
            raise self.dead()
        slot, length, failure = reply
        client = self.given.popleft()
        if failure is not None:
            reported = ClientFailed(client, failure[0])
            reported.add_note(f"In worker process {self.process.pid}:\n{failure[1]}")
            raise reported
        contribution = self.slots[slot, :length].copy()
        self.free.append(slot)
        return client, contribution

    def dead(self) -> ClientFailed:
        """The error for a process that ended unasked."""
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return ClientFailed(self.given[0], f"its process {self.process.pid} ended with {how}")


class _Pool:
    """Processes that share one model `[d]` and SLOTS slots each."""

    def __init__(
        self,
        context: multiprocessing.context.BaseContext,
        work: Work,
        model: Vector,
        *,
        workers: int,
        room: int,
        initializer: Callable[[], None] | None,
    ) -> None:
        self._work = work
        forked = context.get_start_method() == "fork"
        shared = _share(model.nbytes, forked)
        self.model: Vector = np.frombuffer(shared, model.dtype, len(model))
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                slots = _share(8 * SLOTS * room, forked)
                seen = _slots(slots, room)
                ours, theirs = context.Pipe()
                # A forked child would keep the server's ends open, and nobody would see the end of a pipe.
                inherited = [ours, *(worker.pipe for worker in self._workers)] if forked else []
                known = _Task(work, shared, model.dtype.str, len(model), slots, room, initializer)
                process = context.Process(target=_serve, args=(theirs, known, inherited), daemon=True)  # type: ignore[attr-defined]
                _start(process, forked)
                theirs.close()
                self._workers.append(_Worker(process, ours, seen))
        except BaseException:
            self.close()
            raise

    def fits(self, work: Work, model: Vector) -> bool:
        """Whether this pool was started for this `work` and for models of this form."""
        return _same(self._work, work) and (self.model.dtype, len(self.model)) == (model.dtype, len(model))

    def round(self, clients: Iterable[ClientId], number: int, seed: int) -> Iterator[tuple[ClientId, Ints]]:
        """Yield contributions in the order in which they come."""
        waiting = deque(clients)
        for _ in range(SLOTS):
            for worker in self._workers:
                self._feed(worker, waiting, number, seed)
        while busy := [worker for worker in self._workers if worker.given]:
            events = [event for worker in busy for event in (worker.pipe, worker.process.sentinel)]
            ready = multiprocessing.connection.wait(events)
            for worker in busy:
                if worker.pipe in ready or worker.process.sentinel in ready:
                    pair = worker.take()
                    self._feed(worker, waiting, number, seed)
                    yield pair

    def _feed(self, worker: _Worker, waiting: deque[ClientId], number: int, seed: int) -> None:
        """One more client, ahead of time as long as there are enough: the last go to whoever is idle first."""
        if waiting and (not worker.given or (worker.free and len(waiting) > len(self._workers))):
            worker.give(waiting.popleft(), number, seed)

    def close(self) -> None:
        """An idle worker ends when its pipe closes; a busy one is terminated, and killed if it will not."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.given:
                worker.process.terminate()
        for worker in self._workers:
            for harder in (worker.process.terminate, worker.process.kill):
                worker.process.join(_PATIENCE)
                if worker.process.exitcode is None:
                    harder()
            worker.process.join()
            worker.process.close()
        self._workers.clear()


@dataclass
class _Task:
    """What a worker knows from the start."""

    work: Work
    model: Any
    dtype: str
    size: int
    slots: Any
    room: int
    initializer: Callable[[], None] | None


def _serve(pipe: Connection, known: _Task, inherited: list[Connection]) -> None:
    """A worker's life: until the server closes the pipe, or a client fails."""
    # Ctrl-C reaches the whole process group: it is the server that tells its workers. And whatever the caller does on
    # SIGTERM is not this process's to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    model = np.frombuffer(known.model, known.dtype, known.size)
    model.flags.writeable = False
    slots = _slots(known.slots, known.room)
    if known.initializer is not None:
        known.initializer()
    while True:
        try:
            slot, client, round_, seed = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            result = perform(known.work, model, client, round_, seed)
            if len(result) > known.room:
                raise ConfigError(f"a contribution has {len(result)} entries, and length is {known.room}")
        except Exception as error:
            failure = [describe(error), traceback.format_exc()]
            pipe.send_bytes(json.dumps([slot, 0, failure]).encode())
            raise SystemExit(1) from error
        slots[slot, : len(result)] = result
        try:
            pipe.send_bytes(json.dumps([slot, len(result), None]).encode())
        except OSError:
            return


def _share(size: int, forked: bool) -> Any:
    """Zeroed memory of at least `size` bytes that children see: it has no name, so that no crash can leave it behind.

    Anonymous memory is not bounded by the size of /dev/shm, and is not taken until it is written to; but it can only
    be inherited, so that spawned children get multiprocessing's own file-backed memory instead.
    """
    size = max(mmap.PAGESIZE, math.ceil(size / 8) * 8)
    if forked:
        return mmap.mmap(-1, size)
    return multiprocessing.get_context("spawn").RawArray("b", size)


def _slots(memory: Any, room: int) -> npt.NDArray[np.int64]:
    return np.frombuffer(memory, np.int64, SLOTS * room).reshape(SLOTS, room)


def _start(process: multiprocessing.process.BaseProcess, forked: bool) -> None:
    if forked:
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside a thread; what that means here is said at the top of this file.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            process.start()
        return
    try:
        process.start()
    except Exception as error:
        raise ConfigError(f"a spawned worker needs a work that is importable by name: {describe(error)}") from error


def _same(a: Work, b: Work) -> bool:
    """Whether two callables are one: the same object, or the same method of the same object."""
    if isinstance(a, types.MethodType) and isinstance(b, types.MethodType):
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    return a is b
