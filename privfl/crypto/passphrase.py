"""Secrets under a passphrase: a key from scrypt (RFC 7914) seals them (AES-256-GCM).

The form is a label line | cost exponent u8 | salt (16 bytes) | box. The label, the cost and the salt are associated
data of the box, so none of them can be changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privfl.checks import draw
from privfl.crypto.kdf import KEY_BYTES
from privfl.crypto.sealed import SEAL_OVERHEAD, seal, unseal
from privfl.errors import ConfigError, RemoteProtocolError, StateError

_LABEL: Final = b"privfl/1 under a passphrase\n"
_SALT_BYTES: Final = 16
_COST: Final = 15  # 2^15 blocks of 1 KiB: 32 MiB and about 0.1 s
_MAX_COST: Final = 20


def is_protected(data: bytes) -> bool:
    """True for bytes that `protect` made."""
    return data.startswith(_LABEL)


def protect(data: bytes, passphrase: str, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return `data` sealed under a passphrase.

    Args:
        data: The secret bytes.
        passphrase: A text that is not empty.
        entropy: A source of random bytes, such as `os.urandom`.

    Raises:
        ConfigError: The passphrase is empty.
    """
    if not passphrase:
        raise ConfigError("a passphrase must not be empty")
    head = _LABEL + bytes([_COST]) + draw(entropy, _SALT_BYTES)
    return head + seal(_key(passphrase, head), data, associated=head, entropy=entropy)


def unprotect(data: bytes, passphrase: str) -> bytes:
    """Return the bytes that `protect` sealed.

    Args:
        data: The sealed bytes.
        passphrase: The passphrase.

    Raises:
        StateError: It is another passphrase, or the bytes were altered.
    """
    at = len(_LABEL) + 1 + _SALT_BYTES
    head = data[:at]
    if not is_protected(data) or len(data) < at + SEAL_OVERHEAD or head[len(_LABEL)] > _MAX_COST:
        raise StateError("these bytes are not a secret under a passphrase")
    try:
        return unseal(_key(passphrase, head), data[at:], associated=head)
    except RemoteProtocolError as error:
        raise StateError("the passphrase is another one, or the file was altered") from error


def _key(passphrase: str, head: bytes) -> bytes:
    salt, cost = head[-_SALT_BYTES:], head[len(_LABEL)]
    return Scrypt(salt=salt, length=KEY_BYTES, n=1 << cost, r=8, p=1).derive(passphrase.encode())
