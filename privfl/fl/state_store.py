"""The clients' states of a simulated run: one file a round, and the model of that round commits it.

`states/000012.bin` holds the new states of the clients that survived round 12. It is written before the model of round
12, whose metadata names it and all earlier files that are still needed, with their hashes. The model's one atomic write
is therefore also the moment at which the states count. A file that no model names is ignored and overwritten. A file is
removed once every client in it has a later state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from privfl.errors import StateError
from privfl.files import atomic_write, canonical_json, read_json
from privfl.wire import ClientId

LiveFiles = tuple[tuple[int, str], ...]
"""The files of states that a model needs: (round, SHA-256 of the file's header), increasing."""

_MAGIC: Final = b"privfl/1 client states\n"
_HASH_DIGITS: Final = 64


class StateStore:
    """The states of a run's clients by (client, last round that it survived).

    Args:
        folder: The folder of the files.
        live: The files that the latest model names.

    Raises:
        StateError: If one of these files is lost or was altered.
    """

    def __init__(self, folder: Path, live: LiveFiles = ()) -> None:
        self.folder, self.live = folder, live
        self._rounds: dict[ClientId, int] = {}
        self._places: dict[int, dict[ClientId, tuple[int, int, str]]] = {}
        for round, digest in live:
            self._places[round] = self._header(round, digest)
            self._rounds |= dict.fromkeys(self._places[round], round)

    def rounds(self, clients: Iterable[ClientId]) -> tuple[int, ...]:
        """The last round that each client survived; 0 for a client without a state."""
        return tuple(self._rounds.get(client, 0) for client in clients)

    def read(self, client: ClientId) -> bytes:
        """The state of one client; b"" for a client without one."""
        round = self._rounds.get(client)
        if round is None:
            return b""
        start, size, digest = self._places[round][client]
        try:
            with self._path(round).open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise StateError(f"{self._path(round)} is lost: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StateError(f"{self._path(round)} was altered: the state of client {client} has another hash")
        return data

    def write(self, round: int, states: Mapping[ClientId, bytes]) -> LiveFiles:
        """Write the states of a round's survivors durably; they count once a model names the files returned.

        Args:
            round: The round.
            states: The new states by client; may be empty.

        Returns:
            The files that the model of this round needs.
        """
        if not states:
            return self.live
        clients = sorted(states)
        hashes = [[client, len(states[client]), hashlib.sha256(states[client]).hexdigest()] for client in clients]
        header = canonical_json({"round": round, "clients": hashes})
        atomic_write(self._path(round), b"".join([_MAGIC, header, b"\n", *(states[client] for client in clients)]))
        needed = {kept for client, kept in self._rounds.items() if client not in states}
        return (*(file for file in self.live if file[0] in needed), (round, hashlib.sha256(header).hexdigest()))

    def commit(self, live: LiveFiles) -> None:
        """Take over the files of a model that is stored, and remove those that no client needs any more."""
        for round, digest in live:
            if (round, digest) not in self.live:
                self._places[round] = self._header(round, digest)
                self._rounds |= dict.fromkeys(self._places[round], round)
        for round, _ in set(self.live) - set(live):
            del self._places[round]
            with suppress(OSError):
                self._path(round).unlink()
        self.live = live

    def sweep(self) -> None:
        """Remove the files that a run left behind when it was killed, and that no model names."""
        named = {self._path(round) for round, _ in self.live}
        for path in self.folder.glob("*.bin"):
            if path not in named:
                path.unlink()

    def _path(self, round: int) -> Path:
        return self.folder / f"{round:06}.bin"

    def _header(self, round: int, digest: str) -> dict[ClientId, tuple[int, int, str]]:
        path = self._path(round)
        try:
            with path.open("rb") as file:
                magic, header = file.readline(), file.readline()
        except OSError as error:
            raise StateError(f"{path} is lost, and clients of this run go on from it: {error.strerror}") from error
        if magic != _MAGIC or hashlib.sha256(header[:-1]).hexdigest() != digest:
            raise StateError(f"{path} was altered: it does not have the hash that the model names")
        places, at = dict[ClientId, tuple[int, int, str]](), len(magic) + len(header)
        for client, size, sha in read_json(header)["clients"]:
            places[int(client)] = (at, int(size), str(sha))
            at += int(size)
        return places


class CohortStates:
    """The states of one round's cohort: every attempt of the round starts from the same ones.

    Args:
        store: The states before the round; None for training that keeps none.
        cohort: The clients of the round.
    """

    def __init__(self, store: StateStore | None, cohort: tuple[ClientId, ...]) -> None:
        self.cohort, self._store = cohort, store
        self.rounds = () if store is None else store.rounds(cohort)
        self._before = {} if store is None else {client: store.read(client) for client in cohort}
        self._running, self._opened = dict[ClientId, bytes](), dict[ClientId, bytes]()
        self._new = dict[ClientId, bytes]()

    def begin(self) -> dict[ClientId, bytes] | None:
        """The states that an attempt starts from, and in whose place it puts the new ones; None without states."""
        self._running = dict(self._before)
        return None if self._store is None else self._running

    def opened(self) -> None:
        """Keep the states of the attempt that has just opened its sum."""
        self._opened = self._running

    def settle(self, survivors: frozenset[ClientId]) -> None:
        """Take the new states of the clients whose updates changed the model."""
        self._new = {client: self._opened[client] for client in survivors} if self._store is not None else {}

    def read(self, client: ClientId) -> bytes:
        """The state of any client after the round; b"" for none."""
        if self._store is None:
            return b""
        return self._new[client] if client in self._new else self._store.read(client)

    def write(self, round: int) -> LiveFiles:
        """Write the new states durably; see `StateStore.write`."""
        return () if self._store is None else self._store.write(round, self._new)

    def commit(self, live: LiveFiles) -> None:
        """Take over the files of the model that is stored; see `StateStore.commit`."""
        if self._store is not None:
            self._store.commit(live)


def live_record(live: LiveFiles) -> list[list[Any]]:
    """The files as a JSON value."""
    return [list(file) for file in live]


def read_live(record: Any) -> LiveFiles:
    """The files from their JSON value; raises `ValueError` for another one."""
    live = tuple((int(round), str(digest)) for round, digest in record)
    if any(len(digest) != _HASH_DIGITS for _, digest in live) or list(live) != sorted(live):
        raise ValueError("not a list of files of states")
    return live
