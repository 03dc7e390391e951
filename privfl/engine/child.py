"""The life of a forked worker: it answers what it is asked until its pipe closes, and never outlives its parent."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final

import numpy as np

from privfl.errors import reason_of

Handle = Callable[[int, bytes, bytes], bytes]
"""(place, common, request) -> answer."""

READY: Final = b"ready"
_PR_SET_PDEATHSIG: Final = 1
_LOOK: Final = 0.5  # seconds between two looks at the parent where the kernel does not report its death
_MAX_TRACEBACK: Final = 20_000  # characters: the pipe must take a reply while nobody reads it


def serve(
    handle: Handle,
    pipe: multiprocessing.connection.Connection,
    follow: Callable[[], None],
    initializer: Callable[[], None] | None,
    *,
    probe: bool,
) -> None:
    """Answer requests until the parent closes the pipe.

    Args:
        handle: Makes the answer of a request. What it raises is sent to the parent instead.
        pipe: This worker's end of the pipe.
        follow: Ties this process to its parent; see `follow_parent`.
        initializer: Called first. What it raises is sent to the parent in answer to every request.
        probe: True multiplies a few matrices first and then sends `READY`. A worker that hangs after the fork is found
            that way.
    """
    # Ctrl-C reaches the whole process group: it is the parent that ends its workers. And all that the parent does on
    # SIGTERM, or upon any signal in its event loop, is not this process's to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    follow()
    if probe:
        _multiply()
        pipe.send_bytes(READY)
    broken = _failure_of(initializer) if initializer is not None else None
    common = b""
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        if message[:1] == b"c":
            common = message[1:]
            continue
        place, request = int.from_bytes(message[1:5], "little"), message[5:]
        reply = broken or _reply(handle, place, common, request)
        try:
            pipe.send_bytes(reply)
        except OSError:
            return


def _multiply() -> None:
    """Use every lock of a BLAS library's products: one that another thread held at the fork is never given back.

    OpenBLAS has such a lock for each type and each way of transposing, and takes it for more than about 64 x 64 x 64.
    """
    for kind in (np.float32, np.float64):
        a, b = np.ones((96, 96), kind), np.ones((96, 96), kind)
        for left, right in ((a, b), (a, b.T), (a.T, b), (a.T, b.T), (a, a.T), (a.T, a)):
            left @ right


def _reply(handle: Handle, place: int, common: bytes, request: bytes) -> bytes:
    try:
        return b"a" + handle(place, common, request)
    except Exception as error:  # noqa: BLE001 (every error is sent to the parent)
        return _failure(error)


def _failure_of(initializer: Callable[[], None]) -> bytes | None:
    try:
        initializer()
    except Exception as error:  # noqa: BLE001 (the same)
        return _failure(error)
    return None


def _failure(error: Exception) -> bytes:
    trace = "".join(traceback.format_exception(error))[-_MAX_TRACEBACK:]
    return b"f" + json.dumps([reason_of(error), os.getpid(), trace]).encode()


def follow_parent() -> Callable[[], None]:
    """Make the function by which a forked child ties its life to this process; call it here, before the fork.

    On Linux the kernel kills the child in the middle of its work. The kernel does so at the end of the *thread* that
    forked, so only the main thread can rely on it. Elsewhere a thread of the child looks for its parent twice a second.
    """
    parent = os.getpid()
    prctl = _prctl() if threading.current_thread() is threading.main_thread() else None

    def follow() -> None:
        if prctl is None or prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            threading.Thread(target=_watch, args=(parent,), daemon=True).start()
        elif os.getppid() != parent:  # it died before it was asked for
            os.kill(os.getpid(), signal.SIGKILL)

    return follow


def _prctl() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        return ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None


def _watch(parent: int) -> None:
    process = multiprocessing.parent_process()
    while process is not None and os.getppid() == parent:
        process.join(_LOOK)  # ends early where no other process holds the parent's end of multiprocessing's own pipe
    os.kill(os.getpid(), signal.SIGKILL)
