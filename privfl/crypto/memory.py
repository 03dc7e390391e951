"""The memory of the tasks that an identity has begun, because no client may take part in one task twice.

All secrets of a sum are made for that sum, so a second session of a task shares none with the first. But two sums of
one task whose survivors differ by one client differ by that client's vector. A client therefore records each task
before sending its first message and rejects it from then on. Nothing is forgotten to make room, because an old task
that is requested again is exactly the attack. At `capacity` every further task is rejected: continue with new
credentials, and with contexts that cannot have been used before.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol

from privfl.errors import ConfigError, PlanRejected
from privfl.files import made_folder, sync_folder, user_path

CAPACITY: Final = 1 << 20
"""The tasks of one identity: one a minute for two years, about 100 MB of memory at the end."""

_NAME_BYTES: Final = 32


class TaskMemory(Protocol):
    """The tasks that a client has begun. An embedding application may keep them in a database of its own."""

    def begin(self, task: bytes) -> None:
        """Record the task with this digest (32 bytes) durably. Raises `PlanRejected` if it was recorded before."""
        ...


class TasksInMemory:
    """A memory that lives as long as the process. `Credentials` have one by default."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = _checked(capacity)
        self._tasks: dict[bytes, object] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, task: bytes) -> None:
        """Record a task. Raises `PlanRejected` for one that was begun before, and at `capacity`."""
        mine = object()
        # The first of several threads finds its own object; the others find that one too.
        if task not in self._tasks:
            _check_room(len(self._tasks), self._capacity)
        if self._tasks.setdefault(task, mine) is not mine:
            raise PlanRejected(_AGAIN)


class TasksInFolder:
    """A memory that survives restarts and is shared by all processes that use the same folder: one empty file per task.

    The name of a file is the task's digest in hexadecimal. The file system guarantees that a file is made only if there
    is none, and no crash leaves half of one. The folder is on the disk before `begin` returns.

    Args:
        folder: The folder, made on first use inside a folder that exists.
        capacity: The number of tasks it holds at most.
    """

    def __init__(self, folder: Path | str, capacity: int = CAPACITY) -> None:
        self._folder, self._capacity = user_path(folder), _checked(capacity)
        self._count: int | None = None

    def __contains__(self, task: object) -> bool:
        """True if the task with this digest was begun."""
        return isinstance(task, bytes) and (self._folder / task.hex()).exists()

    def begin(self, task: bytes) -> None:
        """Record a task. Raises `PlanRejected` for one that was begun before, and at `capacity`.

        An `OSError` means that the task could not be recorded: then it has not begun.
        """
        if len(task) != _NAME_BYTES:
            raise ConfigError(f"a task's digest has {_NAME_BYTES} bytes, not {len(task)}")
        if self._count is None:
            made_folder(self._folder, mode=0o700)
            self._count = sum(1 for _ in self._folder.iterdir())
        path = self._folder / task.hex()
        if not path.exists():
            _check_room(self._count, self._capacity)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError as error:
            raise PlanRejected(_AGAIN) from error
        self._count += 1
        sync_folder(self._folder)


_AGAIN: Final = "this client has taken part in this task before; a new attempt is a new context"


def _checked(capacity: int) -> int:
    if capacity < 1:
        raise ConfigError(f"a memory holds at least 1 task, not {capacity}")
    return capacity


def _check_room(held: int, capacity: int) -> None:
    if held >= capacity:
        raise PlanRejected(f"{held} tasks were begun, and this memory holds {capacity}: go on with new credentials")
