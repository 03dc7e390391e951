"""The files through which SEAL's bindings read and write: without a name, and open for one exchange only.

The content may be a secret key, so no forked child inherits such a file. A fork waits until the exchange of another
thread has ended, and a child that is forked in the middle of its own thread's exchange closes the file first.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Final, Self

from privfl.errors import ConfigError

Buffer = bytes | bytearray | memoryview

EXCHANGE_LOCK: Final = threading.RLock()
"""Held during every exchange, and during every fork."""

_FOLDERS: Final = ("/proc/self/fd", "/dev/fd")  # where a process opens its own descriptors by number
_handles: Final[list[int]] = []


def _close_in_child() -> None:
    while _handles:
        os.close(_handles.pop())
    EXCHANGE_LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=EXCHANGE_LOCK.acquire, after_in_parent=EXCHANGE_LOCK.release, after_in_child=_close_in_child
    )


class ExchangeFile:
    """A file that only this process sees, for one exchange with SEAL; a process has one exchange at a time.

    Attributes:
        path: The path under which SEAL opens the file, while the exchange lasts.
    """

    path: str

    def __enter__(self) -> Self:
        EXCHANGE_LOCK.acquire()
        try:
            folder = next((folder for folder in _FOLDERS if Path(folder).is_dir()), None)
            if folder is None:
                raise ConfigError(
                    f"a CKKS client needs {' or '.join(_FOLDERS)}, which this system lacks: use the masked sum here"
                )
            self._handle = _anonymous()
        except BaseException:
            EXCHANGE_LOCK.release()
            raise
        self.path, self._size = f"{folder}/{self._handle}", 0
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._handle in _handles:  # else this is a forked child, which has closed it
                _handles.remove(self._handle)
                os.close(self._handle)
        finally:
            EXCHANGE_LOCK.release()

    def write(self, *parts: Buffer) -> None:
        """Make `parts`, one after the other, the whole content."""
        self._size = sum(memoryview(part).nbytes for part in parts)
        self._rewind()
        if os.writev(self._handle, parts) != self._size:
            raise OSError("a file for SEAL was not written completely")
        os.ftruncate(self._handle, self._size)
        self._rewind()

    def patch(self, tail: bytes) -> None:
        """Replace the last bytes of the content."""
        os.pwrite(self._handle, tail, self._size - len(tail))
        self._rewind()

    def read(self) -> bytes:
        """Return the content that SEAL wrote."""
        return os.pread(self._handle, os.fstat(self._handle).st_size, 0)

    def _rewind(self) -> None:
        """SEAL shares this position on systems where opening a descriptor duplicates it."""
        os.lseek(self._handle, 0, os.SEEK_SET)


def _anonymous() -> int:
    """A descriptor that is closed on exec, of a file of mode 0600 without a name; noted for `_close_in_child`."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("privfl-he")
        _handles.append(handle)
        os.fchmod(handle, 0o600)
    else:
        handle, name = tempfile.mkstemp(prefix="privfl-he-")
        _handles.append(handle)
        Path(name).unlink()
    return handle
