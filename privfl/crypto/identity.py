"""Who is who: a directory of public signing keys, and one client's own keys.

The directory is what makes a masked sum safe against a lying server: it must not come from that server. An embedding
application may implement `KeyDirectory` over its own certificates.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from privfl.crypto.agreement import AgreementKey
from privfl.crypto.kdf import check_key
from privfl.crypto.memory import TaskMemory, TasksInFolder, TasksInMemory
from privfl.crypto.signing import SigningKey, VerifyKey
from privfl.errors import ConfigError, RemoteProtocolError, StateError
from privfl.files import atomic_write, canonical_json
from privfl.wire import ClientId, check_client

_DIRECTORY_FORMAT: Final = "privfl key directory 1"
_CREDENTIALS_FORMAT: Final = "privfl credentials 1"


class KeyDirectory(Protocol):
    """Maps a client's identity to the key that verifies its signatures."""

    def verify_key(self, client: ClientId) -> VerifyKey:
        """The client's key; raises `RemoteProtocolError` (sender=client) for a stranger."""
        ...


class MemoryDirectory:
    """A directory held in memory. One key for two identities is a `ConfigError`: it would count one voice twice."""

    def __init__(self, keys: Mapping[ClientId, VerifyKey]) -> None:
        owners: dict[VerifyKey, ClientId] = {}
        for client, key in sorted((check_client(client), key) for client, key in keys.items()):
            if key in owners:
                raise ConfigError(f"clients {owners[key]} and {client} have the same key")
            owners[key] = client
        self._keys = dict(keys)

    def verify_key(self, client: ClientId) -> VerifyKey:
        """The client's key; raises `RemoteProtocolError` for a stranger."""
        if client not in self._keys:
            raise RemoteProtocolError(f"client {client} is not in the key directory", sender=client)
        return self._keys[client]

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """Everybody in it, increasing."""
        return tuple(sorted(self._keys))


class FileDirectory(MemoryDirectory):
    """A directory read from a JSON file: `{"format": "privfl key directory 1", "keys": {"<client>": "<hex>"}}`."""

    def __init__(self, path: Path) -> None:
        try:
            entries = _load(path, _DIRECTORY_FORMAT)
            if any(str(int(client)) != client for client in entries):
                raise ValueError("an identity is not in decimal")
            super().__init__({int(client): VerifyKey(bytes.fromhex(key)) for client, key in entries.items()})
        except (TypeError, ValueError) as error:
            raise StateError(f"{path} is not a {_DIRECTORY_FORMAT}: {error}") from error

    @staticmethod
    def write(path: Path, keys: Mapping[ClientId, VerifyKey]) -> FileDirectory:
        """Write (or replace, atomically) the file, and return it as read back."""
        MemoryDirectory(keys)
        _save(path, _DIRECTORY_FORMAT, {str(client): key.public.hex() for client, key in keys.items()})
        return FileDirectory(path)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One client's own keys.

    `signing` identifies it to the others and only signs; `box` receives sealed boxes where a scheme needs a standing
    address; `session_key` is a 32-byte secret shared by the clients of one session, once it was dealt. `tasks` is what
    they took part in: keep one object per client, or a memory that outlives it, so that no task is entered twice.
    """

    client: ClientId
    signing: SigningKey
    box: AgreementKey
    session_key: bytes | None = field(default=None, repr=False)
    tasks: TaskMemory = field(default_factory=TasksInMemory, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_client(self.client)
        if self.session_key is not None:
            check_key(self.session_key, "a session key")

    @classmethod
    def generate(cls, client: ClientId, entropy: Callable[[int], bytes] = os.urandom) -> Credentials:
        """Fresh keys, no session key."""
        return cls(client, SigningKey.generate(entropy), AgreementKey.generate(entropy))


def generate_identities(
    clients: Iterable[ClientId], entropy: Callable[[int], bytes] = os.urandom
) -> tuple[dict[ClientId, Credentials], MemoryDirectory]:
    """Fresh credentials for all `clients`, and their directory: for simulations, demos and tests."""
    credentials = {client: Credentials.generate(client, entropy) for client in clients}
    return credentials, MemoryDirectory({client: own.signing.public for client, own in credentials.items()})


def save_credentials(path: Path, own: Credentials) -> None:
    """Write the keys to a file that only its owner may read (mode 0600)."""
    keys = {"client": str(own.client), "signing": own.signing.secret.hex(), "box": own.box.secret.hex()}
    if own.session_key is not None:
        keys["session_key"] = own.session_key.hex()
    _save(path, _CREDENTIALS_FORMAT, keys)
    path.chmod(0o600)


def load_credentials(path: Path) -> Credentials:
    """The keys that `save_credentials` wrote; raises `StateError` for any other file.

    The tasks they take part in from now on are noted in a folder beside the file, `<its name>.tasks`, so that neither a
    restart nor a second process enters one again.
    """
    try:
        keys = _load(path, _CREDENTIALS_FORMAT)
        client = int(keys.pop("client"))
        secrets = {name: bytes.fromhex(value) for name, value in keys.items()}
        signing, box = SigningKey(secrets.pop("signing")), AgreementKey(secrets.pop("box"))
        tasks = TasksInFolder(path.with_name(path.name + ".tasks"))
        return Credentials(client, signing, box, secrets.pop("session_key", None), tasks, **secrets)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} is not a {_CREDENTIALS_FORMAT}") from error


def _save(path: Path, form: str, keys: Mapping[str, str]) -> None:
    atomic_write(path, canonical_json({"format": form, "keys": dict(keys)}) + b"\n")


def _load(path: Path, form: str) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or content.get("format") != form or not isinstance(content.get("keys"), dict):
        raise ValueError("another format")
    keys: dict[str, Any] = content["keys"]
    return keys
