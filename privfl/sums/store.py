"""A folder of saved sessions, each of which is taken out at most once."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

from privfl.errors import ConfigError, StateError
from privfl.files import atomic_write, made_folder, sync_folder, user_path

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class SessionStore:
    """Saved sessions in files that only their owner may read (mode 0600).

    Args:
        folder: Where the files are, made with the first session inside a folder that exists. Processes may share it.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = user_path(folder)

    def put(self, name: str, state: bytes) -> None:
        """Save a session durably. Call this before you send its answer.

        Args:
            name: The name of the session: at most 100 letters, digits, dots, dashes and underscores. An older
                state of the same name is replaced.
            state: The bytes that `to_bytes` of the session gave.
        """
        path = self._path(name)
        made_folder(self._folder)
        atomic_write(path, state)

    def take(self, name: str) -> bytes:
        """Take a session out, durably, before it is given: no crash and no second process gets the same bytes again.

        Raises:
            StateError: No session of this name is there, or it was taken before.
        """
        path = self._path(name)
        taken = path.with_name(f".{name}.taken-{secrets.token_hex(8)}")
        try:
            path.rename(taken)  # of several that try, one succeeds
        except FileNotFoundError as error:
            raise StateError(f"no saved session {name!r} is here, or it was taken before") from error
        sync_folder(self._folder)
        try:
            return taken.read_bytes()
        finally:
            taken.unlink()

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"a session's name has 1 to 100 letters, digits, '.', '-' or '_', not {name!r}")
        return self._folder / name
