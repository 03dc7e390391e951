"""The log of a site: one JSON line for each step and each refusal, bounded in size and in rate, for the site alone."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from privfl.files import canonical_json

MAX_REFUSALS: Final = 60
"""Refusals that are written in one minute; the further ones are counted, and the next line states the count."""

log = logging.getLogger(__name__)

_MINUTE: Final = 60.0
_MAX_TEXT: Final = 4000


class SiteLog:
    """An append-only log that a flood of requests can neither fill nor empty.

    A line that cannot be written, as on a full disk, is counted, and the next line that can be states the count. So a
    full disk ends neither an answer nor the agent.

    Args:
        path: The file; at `max_bytes` it becomes `<path>.1`, in place of an older one.
        clock: The time in seconds since 1970.
        max_bytes: The size of the file.
    """

    def __init__(self, path: Path, clock: Callable[[], float], *, max_bytes: int = 16 << 20) -> None:
        self._path, self._clock, self._max_bytes = path, clock, max_bytes
        self._lock = threading.Lock()
        self._minute, self._refusals, self._suppressed, self._unwritten = 0.0, 0, 0, 0

    def note(self, event: str, **facts: Any) -> None:
        """Write a line.

        Args:
            event: The name of the event, in a word.
            facts: Plain values; never one of an example, an update or a key.
        """
        with self._lock:
            self._write(event, facts)

    def refuse(self, reason: str, **facts: Any) -> None:
        """Write the reason of a refusal to this log only.

        Beyond `MAX_REFUSALS` a minute, refusals are counted but not written.

        Args:
            reason: The reason.
            facts: Plain values.
        """
        with self._lock:
            now = self._clock()
            if not 0 <= now - self._minute < _MINUTE:
                self._minute, self._refusals = now, 0
            self._refusals += 1
            if self._refusals > MAX_REFUSALS:
                self._suppressed += 1
                return
            more = {"suppressed_before": self._suppressed} if self._suppressed else {}
            self._suppressed = 0
            self._write("refused", {"reason": reason[:_MAX_TEXT]} | facts | more)

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        if self._unwritten:
            facts = facts | {"unwritten_before": self._unwritten}
        line = canonical_json({"time": round(self._clock(), 3), "event": event} | facts) + b"\n"
        try:
            self._append(line)
        except OSError as error:
            if not self._unwritten:
                log.error("the log of this site cannot be written (%s): make room on its disk", error.strerror)
            self._unwritten += 1
        else:
            self._unwritten = 0

    def _append(self, line: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(handle, "ab", buffering=0) as file:
            end = file.tell()
            if file.write(line) < len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
