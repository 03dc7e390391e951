"""Processes of a federation: started in groups of their own, watched, and ended together."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MARK: Final = "PRIVFL_FEDERATION"


def is_open(port: int) -> bool:
    """True if somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until `ready()` is true.

    Args:
        what: what is waited for, for the error.
        ready: asked again and again.
        seconds: the longest wait.

    Raises:
        TimeoutError: it was never true.
    """
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: nothing after {seconds:.0f} s")
        time.sleep(0.05)


@dataclass
class Processes:
    """The processes that were started, by name; leaving the block ends them all.

    Attributes:
        logs: the folder of their output.
        environment: their variables.
        mark: a variable of every process, by which those that left their group are found.
    """

    logs: Path
    environment: Mapping[str, str]
    mark: str = field(default_factory=lambda: f"privfl-{secrets.token_hex(8)}")
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {**self.environment, MARK: self.mark}

    def start(self, name: str, command: Sequence[str | Path], **environment: str) -> subprocess.Popen[bytes]:
        """Start a program in a process group of its own; its output goes to `logs/NAME.log`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def run(self, name: str, command: Sequence[str | Path], seconds: float = 120) -> str:
        """The output of a program that must succeed."""
        done = subprocess.run(
            [str(part) for part in command],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return done.stdout

    def kill(self, name: str) -> None:
        """Kill a program and everything that it started, at once."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def owned(self, program: str = "") -> list[int]:
        """The processes that were started here, at any remove, whose command line holds a word."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if marked and program.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found

    def kill_owned(self, program: str) -> None:
        """Kill every process that was started here and whose command line holds a word."""
        for pid in self.owned(program):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """The processes that are still there after `all` has ended, once they had a moment."""
        with contextlib.suppress(TimeoutError):
            wait_for("the end", lambda: not self.owned(), 10)
        return self.owned()

    def check(self) -> None:
        """Raise `RuntimeError` if a program has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                tail = (self.logs / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended by itself with {process.returncode}:\n{tail}")

    @contextlib.contextmanager
    def all(self) -> Iterator[Processes]:
        """End everything when the block ends, whichever way."""
        try:
            yield self
        finally:
            for signum, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
                for process in self.running.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signum)
                end = time.monotonic() + patience
                for process in self.running.values():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, end - time.monotonic()))
            self.kill_owned("")


def script(name: str) -> Path:
    """A program that is installed next to this interpreter."""
    return Path(sys.executable).parent / name
