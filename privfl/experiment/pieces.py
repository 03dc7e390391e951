"""Independent pieces of work, several at a time: each in a forked process, its answer as JSON.

Forked workers inherit what they work on, so that nothing is copied to them; where there is no fork, or one worker is
asked for, everything is done in this process. A worker whose parent is gone ends after the piece that it is at, since
nobody is left to hear its answer. A piece that fails in a worker, or whose worker dies, is done once more in this
process: an error is then raised where the caller can catch it, with its own type.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from privfl.errors import LocalProtocolError
from privfl.files import canonical_json

Piece = Callable[[int], Any]
"""Number of a piece -> its answer, a plain JSON value."""

_PATIENCE: Final = 5.0  # seconds that a worker is given to end before it is asked more firmly
_FAILED: Final = b"failed"  # no JSON value


def usable_cores() -> int:
    """Cores that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def do_pieces(work: Piece, numbers: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    """Yield (number, `work(number)`) as each is ready; they are taken up in the order given.

    Raises whatever `work` raises. A consumer that stops early ends the workers.
    """
    waiting = deque(numbers)
    pool: list[_Worker] = []
    try:
        if workers > 1 and "fork" in multiprocessing.get_all_start_methods():
            for _ in range(min(workers, len(waiting))):
                pool.append(_Worker(work, pool))
        while waiting or any(worker.at is not None for worker in pool):
            for worker in pool:
                if worker.at is None and waiting:
                    worker.give(waiting.popleft())
            busy = {worker.pipe: worker for worker in pool if worker.at is not None}
            if not busy:  # there are no workers, or all of them died
                yield (number := waiting.popleft()), work(number)
            for pipe in multiprocessing.connection.wait(busy) if busy else ():
                worker = busy[pipe]  # type: ignore[index]
                number, answer = worker.take()
                if not worker.alive:
                    pool.remove(worker)
                    worker.end()
                yield number, work(number) if answer == _FAILED else json.loads(answer)
    finally:
        for worker in pool:
            worker.end()


class _Worker:
    """One process; `at` is the piece that it is doing."""

    def __init__(self, work: Piece, others: Sequence[_Worker]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        # A forked child inherits our ends of the pipes; while it held them open, nobody would see that we are gone.
        inherited = [self.pipe, *(other.pipe for other in others)]
        self._process = context.Process(target=_serve, args=(work, theirs, inherited), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside a thread: those of a progress bar share nothing with the workers.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            self._process.start()
        theirs.close()
        self.at: int | None = None
        self.alive = True

    def give(self, number: int) -> None:
        """Ask for a piece."""
        self.at = number
        try:
            self.pipe.send_bytes(str(number).encode())
        except OSError:
            self.alive = False  # its pipe is at its end, and `take` will find that

    def take(self) -> tuple[int, bytes]:
        """The piece that it was at, and its answer."""
        if self.at is None:
            raise LocalProtocolError("this worker was given nothing")
        number, self.at = self.at, None
        try:
            return number, self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.alive = False
            return number, _FAILED

    def end(self) -> None:
        """Close the pipe, which ends an idle worker; a busy one is terminated, and killed if it will not."""
        self.pipe.close()
        if self.at is not None:
            self._process.terminate()
        for harder in (self._process.terminate, self._process.kill):
            self._process.join(_PATIENCE)
            if self._process.exitcode is None:
                harder()
        self._process.join()
        self._process.close()


def _serve(
    work: Piece,
    pipe: multiprocessing.connection.Connection,
    inherited: Sequence[multiprocessing.connection.Connection],
) -> None:
    # Ctrl-C reaches the whole process group: it is the parent that ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()
    while True:
        try:
            number = int(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = canonical_json(work(number))
        except Exception:  # noqa: BLE001 (whatever it is, the parent meets it when it does the piece itself)
            answer = _FAILED
        try:
            pipe.send_bytes(answer)
        except OSError:
            return
