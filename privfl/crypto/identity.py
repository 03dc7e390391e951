"""Identities: a directory of public signing keys, and one client's own keys.

The directory is what makes a masked sum safe against a lying server: it must not come from that server. An embedding
application may implement `KeyDirectory` over its own certificates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from privfl.checks import check_type
from privfl.crypto.agreement import AgreementKey
from privfl.crypto.kdf import check_key
from privfl.crypto.memory import TaskMemory, TasksInFolder, TasksInMemory
from privfl.crypto.passphrase import is_protected, protect, unprotect
from privfl.crypto.signing import SigningKey, VerifyKey
from privfl.errors import ConfigError, RemoteProtocolError, StateError
from privfl.files import atomic_write, canonical_json, read_json, user_path
from privfl.wire import ClientId, check_client

_DIRECTORY_FORMAT: Final = "privfl key directory 1"
_CREDENTIALS_FORMAT: Final = "privfl credentials 1"
_NAME_DIGITS: Final = 16


class KeyDirectory(Protocol):
    """Maps a client's identity to the key that verifies its signatures."""

    def verify_key(self, client: ClientId) -> VerifyKey:
        """Return the client's key. Raises `RemoteProtocolError` (sender=client) for a client that it does not hold."""
        ...


class MemoryDirectory:
    """A directory held in memory.

    One key for two identities raises `ConfigError`, because one party would then count as two.

    Args:
        keys: The public signing key of each client.
    """

    def __init__(self, keys: Mapping[ClientId, VerifyKey]) -> None:
        check_type("the keys of a directory", keys, Mapping)
        owners: dict[VerifyKey, ClientId] = {}
        for client, key in sorted(((check_client(client), key) for client, key in keys.items()), key=_first):
            check_type(f"the key of client {client}", key, VerifyKey)
            if key in owners:
                raise ConfigError(f"clients {owners[key]} and {client} have the same key")
            owners[key] = client
        self._keys = {client: key for key, client in owners.items()}

    def verify_key(self, client: ClientId) -> VerifyKey:
        """Return the client's key. Raises `RemoteProtocolError` (sender=client) for a client that it does not hold."""
        if client not in self._keys:
            raise RemoteProtocolError(f"client {client} is not in the key directory", sender=client)
        return self._keys[client]

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """The clients in the directory, in increasing order."""
        return tuple(sorted(self._keys))


class FileDirectory(MemoryDirectory):
    """A directory read from a JSON file: `{"format": "privfl key directory 1", "keys": {"<client>": "<hex>"}}`."""

    def __init__(self, path: Path | str) -> None:
        path = user_path(path)
        try:
            entries = _parsed(path.read_bytes(), _DIRECTORY_FORMAT)
            if any(str(int(client)) != client for client in entries):
                raise ValueError("an identity is not in decimal")
            super().__init__({int(client): VerifyKey(bytes.fromhex(key)) for client, key in entries.items()})
        except (OSError, TypeError, ValueError) as error:
            raise StateError(f"{path} is not a {_DIRECTORY_FORMAT}: {error}") from error

    @staticmethod
    def write(path: Path | str, keys: Mapping[ClientId, VerifyKey]) -> FileDirectory:
        """Write the file, atomically and in place of an older one, and return the directory read back from it.

        Args:
            path: The JSON file.
            keys: The public signing key of each client.
        """
        MemoryDirectory(keys)
        entries = {str(client): key.public.hex() for client, key in keys.items()}
        atomic_write(user_path(path), _written(_DIRECTORY_FORMAT, entries))
        return FileDirectory(path)


@dataclass(frozen=True, slots=True)
class Credentials:
    """One client's own keys. Keep one object per client, or a task memory that outlives it.

    Attributes:
        client: The client's identity, an integer in [0, 2^32 - 2].
        signing: The key that identifies the client to the others. It only signs.
        box: The key that receives sealed boxes, in sums that deal session keys.
        session_key: A secret of 32 bytes that the clients of one session share; None before it was dealt.
        tasks: The memory of the tasks begun with these keys, so no task is begun twice.
    """

    client: ClientId
    signing: SigningKey
    box: AgreementKey
    session_key: bytes | None = field(default=None, repr=False)
    tasks: TaskMemory = field(default_factory=TasksInMemory, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "client", check_client(self.client))
        for name, method in (("signing", "sign"), ("box", "agree")):
            if not callable(getattr(getattr(self, name), method, None)):
                raise ConfigError(
                    f"{name} must be a key with a method {method!r}, not {type(getattr(self, name)).__name__}"
                )
        if self.session_key is not None:
            check_key(self.session_key, "a session key")

    @classmethod
    def generate(cls, client: ClientId, entropy: Callable[[int], bytes] = os.urandom) -> Credentials:
        """Return fresh keys without a session key.

        Args:
            client: The client's identity.
            entropy: A source of random bytes, such as `os.urandom`.
        """
        return cls(client, SigningKey.generate(entropy), AgreementKey.generate(entropy))


def generate_identities(
    clients: Iterable[ClientId], entropy: Callable[[int], bytes] = os.urandom
) -> tuple[dict[ClientId, Credentials], MemoryDirectory]:
    """Return fresh credentials for all `clients`, and their directory: for simulations, demonstrations and tests.

    Args:
        clients: The identities.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: Two identities are the same, or one is none.
    """
    check_type("the clients", clients, Iterable)
    identities = [check_client(client) for client in clients]
    if len(set(identities)) < len(identities):
        repeated = next(client for client in identities if identities.count(client) > 1)
        raise ConfigError(f"client {repeated} is there twice: every client has an identity of its own")
    credentials = {client: Credentials.generate(client, entropy) for client in identities}
    return credentials, MemoryDirectory({client: own.signing.public for client, own in credentials.items()})


def save_credentials(path: Path | str, own: Credentials, *, passphrase: str | None = None) -> None:
    """Write the keys to a file that only its owner may read (mode 0600).

    Args:
        path: The file.
        own: The credentials. Their task memory is not written: `load_credentials` makes one next to the file.
        passphrase: Seals the file; None writes it in the clear.
    """
    check_type("own", own, Credentials)
    keys = {"client": str(own.client), "signing": own.signing.secret.hex(), "box": own.box.secret.hex()}
    if own.session_key is not None:
        keys["session_key"] = own.session_key.hex()
    data = _written(_CREDENTIALS_FORMAT, keys)
    atomic_write(user_path(path), data if passphrase is None else protect(data, passphrase))


def load_credentials(path: Path | str, *, passphrase: str | None = None) -> Credentials:
    """Return the keys that `save_credentials` wrote.

    Their tasks are recorded from then on in a folder next to the file, `<16 digits of the public key>.tasks`. Neither a
    restart nor a second process, nor one that names the file by a link, can therefore begin one task again.

    Args:
        path: The file. A symbolic link to it counts as the file.
        passphrase: The passphrase under which it was saved; not used for a file in the clear.

    Raises:
        StateError: The file is none of credentials, or others than its owner may read or write it. Or it has a second
            name (a hard link), which would keep a record of tasks of its own. Or the passphrase is missing or another.
    """
    try:
        real = user_path(path).resolve(strict=True)
        _check_private(real)
        keys = _parsed(_in_the_clear(real, passphrase), _CREDENTIALS_FORMAT)
        client = int(keys.pop("client"))
        secrets = {name: bytes.fromhex(value) for name, value in keys.items()}
        signing, box = SigningKey(secrets.pop("signing")), AgreementKey(secrets.pop("box"))
        tasks = TasksInFolder(real.with_name(signing.public.public.hex()[:_NAME_DIGITS] + ".tasks"))
        return Credentials(client, signing, box, secrets.pop("session_key", None), tasks, **secrets)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise StateError(f"{path} is not a {_CREDENTIALS_FORMAT}") from error


def _check_private(path: Path) -> None:
    """Raise `StateError` unless the owner alone may read the file, and it has one name."""
    if os.name != "posix":
        return  # modes say nothing there
    status = path.stat()
    if status.st_mode & 0o077:
        raise StateError(
            f"{path} holds secret keys, and others may read or write it (mode {status.st_mode & 0o777:03o}): make new "
            f"keys if anybody did, and run chmod 600 {path}"
        )
    if status.st_nlink > 1:
        raise StateError(
            f"{path} has {status.st_nlink} names (hard links), and each would keep a record of tasks of its own: "
            "remove the other names"
        )


def _first(entry: tuple[ClientId, object]) -> ClientId:
    return entry[0]


def _in_the_clear(path: Path, passphrase: str | None) -> bytes:
    data = path.read_bytes()
    if not is_protected(data):
        return data
    if passphrase is None:
        raise StateError(f"{path} is sealed under a passphrase: give the passphrase")
    return unprotect(data, passphrase)


def _written(form: str, keys: Mapping[str, str]) -> bytes:
    return canonical_json({"format": form, "keys": dict(keys)}) + b"\n"


def _parsed(data: bytes, form: str) -> dict[str, Any]:
    content = read_json(data)
    if not isinstance(content, dict) or content.get("format") != form or not isinstance(content.get("keys"), dict):
        raise ValueError("another format")
    keys: dict[str, Any] = content["keys"]
    return keys
