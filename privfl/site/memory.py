"""The memory of a site: everything it has read from its folder, and the rounds in progress.

An engine's app may open a site for each message, and reading the folder again costs more than the message. `keep` puts
the memory aside in this process while nobody holds the folder; `take` brings it back for the next opening. It counts
only while it is certain that the folder is as it was left:

- the lock file numbers its holders, so nobody else has held the folder in between;
- no file that was read is another one, or was edited (inode, size and times).

Otherwise the folder is read again. A forked child starts without any memory.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from privfl.crypto import Credentials, TasksInFolder
from privfl.crypto.members import Members
from privfl.errors import PlanRejected, StateError
from privfl.files import user_path
from privfl.fl.charter import Charter
from privfl.fl.client_round import ClientRound
from privfl.site.account import Account
from privfl.site.chain import ReceiptChain
from privfl.site.entry import Judge
from privfl.site.home import CHARTERS, DIRECTORY, KEYS, LEDGERS, PLACE, POLICY, RECEIPTS, ROUNDS, SiteHome
from privfl.site.record import RoundRecord

MAX_KEPT: Final = 8
"""The memories that one process keeps; beyond it the oldest one is dropped."""

_Mark = tuple[int, ...] | None

_kept: dict[Path, SiteMemory] = {}
_SALT: Final = secrets.token_bytes(16)


class SiteMemory:
    """The content of a site's folder, for the holder of its lock.

    Args:
        home: The folder.
        passphrase: The passphrase of the keys, where they are under one.
        now: The present time, in seconds since 1970.

    Raises:
        StateError: A file was altered, or the passphrase is not the one of the keys.
        ConfigError: The policy holds a key or a value that is not allowed.
    """

    def __init__(self, home: SiteHome, passphrase: str | None, now: float) -> None:
        self.home = home
        self._secret, self._read = _hashed(passphrase), self._files()  # before they are read: a later edit is then seen
        self.policy = home.policy()
        self.own: Credentials = home.credentials(passphrase)
        self.chain = ReceiptChain(home / RECEIPTS, home.card.key)
        self.account = Account(home / LEDGERS, self.policy)
        self.judge = Judge(home, self.policy, self.chain, home.fresh_since(now))
        self.live: dict[bytes, ClientRound] = {}
        self._charters: dict[bytes, Charter] = {}
        self._records: dict[bytes, RoundRecord | None] = {}
        self._directory: tuple[_Mark, Members] | None = None
        self._departure: tuple[int, tuple[_Mark, ...]] | None = None

    @property
    def tasks(self) -> TasksInFolder:
        """The tasks that this site has begun."""
        tasks = self.own.tasks
        assert isinstance(tasks, TasksInFolder)  # noqa: S101 - as load_credentials makes it
        return tasks

    def charter(self, digest: bytes) -> Charter:
        """The approved charter of a digest; an approval that is withdrawn counts at once."""
        path = self.home / CHARTERS / f"{digest.hex()}.json"
        if not path.exists():
            self._charters.pop(digest, None)
            raise PlanRejected(f"no charter {digest.hex()[:16]} is approved here")
        if digest not in self._charters:
            charter = Charter.read(path)
            if charter.digest() != digest:
                raise StateError(f"{path} holds another charter than its name says")
            self._charters[digest] = charter
        return self._charters[digest]

    def members(self) -> Members:
        """The directory of the site. It is read again if its file was replaced."""
        mark = _mark(self.home / DIRECTORY)
        if self._directory is None or self._directory[0] != mark:
            self._directory = mark, self.home.members()
        return self._directory[1]

    def record(self, digest: bytes) -> RoundRecord | None:
        """The last exchange under a charter; None before the first."""
        if digest not in self._records:
            self._records[digest] = RoundRecord.read(self._path(digest), digest)
        return self._records[digest]

    def write(self, digest: bytes, record: RoundRecord) -> None:
        """Store an exchange durably as the last one under a charter.

        Args:
            digest: The digest of the charter.
            record: The exchange.
        """
        record.write(self._path(digest), digest)
        self._records[digest] = record

    def keep(self, turn: int) -> None:
        """Keep this memory in the process for a later message. Call it just before you release the folder's lock.

        Args:
            turn: The number that counts the holders of the folder; it is that of the present holder.
        """
        self._departure = turn, self._state()
        path = self.home.folder
        _kept.pop(path, None)
        _kept[path] = self
        for oldest in list(_kept)[:-MAX_KEPT]:
            _kept.pop(oldest, None)

    def is_current(self, turn: int, passphrase: str | None) -> bool:
        """True if the folder is as this memory left it.

        Args:
            turn: The number of the present holder of the folder.
            passphrase: The passphrase that the present holder gives.
        """
        untouched = self._departure == (turn - 1, self._state()) and self._read == self._files()
        return untouched and self._secret == _hashed(passphrase)

    def check_policy(self) -> None:
        """Raise `PlanRejected` once policy.toml was edited: this site was opened under an older one."""
        if self._read != self._files() and self.home.policy() != self.policy:
            raise PlanRejected("policy.toml was edited after this site was opened: start the agent again")

    def _files(self) -> tuple[_Mark, ...]:
        """The files that only people change."""
        return _marks([self.home / f"{self.home.card.name}.pub", self.home / POLICY, self.home / KEYS])

    def _state(self) -> tuple[_Mark, ...]:
        """The files that only a holder of the lock changes."""
        ledgers = self.home / LEDGERS
        files = [PLACE, RECEIPTS, ROUNDS, *(f"{ROUNDS}/{digest.hex()}" for digest in self._records)]
        return _marks([*(self.home / name for name in files), ledgers, *sorted(ledgers.glob("*"))])

    def _path(self, digest: bytes) -> Path:
        return self.home / ROUNDS / digest.hex()


def take(home: Path | str) -> SiteMemory | None:
    """Take the memory of a folder that this process keeps out of its place; None where there is none.

    The caller then takes the lock of the folder, and uses the memory only if `SiteMemory.is_current`.
    """
    return _kept.pop(user_path(home).resolve(), None)


def forget() -> None:
    """Drop every memory that this process keeps, as its end would."""
    _kept.clear()


def _hashed(passphrase: str | None) -> bytes:
    return b"" if passphrase is None else hashlib.sha256(_SALT + passphrase.encode()).digest()


def _mark(path: Path) -> _Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _marks(paths: Iterable[Path]) -> tuple[_Mark, ...]:
    return tuple(_mark(path) for path in paths)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
