"""Helper processes for long vectors: SEAL's bindings hold the interpreter's lock, so that threads do not help.

A helper is a new interpreter, not a fork: it knows nothing but what it is sent, and shares no state of any random
generator with its parent. A job brings the session key with it, through an anonymous socket; the helper takes fresh
randomness for it, answers, and forgets it. It keeps nothing, so that it can be killed at any time. A job whose helper
died is done by the process that asked for it, with fresh randomness: what the helper had sealed is in no frame.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from privfl.errors import ConfigError
from privfl.he.channel import Buffer
from privfl.he.forks import after_fork
from privfl.he.plan import CkksPlan

# The first entry of the path is where this package is, whatever the others have under its name.
_BOOT: Final = (
    "import sys; sys.path[:] = sys.argv[2:]; import privfl; del sys.path[0]; "
    "from privfl.he.helper import serve; serve(int(sys.argv[1]))"
)
_HERE: Final = str(Path(__file__).absolute().parents[2])
_ONE_CORE: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_QUIETLY: Final = getattr(socket, "MSG_NOSIGNAL", 0)  # a helper that is gone is an error here, and no signal
_PATIENCE: Final = 60.0  # seconds that a helper is given to load its libraries
_log = logging.getLogger(__name__)

_spawning = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not inherit the far end of a connection that is being made
    os.register_at_fork(before=_spawning.acquire, after_in_parent=_spawning.release, after_in_child=_spawning.release)


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

    Holds nothing secret. A thread that finds the helpers at work for another does its work alone. A copy, and a forked
    child, has helpers of its own.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"processes must be at least 1, not {count}")
        if count > 1 and not hasattr(os, "memfd_create"):
            raise ConfigError(
                f"processes must be 1 on {sys.platform}, not {count}: keys would pass through files there"
            )
        self._count, self._starting = count, threading.RLock()
        self._idle: list[Helper] = []
        self._started: weakref.WeakSet[Helper] = weakref.WeakSet()
        self._closed = 0
        after_fork(self)

    def __reduce__(self) -> tuple[type[Processes], tuple[int]]:
        return Processes, (self._count,)

    @property
    def ready(self) -> int:
        """How many processes a vector can be shared among now."""
        return 1 + len(self._idle)

    def start(self, count: int) -> None:
        """Bring up what is missing for `count` processes, as far as allowed; raises `ConfigError` if that fails."""
        with self._starting:
            closed, started = self._closed, []
            try:
                while 1 + sum(helper.alive for helper in self._started) < min(count, self._count):
                    started.append(Helper())
                    self._started.add(started[-1])
                for helper in started:
                    helper.wait()
            except BaseException:
                for helper in started:
                    helper.end()
                raise
            self._give_back(started, closed)

    def share(self, plan: CkksPlan, secrets: bytes, jobs: Sequence[Job], perform: Callable[[Job], Done]) -> list[Done]:
        """Do the first job here with `perform`, the others in the helpers, and what these do not deliver here too.

        `secrets` are the session key and the task's digest, 64 bytes.
        """
        closed, taken = self._closed, self._take(len(jobs) - 1)
        try:
            for helper, job in zip(taken, jobs[1:], strict=False):
                helper.ask(plan, secrets, job)
            done: list[Done | None] = [perform(jobs[0])]
            done += [helper.answer() for helper in taken]
        except BaseException:
            for helper in taken:  # whoever still owes an answer is never asked again
                helper.end()
            raise
        for helper, answer in zip(taken, done[1:], strict=True):
            if answer is None:
                _log.warning("helper process %s; its part is done here", helper.end(patience=1.0))
        self._give_back([helper for helper in taken if helper.alive], closed)
        done += [None] * (len(jobs) - len(done))
        return [perform(job) if some is None else some for job, some in zip(jobs, done, strict=True)]

    def close(self) -> None:
        """End the helpers, those at work as soon as they have answered; `start` brings up new ones."""
        self._closed += 1
        self._end_idle()

    def forget(self) -> None:
        """In a forked child: leave the parent's helpers to the parent."""
        self._starting = threading.RLock()  # whoever held it is not in the child
        self._idle.clear()

    def _give_back(self, helpers: list[Helper], closed: int) -> None:
        """Let helpers be asked again, unless `close` was called since it had been so `closed`."""
        self._idle += helpers
        if self._closed != closed:
            self._end_idle()

    def _end_idle(self) -> None:
        for helper in self._take(len(self._idle)):
            helper.end()

    def _take(self, most: int) -> list[Helper]:
        """Idle helpers, which are nobody else's from here on; also between threads and in signal handlers."""
        taken: list[Helper] = []
        with contextlib.suppress(IndexError):
            while len(taken) < most:
                taken.append(self._idle.pop())
        return taken


class Helper:
    """One helper, as its parent sees it. It ends with this object, at the latest with this process."""

    def __init__(self) -> None:
        after_fork(self)
        self._asked = 0
        executable = "" if getattr(sys, "frozen", False) else sys.executable or ""
        try:
            with _spawning:
                self._socket, theirs = socket.socketpair()
                with theirs:
                    theirs.settimeout(None)  # whatever sockets have by default here
                    self._process = _spawn(executable, theirs)
        except (OSError, ValueError) as error:
            if hasattr(self, "_socket"):
                self._socket.close()
            raise ConfigError(f"no helper process can be started with {executable!r}: {error}") from error
        self._kill = weakref.finalize(self, _kill, self._process, self._socket)

    @property
    def alive(self) -> bool:
        """Whether it has not been ended from here."""
        return self._kill.alive

    def wait(self) -> None:
        """Return when it is ready."""
        self._socket.settimeout(_PATIENCE)
        try:
            (trouble,) = receive(self._socket)
        except TimeoutError as error:
            raise ConfigError(f"a helper process was not ready after {_PATIENCE:.0f} s") from error
        except (EOFError, OSError) as error:
            raise ConfigError(f"a helper process of {sys.executable!r} {self.end(patience=1.0)}") from error
        self._socket.settimeout(None)
        if trouble:
            raise ConfigError(f"a helper process cannot work: {trouble.decode()}")

    def ask(self, plan: CkksPlan, secrets: bytes, job: Job) -> None:
        """Send a job."""
        self._asked += 1
        try:
            send_job(self._socket, self._asked, plan, secrets, job)
        except OSError:
            self._socket.close()  # which is what `answer` finds

    def answer(self) -> Done | None:
        """What became of the job; None if this helper is dead."""
        try:
            number, *done = receive(self._socket)
        except (EOFError, OSError):
            return None
        return tuple(done) if int(number) == self._asked else None

    def end(self, patience: float = 0.0) -> str:
        """End it, by force if it has not ended by itself within `patience` seconds, and say how it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._kill()
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {_signal(-code)}"
        return f"{self._process.pid} ended with {how}"

    def forget(self) -> None:
        """In a forked child: let go of another process's child."""
        if hasattr(self, "_kill"):  # else it was being started by another thread
            self._kill.detach()
            self._process.returncode = 0
        if hasattr(self, "_socket"):
            self._socket.close()


def _spawn(executable: str, connection: socket.socket) -> subprocess.Popen[bytes]:
    """A new interpreter with this one's flags and modules, and one end of a connection."""
    flags = (
        ("-I", sys.flags.isolated),
        ("-E", sys.flags.ignore_environment),
        ("-s", sys.flags.no_user_site),
        ("-S", sys.flags.no_site),
    )
    # Relative entries are left out: the working directory may be another than when this process loaded its modules.
    path = [entry for entry in sys.path if isinstance(entry, str) and Path(entry).is_absolute()]
    handle = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 3)  # the first three are replaced in the child
    try:
        return subprocess.Popen(  # noqa: S603 - this interpreter, and nothing that a peer sent
            [executable, *(flag for flag, on in flags if on), "-c", _BOOT, str(handle), _HERE, *path, _HERE],
            env=os.environ | _ONE_CORE,
            pass_fds=[handle],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent
        )
    finally:
        os.close(handle)


def _kill(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    if process.poll() is None:
        process.kill()
    connection.close()
    process.wait()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have no names
        return str(number)


def send_job(connection: socket.socket, number: int, plan: CkksPlan, secrets: bytes, job: Job) -> None:
    """What `receive_job` reads at the other end."""
    head = {"plan": asdict(plan), "kind": job.kind, "first": job.first, "limit": job.limit}
    send(connection, b"%d" % number, json.dumps(head).encode(), secrets, job.data, *job.seeds)


def receive_job(connection: socket.socket) -> tuple[bytes, CkksPlan, bytes, Job]:
    """(number, plan, secrets, job)."""
    number, head, secrets, data, *seeds = receive(connection)
    values: dict[str, Any] = json.loads(head)
    plan = CkksPlan(**values.pop("plan"))
    return bytes(number), plan, bytes(secrets), Job(**values, data=data, seeds=tuple(seeds))


def send(connection: socket.socket, *parts: Buffer) -> None:
    """Their number, their lengths, and the parts."""
    views = [memoryview(part).cast("B") for part in parts]
    connection.sendall(struct.pack(f"<{1 + len(views)}Q", len(views), *map(len, views)), _QUIETLY)
    for view in views:
        connection.sendall(view, _QUIETLY)


def receive(connection: socket.socket) -> tuple[bytearray, ...]:
    """The parts that `send` sent; `EOFError` where the other end is gone."""
    (count,) = struct.unpack("<Q", _exactly(connection, 8))
    sizes = struct.unpack(f"<{count}Q", _exactly(connection, 8 * count))
    return tuple(_exactly(connection, size) for size in sizes)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        got = connection.recv_into(left)
        if not got:
            raise EOFError
        left = left[got:]
    return data
