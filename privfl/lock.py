"""One writer of a folder: a lock that the operating system gives back when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from privfl.errors import StateError

fcntl: ModuleType | None
msvcrt: Any
try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None
try:
    import msvcrt
except ImportError:  # not a Windows
    msvcrt = None


_TURN_BYTES: Final = 8


class LockFile:
    """An open lock file; a forked child closes its copy, because a lock lives as long as any copy is open."""

    def __init__(self, path: Path) -> None:
        try:
            self.number: int | None = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        except OSError as error:
            raise StateError(_refusal(path, error)) from error
        self._path = path
        _open_handles.add(self)

    def turn(self) -> int:
        """Count this holder in the lock file, and return its number. Call it once, while the lock is held.

        Raises:
            StateError: The file cannot be written, as on a full disk.
        """
        assert self.number is not None  # noqa: S101 - only a holder counts itself
        try:
            before = int.from_bytes(os.read(self.number, _TURN_BYTES), "little")
            now = (before + 1) % (1 << 8 * _TURN_BYTES)
            os.lseek(self.number, 0, os.SEEK_SET)
            if os.write(self.number, now.to_bytes(_TURN_BYTES, "little")) < _TURN_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise StateError(f"{self._path} cannot be written ({error.strerror}): make room on its disk") from error
        return now

    def close(self) -> None:
        if self.number is not None:
            os.close(self.number)
        self.number = None


_open_handles: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _close_in_child() -> None:
    for handle in tuple(_open_handles):
        handle.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def sole_writer(path: Path, *, wait: bool = False) -> Iterator[LockFile]:
    """Hold the lock file at `path` while the block runs, and yield it.

    Args:
        path: The lock file; it is made where there is none.
        wait: Wait until another holder gives it back, for as long as that takes.

    Raises:
        StateError: Another process, or another part of this one, holds it, and there is no waiting. Or what stands at
            `path` is no file, or it cannot be opened.
    """
    handle = _take(path, wait)
    try:
        yield handle
    finally:
        handle.close()


def _take(path: Path, wait: bool) -> LockFile:
    while True:
        handle = LockFile(path)
        number = handle.number
        assert number is not None  # noqa: S101 - it was opened a line above
        try:
            _lock(number, path, wait)
            if _is_same_file(number, path):  # and not one that its last holder has removed meanwhile
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()


def _refusal(path: Path, error: OSError) -> str:
    kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else ""
    if kind:
        return (
            f"{path} is {kind}, and a lock is a file that privfl makes: remove the {kind[2:]}, or choose another name"
        )
    return (
        f"the lock file {path} cannot be opened ({error.strerror}): make {path.parent} a folder that you may write to"
    )


def _lock(number: int, path: Path, wait: bool) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        elif msvcrt is not None:
            msvcrt.locking(number, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # LK_LOCK waits 10 s
        else:
            raise StateError(f"this system has no file locks, which keep {path.parent} to one writer: use another one")
    except OSError as error:
        raise StateError(
            f"another process is writing {path.parent}: wait until it has ended, or choose another name"
        ) from error


def _is_same_file(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False
