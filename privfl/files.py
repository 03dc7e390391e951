"""Files that survive a crash: atomic writes, and append-only logs whose lines are chained by hash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from privfl.errors import ConfigError, StateError

GENESIS: Final = "0" * 64
"""The `prev` of the first line of every chain."""

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{16}")
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def atomic_write(path: Path, data: bytes | Iterable[bytes | memoryview], *, shared: bool = False) -> None:
    """Replace the file at `path`. A reader, or a crash, meets the old bytes or the new, never a part.

    Args:
        path: The file; its folder is made if there is none.
        data: The new content, or its parts in their order.
        shared: Give the file the mode of the user's umask, as for any file made to be passed on. By default only its
            owner may read it (mode 0600).

    Raises:
        ConfigError: The path is a folder.
    """
    if not path.name or path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # The system applies the umask as the file is made: to ask for the umask means to change it for all threads.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666 if shared else 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def user_path(path: Path | str) -> Path:
    """Return a path that a user wrote, with `~` as the home folder. Raises `ConfigError` where there is no home folder
    of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no such home folder; write the path in full") from error
    except TypeError as error:
        raise ConfigError(f"a path is a text or a pathlib.Path, not {type(path).__name__}") from error


def read_json(text: bytes | str) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for other texts, a name given twice, and deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one JSON object")
    return found


def existing_parent(path: Path | str) -> Path:
    """The path of a file or folder that is about to be made, with `~` replaced.

    Raises:
        ConfigError: The folder around it does not exist, so the path is likely to be wrong.
    """
    found = user_path(path)
    if not found.parent.is_dir():
        raise ConfigError(f"the folder {found.parent} does not exist: make it, or correct the path {found}")
    return found


def existing_folder(path: Path | str) -> Path:
    """The path of a file that is about to be made, perhaps with its folder, with `~` replaced.

    Raises:
        ConfigError: The folder around that of the file does not exist, so the path is likely to be wrong.
    """
    found = user_path(path)
    existing_parent(found.parent.absolute())
    return found


def made_folder(folder: Path, *, mode: int = 0o777) -> Path:
    """Make a folder where it is absent, inside a folder that exists, and return it.

    Args:
        folder: The folder.
        mode: Its permissions, less the user's umask.

    Raises:
        ConfigError: The folder around it does not exist, so the path is likely to be wrong.
    """
    if not folder.is_dir():
        existing_parent(folder).mkdir(mode=mode, exist_ok=True)
    return folder


def sweep(folder: Path) -> None:
    """Remove the temporary files that `atomic_write` left in `folder` after a crash. Only for its one writer."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces, shortest round-trip numbers, no NaN or infinity."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise ConfigError(f"only finite, plain JSON values have a canonical form: {error}") from error


def chain_hash(prev: str, record: Mapping[str, Any]) -> str:
    """Return the hash of one line of a chain, 64 hex digits: SHA-256 over the previous hash and the canonical record.

    Args:
        prev: The hash of the previous line, or `GENESIS`.
        record: The record of the line, plain JSON.
    """
    return hashlib.sha256(prev.encode() + b"\n" + canonical_json(dict(record))).hexdigest()


class HashChain:
    """An append-only file of JSON lines, `{"hash": ..., "prev": ..., "record": {...}}`, synced on every append.

    A last line without its newline is a write that a crash cut short. Its append never returned, so the line is not
    read, and the next append removes it. Any other departure from the chain raises `StateError` naming the line.
    Reading never writes. There is one writer at a time: an append to a file that another writer changed raises
    `StateError`. A chain cannot detect the loss of whole lines at its end; keep `head` elsewhere where that matters.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[dict[str, Any]] = []
        self.head = GENESIS
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        for record, digest in verify_chain(kept, str(path)):
            self._records.append(record)
            self.head = digest
        self._file_bytes, self._chain_bytes = len(whole), len(kept)

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """All records, oldest first."""
        return tuple(self._records)

    def append(self, record: Mapping[str, Any]) -> str:
        """Append one record, and return its hash once it is on the disk."""
        digest = chain_hash(self.head, record)
        line = canonical_json({"hash": digest, "prev": self.head, "record": dict(record)}) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A chain names participants, so only its owner may read it, like every file not made to be shared.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINKS, 0o600)
        with os.fdopen(handle, "ab", buffering=0) as file:
            if file.tell() != self._file_bytes:
                raise StateError(
                    f"{self.path} has {file.tell()} bytes, {self._file_bytes} were left in it: "
                    "another writer is at work"
                )
            try:
                file.truncate(self._chain_bytes)
                _write_all(file, line)
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(self._chain_bytes)  # this append does not return: the next one starts at the same place
                self._file_bytes = self._chain_bytes
                raise
        if not self._chain_bytes:
            sync_folder(self.path.parent)
        self._chain_bytes += len(line)
        self._file_bytes = self._chain_bytes
        # The record is kept as it will be read back: a reader of either sees one value.
        self._records.append(json.loads(canonical_json(dict(record))))
        self.head = digest
        return digest


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines to a file that its owner alone may read, durably. A line that a crash cut short before is removed.

    Args:
        path: The file; it is made if there is none.
        lines: The lines, without their newlines.
    """
    fresh = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o600)
    with os.fdopen(handle, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
        file.seek(end)
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    if fresh:
        sync_folder(path.parent)


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, without newlines and without a last line that a crash cut short; none without a file."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def verify_chain(data: bytes, name: str = "chain") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (record, hash) of each line of a chain.

    Args:
        data: The content of the file.
        name: The name of the file in errors.

    Raises:
        StateError: A line does not fit; the error names the first.
    """
    prev = GENESIS
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            record = entry["record"]
            if not isinstance(record, dict):
                raise TypeError("a record is an object")
            digest = chain_hash(prev, record)
            # The whole line is compared: it has one form, no further keys, and no value the hash leaves out.
            expected = canonical_json({"hash": digest, "prev": prev, "record": record})
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # ConfigError is a ValueError
            raise StateError(f"{name}, line {number}: not a line of a hash chain") from error
        if line != expected:
            raise StateError(f"{name}, line {number}: the hash does not fit; the file was altered")
        yield record, digest
        prev = digest


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: a file that was made or renamed in it is found there after a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def byte_size(count: float) -> str:
    """Return bytes for people: 15.0 kB, 3.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError  # the last unit takes the rest
