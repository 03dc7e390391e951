"""Helper processes for long vectors: SEAL's bindings hold the interpreter's lock, so that threads do not help.

A helper is a new interpreter, not a fork: it knows nothing but what it is sent, and shares no state of any random
generator with its parent. A job brings the session key with it, through an anonymous socket; the helper takes fresh
randomness for it, answers, and forgets it. It keeps nothing, so that it can be killed at any time. A job whose helper
died is done by the process that asked for it, with fresh randomness: what the helper had sealed is in no frame.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final, Literal, NamedTuple

from privfl.errors import ConfigError
from privfl.he.channel import Buffer
from privfl.he.plan import CkksPlan

_BOOT: Final = "import sys; sys.path[:] = sys.argv[2:]; from privfl.he.helper import serve; serve(int(sys.argv[1]))"
_ONE_CORE: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PATIENCE: Final = 60.0  # seconds that a helper is given to load its libraries
_log = logging.getLogger(__name__)


class Job(NamedTuple):
    """Some chunks, from number `first` on: int64 values to seal, or uint64 residues to open with each client's seeds.

    Opening ends early at a value farther than `limit` off an integer.
    """

    kind: Literal["seal", "open"]
    first: int
    limit: float
    data: Buffer
    seeds: tuple[Buffer, ...] = ()


Done = tuple[Buffer, ...]
"""Of sealing: seeds, packed c0 residues, int64 part of the tag. Of opening: int64 values, and the worst as float64."""


class Processes:
    """This process and up to `count` - 1 helpers, which `start` brings up and which end with this object.

    Holds nothing secret. Threads take turns. A forked child leaves its parent's helpers alone and starts its own.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"processes must be at least 1, not {count}")
        self._count, self._lock = count, threading.Lock()
        self._helpers: list[_Helper] = []
        weakref.finalize(self, _end_all, self._helpers)
        _ALL.add(self)

    @property
    def ready(self) -> int:
        """How many processes a vector can be shared among now."""
        return 1 + len(self._helpers)

    def start(self) -> None:
        """Bring up the helpers that are missing; raises `ConfigError` if that cannot be done."""
        with self._lock:
            started: list[_Helper] = []
            try:
                while 1 + len(self._helpers) + len(started) < self._count:
                    started.append(_Helper())
                for helper in started:
                    helper.wait()
            except BaseException:
                _end_all(started)
                raise
            self._helpers += started

    def share(self, plan: CkksPlan, secrets: bytes, jobs: Sequence[Job], perform: Callable[[Job], Done]) -> list[Done]:
        """Do the first job here with `perform`, the others in the helpers, and what these do not deliver here too.

        `secrets` are the session key and the task's digest, 64 bytes.
        """
        with self._lock:
            helpers = self._helpers[: len(jobs) - 1]
            try:
                for helper, job in zip(helpers, jobs[1:], strict=False):
                    helper.ask(plan, secrets, job)
                done: list[Done | None] = [perform(jobs[0])]
                done += [helper.answer() for helper in helpers]
            except BaseException:
                _end_all(self._helpers)  # they would answer the question of before
                raise
            for helper, answer in zip(helpers, done[1:], strict=True):
                if answer is None:
                    self._helpers.remove(helper)
                    _log.warning("helper process %s; its part is done here", helper.end())
        done += [None] * (len(jobs) - len(done))
        return [perform(job) if some is None else some for job, some in zip(jobs, done, strict=True)]

    def close(self) -> None:
        """End the helpers now; `start` brings up new ones."""
        with self._lock:
            _end_all(self._helpers)

    def forget(self) -> None:
        """Make this a forked child's own, who may neither talk to its parent's helpers nor end them."""
        self._lock = threading.Lock()  # whoever held it is not in the child
        while self._helpers:
            self._helpers.pop().forget()


_ALL: Final[weakref.WeakSet[Processes]] = weakref.WeakSet()


def _forget_all() -> None:
    for processes in _ALL:
        processes.forget()


os.register_at_fork(after_in_child=_forget_all)


class _Helper:
    """One helper, as its parent sees it."""

    def __init__(self) -> None:
        mirrored = (("-I", sys.flags.isolated), ("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site))
        executable = sys.executable or ""  # what an embedded interpreter has
        flags = [flag for flag, on in mirrored if on]
        self._pipe, theirs = Pipe()
        try:
            handle = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and the modules that it imports itself
                [executable, *flags, "-c", _BOOT, str(handle), *sys.path],
                env=os.environ | _ONE_CORE,
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except (OSError, ValueError) as error:
            self._pipe.close()
            raise ConfigError(f"no helper process can be started with {executable!r}: {error}") from error
        finally:
            theirs.close()

    def wait(self) -> None:
        """Return when it is ready."""
        if not self._pipe.poll(_PATIENCE):
            raise ConfigError(f"a helper process was not ready after {_PATIENCE:.0f} s")
        try:
            trouble = self._pipe.recv_bytes().decode()
        except (EOFError, OSError) as error:
            raise ConfigError(f"a helper process of {sys.executable!r} {self.end()}") from error
        if trouble:
            raise ConfigError(f"a helper process cannot work: {trouble}")

    def ask(self, plan: CkksPlan, secrets: bytes, job: Job) -> None:
        """Send a job."""
        try:
            send_job(self._pipe, plan, secrets, job)
        except OSError:
            self._pipe.close()  # which is what `answer` finds

    def answer(self) -> Done | None:
        """What became of the job; None if this helper is dead."""
        try:
            return receive(self._pipe)
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """Kill it, if it is still there, and say how it ended."""
        self._pipe.close()
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{self._process.pid} ended with {how}"

    def forget(self) -> None:
        """Let go of another process's child."""
        self._pipe.close()
        self._process.returncode = 0


def _end_all(helpers: list[_Helper]) -> None:
    while helpers:
        helpers.pop().end()


def send_job(pipe: Connection, plan: CkksPlan, secrets: bytes, job: Job) -> None:
    """What `receive_job` reads at the other end."""
    head = {"plan": asdict(plan), "kind": job.kind, "first": job.first, "limit": job.limit}
    send(pipe, (json.dumps(head).encode(), secrets, job.data, *job.seeds))


def receive_job(pipe: Connection) -> tuple[CkksPlan, bytes, Job]:
    """(plan, secrets, job)."""
    head, secrets, data, *seeds = receive(pipe)
    values: dict[str, Any] = json.loads(bytes(head))
    plan = CkksPlan(**values.pop("plan"))
    return plan, bytes(secrets), Job(**values, data=data, seeds=tuple(seeds))


def send(pipe: Connection, parts: Sequence[Buffer]) -> None:
    """A number of parts, each with its length."""
    pipe.send_bytes(str(len(parts)).encode())
    for part in parts:
        pipe.send_bytes(memoryview(part).cast("B"))


def receive(pipe: Connection) -> tuple[Buffer, ...]:
    """The parts that `send` sent."""
    return tuple(pipe.recv_bytes() for _ in range(int(pipe.recv_bytes())))
