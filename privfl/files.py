"""Files that survive a crash: atomic writes, and append-only logs whose lines are chained by hash."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from privfl.errors import StateError

GENESIS: Final = "0" * 64
"""The `prev` of the first line of every chain."""


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`: a reader, or a crash, sees the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of `value`: sorted keys, no spaces, shortest round-trip numbers, no NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def link(prev: str, record: Mapping[str, Any]) -> str:
    """The hash (64 hex digits) of one line of a chain: SHA-256 over the previous hash and the canonical record."""
    return hashlib.sha256(prev.encode() + b"\n" + canonical_json(dict(record))).hexdigest()


class HashChain:
    """An append-only file of JSON lines, `{"hash": ..., "prev": ..., "record": {...}}`, synced on every append.

    A last line without its newline is a write that a crash cut short: nobody was told that it happened, so it is
    dropped. Any other departure from the chain raises `StateError` naming the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[dict[str, Any]] = []
        self.head = GENESIS
        if path.exists():
            whole = path.read_bytes()
            kept = whole[: whole.rfind(b"\n") + 1]
            for record, digest in verify_chain(kept, str(path)):
                self._records.append(record)
                self.head = digest
            if len(kept) != len(whole):
                atomic_write(path, kept)

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        """All records, oldest first."""
        return tuple(self._records)

    def append(self, record: Mapping[str, Any]) -> str:
        """Add one record and return its hash once it is on the disk."""
        digest = link(self.head, record)
        line = canonical_json({"hash": digest, "prev": self.head, "record": dict(record)}) + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        # The record is kept as it will be read back, so that a reader of either sees the same value.
        self._records.append(json.loads(canonical_json(dict(record))))
        self.head = digest
        return digest


def verify_chain(data: bytes, name: str = "chain") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (record, hash) of each line of `data`; raise `StateError` at the first line that does not fit."""
    prev = GENESIS
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            record, digest = entry["record"], entry["hash"]
            whole = entry["prev"] == prev and digest == link(prev, record) and canonical_json(entry) == line
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StateError(f"{name}, line {number}: not a line of a hash chain") from error
        if not whole:
            raise StateError(f"{name}, line {number}: the hash does not fit; the file was altered")
        yield record, digest
        prev = digest


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
