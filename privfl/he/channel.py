"""The file through which SEAL's bindings read and write."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Self

from privfl.he.forks import after_fork

Buffer = bytes | bytearray | memoryview


class Channel:
    """A file that only this process sees, through which SEAL reads and writes; one exchange at a time.

    What is written next is mostly of the same size: then the file keeps its pages.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open()
        after_fork(self)

    def _open(self) -> None:
        self._process, self._size = os.getpid(), 0
        if hasattr(os, "memfd_create"):
            self._handle = os.memfd_create("privfl-he")
            self.path = f"/proc/self/fd/{self._handle}"
        else:  # pragma: no cover - macOS
            self._handle, self.path = tempfile.mkstemp(prefix="privfl-he-")
            weakref.finalize(self, Path(self.path).unlink, missing_ok=True)

    def forget(self) -> None:
        """In a forked child: whichever thread of the parent was at an exchange is not here."""
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self._lock.acquire()
        if self._process != os.getpid():
            self._open()  # a forked child must not write into its parent's file
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def write(self, *parts: Buffer) -> None:
        """Make these, one after the other, the whole content."""
        size = sum(memoryview(part).nbytes for part in parts)
        if size != self._size:
            os.ftruncate(self._handle, size)
            self._size = size
        os.pwritev(self._handle, parts, 0)

    def patch(self, tail: bytes) -> None:
        """Replace the last bytes of what was written."""
        os.pwrite(self._handle, tail, self._size - len(tail))

    def read(self) -> bytes:
        """What SEAL wrote."""
        self._size = os.fstat(self._handle).st_size
        return os.pread(self._handle, self._size, 0)
