"""Forks at a moment when no other thread of this process is inside a library call.

A thread that multiplies matrices has given up the interpreter lock, and holds locks of its library instead. A fork at
that moment leaves them locked in the child, and OpenBLAS may hang in the parent too. If the forking thread keeps the
interpreter lock for a while, each such thread stops at the end of its call, because there it needs that lock.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_NEVER: Final = 1e3  # seconds until a waiting thread asks for the interpreter lock
_WINDOW: Final = 0.015  # seconds in which threads that compute are seen to use the processor
_WINDOWS: Final = 200  # after so many of them a fork waits no longer

_active = False
_interval = sys.getswitchinterval()  # as it was before `quiet`


@contextmanager
def quiet(*, active: bool) -> Iterator[None]:
    """Have forks inside wait until no other thread computes, for 3 seconds at most.

    Args:
        active: False changes nothing.
    """
    global _active, _interval  # noqa: PLW0603 (a hook takes no arguments)
    _interval = sys.getswitchinterval()
    if active:
        sys.setswitchinterval(_NEVER)
    _active = active
    try:
        yield
    finally:
        _restore()


def _restore() -> None:
    global _active  # noqa: PLW0603 (the same)
    if _active:
        _active = False
        sys.setswitchinterval(_interval)


def _settle() -> None:
    """Keep the interpreter lock until the other threads have used no processor time in two windows.

    On a busy machine a thread may wait longer for the processor, so more windows are looked at.
    """
    if not _active:
        return
    import ctypes

    sleep = ctypes.PyDLL(None).usleep  # a PyDLL keeps the lock during a call
    sleep(10_000)  # threads that began to wait before `quiet` did ask for the lock, once, and are let through here
    idle, enough = 0, math.ceil(2 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
    for _ in range(_WINDOWS):
        before = _others()
        sleep(int(_WINDOW * 1e6))
        idle = idle + 1 if _others() - before < _WINDOW / 50 else 0
        if idle >= enough:
            return


def _others() -> float:
    """Seconds of processor time that the other threads of this process have used."""
    return time.process_time() - time.thread_time()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_settle, after_in_child=_restore)
