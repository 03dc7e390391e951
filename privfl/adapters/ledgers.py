"""Example-level ledgers of clients as files: no state of a claim lives in the process that trained."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from privfl.dp import Ledger, PrivacyUnit, Release
from privfl.errors import StateError
from privfl.files import atomic_write, made_folder, user_path
from privfl.lock import sole_writer
from privfl.wire import ClientId

_MARK: Final = "folder.id"


class ClientLedgers:
    """One ledger file for each client, in a folder that every worker of this machine shares.

    A line is written by one process at a time, and each process reads what the others have written. A copy in another
    process finds the same folder, or fails.

    Args:
        unit: Whose presence is hidden.
        folder: Where the files are, made inside a folder that exists; None makes one that is removed with this object.

    Raises:
        StateError: The folder is another one than at the start, or is gone.
    """

    def __init__(self, unit: PrivacyUnit, folder: Path | str | None = None) -> None:
        self.unit = unit
        self._cache: dict[ClientId, tuple[int, Ledger]] = {}
        if folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="privfl-ledgers-"))
            weakref.finalize(self, _remove, self.folder, os.getpid())
        else:
            self.folder = made_folder(user_path(folder).absolute())
        mark = self.folder / _MARK
        if not mark.exists():
            atomic_write(mark, secrets.token_hex(16).encode())
        self._id = mark.read_bytes()

    def read(self, client: ClientId) -> Ledger:
        """The ledger of one client as it stands on the disk; an empty one for a client that was never charged."""
        if client not in self._cache and not self._path(client).exists():
            self._check_folder()
            return Ledger(self.unit)
        with self._opened(client) as ledger:
            return ledger

    @contextmanager
    def charged(self, client: ClientId, release_in: Callable[[Ledger], Release]) -> Iterator[None]:
        """Reserve a release before the block, and settle it after it; an error in the block leaves it charged.

        Args:
            client: Whose ledger.
            release_in: Makes the release, from the ledger as it stands.
        """
        with self._opened(client) as ledger:
            release = release_in(ledger)
            token = ledger.reserve(release)
        yield
        with self._opened(client) as ledger:
            ledger.settle(token, release)

    @contextmanager
    def _opened(self, client: ClientId) -> Iterator[Ledger]:
        """The ledger of a client, which nobody else writes in the meantime."""
        self._check_folder()
        path = self._path(client)
        with sole_writer(path.with_suffix(".lock"), wait=True):
            size, ledger = self._cache.get(client, (-1, None))
            if ledger is not None and not path.exists():
                raise StateError(f"{path} is gone, and with it what was charged: put it back")
            if ledger is None or size != path.stat().st_size:
                ledger = Ledger(self.unit, path)
            try:
                yield ledger
            finally:
                self._cache[client] = (path.stat().st_size, ledger)

    def _path(self, client: ClientId) -> Path:
        return self.folder / f"client-{client}.jsonl"

    def _check_folder(self) -> None:
        mark = self.folder / _MARK
        if not mark.exists() or mark.read_bytes() != self._id:
            raise StateError(
                f"{self.folder} is not the folder of ledgers that this training began with: give ledgers=... a folder "
                "that all workers share"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}}


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
