"""A pool of forked worker processes: requests and answers are bytes, and what the work needs is inherited.

Forking gives a worker everything that the work refers to, closures and data included, without a copy and without
pickle. What changes between requests travels as bytes, or in shared memory that the caller made before the pool.

- A worker dies with the process that started it, also in the middle of a request (see `privfl.engine.child`).
- A forked process has none of its parent's threads, and keeps every lock that one of them held. torch waits forever
  for the threads of a parent that computed with several. A work that uses torch therefore needs an `initializer` that
  limits each worker to one thread (`privfl.adapters.torch.state.one_thread`). numpy copes, except where another thread
  multiplies matrices during the fork. A fork therefore waits for other threads (`privfl.engine.quiet`), and its child
  is tried out and forked again if it hangs.
- A daemonic process, such as a worker of this pool or of `multiprocessing.Pool`, has no children. There, and on
  platforms without fork, the callers of this module do the work in the process itself (`can_fork`).
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from privfl.engine.child import READY, Handle, follow_parent, serve
from privfl.engine.quiet import quiet
from privfl.errors import ConfigError
from privfl.files import canonical_json

T = TypeVar("T")
Connection = multiprocessing.connection.Connection

_PATIENCE: Final = 5.0  # seconds that a worker is given to end before it is asked more firmly, and to begin
_TRIES: Final = 3


def can_fork() -> bool:
    """Report whether this process may start workers: the platform forks, and this process is not a daemonic worker."""
    return "fork" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def usable_cores() -> int:
    """Count the cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a request has no answer.

    Attributes:
        reason: Type and place of the error that was raised, or how the process ended.
        pid: The worker's process, None where no worker was left to ask.
        traceback: The worker's own traceback, for the log of the process's owner only, because it may show data. Empty
            if the worker's process ended.
    """

    reason: str
    pid: int | None = None
    traceback: str = ""


class Pool:
    """Forked processes that answer requests. Each process answers its own requests in the order of their arrival.

    Every request under way has a *place*, a number in `range(workers * ahead)` that no other request under way has:
    the caller may keep a piece of shared memory for each.

    Args:
        handle: Called in the workers as `handle(place, common, request)`, and returns the answer as bytes.
        workers: The number of processes, at least 1. All are started at once.
        ahead: The number of requests that a worker holds at a time: the one in work, and those that wait for it.
        initializer: Called once in each worker before its first request. What it raises is the answer to every request.

    Raises:
        ConfigError: `can_fork()` is false here, or the workers hang from the start, because another thread was
            computing at the time of each of several forks.
    """

    def __init__(
        self, handle: Handle, workers: int, *, ahead: int = 1, initializer: Callable[[], None] | None = None
    ) -> None:
        if not can_fork():
            raise ConfigError("this process cannot start workers: do the work in the process itself (workers = 0)")
        self._pid, self._ahead = os.getpid(), ahead
        self._workers: list[_Worker] = []
        # Ends the workers of a pool that was never closed when it is garbage, or when the interpreter ends.
        self._end = weakref.finalize(self, _end_all, self._pid, self._workers)
        try:
            for number in range(workers):
                self._start(handle, initializer, range(number * ahead, (number + 1) * ahead))
        except BaseException:
            self.close()
            raise

    def _start(self, handle: Handle, initializer: Callable[[], None] | None, places: Sequence[int]) -> None:
        """Start one worker; where this process has other threads, see that it does not hang from the start."""
        probe = threading.active_count() > 1
        for _ in range(_TRIES):
            _fork(self._workers, handle, initializer, places, probe=probe)
            if not probe or self._workers[-1].begins():
                return
            _end_all(self._pid, [self._workers.pop()])
        raise ConfigError(
            "worker processes hang, because another thread computes whenever they are forked: let it start after the "
            "first round, or set engine.workers = 0"
        )

    @property
    def usable(self) -> bool:
        """False once closed, and in a process that was forked from the one that started the pool."""
        return bool(self._workers) and self._pid == os.getpid()

    def map(
        self,
        requests: Iterable[bytes],
        read: Callable[[int, bytes], T],
        *,
        common: bytes = b"",
        lend: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, T | Failure]]:
        """Yield (number of the request, what `read` made of its answer) as each is ready.

        A worker that dies fails the requests it was given, and the others go on. Close the pool if you stop early.

        Args:
            requests: What the workers are asked, in this order.
            read: Called as `read(place, answer)` in this process before anything else is asked of that place.
            common: Sent to each worker once, and handed to `handle` with every request of this call.
            lend: Called as `lend(place, number of the request)` in this process before the request is sent, to write
                into the memory of that place.

        Returns:
            An iterator over pairs, in the order of arrival. A request without an answer gives a `Failure`.
        """
        waiting = deque(enumerate(requests))
        informed: set[int] = set()

        def feed(worker: _Worker) -> None:
            # Ahead of time as long as there are enough: the last go to the worker that is idle first.
            if waiting and (not worker.requests or (worker.free and len(waiting) > len(self._workers))):
                if worker.pid not in informed:
                    informed.add(worker.pid)
                    worker.send(b"c" + common)
                worker.give(*waiting.popleft(), lend)

        for _ in range(self._ahead):
            for worker in self._workers:
                feed(worker)
        while busy := [worker for worker in self._workers if worker.requests]:
            events = [event for worker in busy for event in (worker.pipe, worker.process.sentinel)]
            ready = multiprocessing.connection.wait(events)
            for worker in busy:
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                got = worker.take(read)
                if got is None:
                    self._workers.remove(worker)
                    yield from worker.bury()
                else:
                    feed(worker)
                    yield got
        for index, _ in waiting:
            yield index, Failure("no worker process is left")

    def close(self) -> None:
        """End the workers. An idle worker ends because its pipe closes; a busy one is stopped at once.

        `close` may be called again.
        """
        self._end()
        self._workers.clear()


@dataclass
class _Worker:
    """One process as its parent sees it: free places, and (request, place) that it was asked, oldest first."""

    process: multiprocessing.process.BaseProcess
    pid: int
    pipe: Connection
    free: list[int]
    requests: deque[tuple[int, int]] = field(default_factory=deque)

    def begins(self) -> bool:
        """Wait until a worker that was asked to probe is ready, or dead, which its first request will find."""
        if not self.pipe.poll(_PATIENCE):
            self.process.kill()
            return False
        with suppress(EOFError, OSError):
            return self.pipe.recv_bytes() == READY
        return True

    def send(self, message: bytes) -> None:
        """Write to a worker; if it is dead its pipe is at its end, which `take` will find."""
        try:
            self.pipe.send_bytes(message)
        except OSError:
            return

    def give(self, index: int, request: bytes, lend: Callable[[int, int], None] | None) -> None:
        """Ask for one more answer."""
        place = self.free.pop()
        if lend is not None:
            lend(place, index)
        self.requests.append((index, place))
        self.send(b"r" + place.to_bytes(4, "little") + request)

    def take(self, read: Callable[[int, bytes], T]) -> tuple[int, T | Failure] | None:
        """The next answer, or None if the process is dead."""
        try:
            message = self.pipe.recv_bytes() if self.pipe.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            return None
        index, place = self.requests.popleft()
        status, answer = message[:1], message[1:]
        got = read(place, answer) if status == b"a" else Failure(*json.loads(answer))
        self.free.append(place)
        return index, got

    def bury(self) -> Iterator[tuple[int, Failure]]:
        """Close a dead process; yield the failures of what it was given."""
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        given, failure = list(self.requests), Failure(f"its process {self.pid} ended with {how}", self.pid)
        _end_all(os.getpid(), [self])
        for index, _ in given:
            yield index, failure


_PIPES: Final[weakref.WeakSet[Connection]] = weakref.WeakSet()
"""The parent's ends of all pipes. Every forked child closes its copies, because a worker knows by the end of its pipe
that its parent is gone or has closed the pool."""

# Two threads that start workers at a time would give each other's children their pipes. A pipe is closed under the same
# lock: a child that is forked in the middle of a close would close a number that is another pipe's by then. The lock is
# reentrant, because a finalizer may close pipes at any moment.
_STARTING = threading.RLock()


def _after_fork() -> None:
    global _STARTING  # noqa: PLW0603 (the lock may have been held by a thread that a child does not have)
    _STARTING = threading.RLock()
    for pipe in list(_PIPES):
        with suppress(OSError):
            pipe.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _fork(
    workers: list[_Worker],
    handle: Handle,
    initializer: Callable[[], None] | None,
    places: Sequence[int],
    *,
    probe: bool,
) -> None:
    """Add one worker to `workers`, before a Ctrl-C can come between a process and the list of them."""
    context = multiprocessing.get_context("fork")
    follow = follow_parent()
    with _STARTING, _held_interrupts(), warnings.catch_warnings():
        # Python 3.12 warns of every fork next to a thread; the top of this file says what that means here.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        ours, theirs = context.Pipe()
        try:
            _PIPES.add(ours)
            process = context.Process(
                target=serve,
                args=(handle, theirs, follow, initializer),
                kwargs={"probe": probe},
                daemon=True,
            )
            with quiet(active=probe):
                process.start()
            workers.append(_Worker(process, process.pid or 0, ours, list(places)))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Keep Ctrl-C waiting: a child that is not ready to ignore it would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_all(pid: int, workers: Sequence[_Worker]) -> None:
    """An idle worker ends when its pipe closes; a busy one is terminated, and killed if it will not end."""
    if pid != os.getpid():
        return  # a forked copy of the pool: its workers are another process's children
    with _STARTING:
        for worker in workers:
            worker.pipe.close()
    for worker in workers:
        if worker.requests:
            worker.process.terminate()
    for worker in workers:
        for harder in (worker.process.terminate, worker.process.kill):
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                harder()
        worker.process.join()
        worker.process.close()


Piece = Callable[[int], Any]
"""Number of a piece -> its answer, a plain JSON value."""


def do_pieces(
    work: Piece, numbers: Sequence[int], workers: int, *, initializer: Callable[[], None] | None = None
) -> Iterator[tuple[int, Any]]:
    """Do independent pieces of work in worker processes, or in this one.

    A piece that fails in a worker, or whose worker dies, is done once more in this process, so its error reaches the
    caller with its own type. A consumer that stops early ends the workers.

    Args:
        work: Called with the number of a piece; its answer is a plain JSON value.
        numbers: The pieces, which are taken up in this order.
        workers: The number of processes. With one, or where `can_fork()` is false, this process does everything.
        initializer: Called once in each worker before its first piece.

    Returns:
        An iterator over (number, answer) in the order of arrival. An answer is what JSON makes of it, wherever the
        piece was done: a tuple is a list.

    Raises:
        Exception: Any error that `work` raises in this process.
    """

    def here(number: int) -> Any:
        return json.loads(canonical_json(work(number)))

    def handle(place: int, common: bytes, request: bytes) -> bytes:
        return canonical_json(work(int(request)))

    if workers <= 1 or not numbers or not can_fork():
        for number in numbers:
            yield number, here(number)
        return
    pool = Pool(handle, min(workers, len(numbers)), initializer=initializer)
    try:
        for index, answer in pool.map([str(number).encode() for number in numbers], lambda _, got: json.loads(got)):
            yield numbers[index], here(numbers[index]) if isinstance(answer, Failure) else answer
    finally:
        pool.close()
