"""One key per purpose: HKDF-SHA256 (RFC 5869) under labels that carry the protocol's version.

`derive(secret, label, *context)` is HKDF with an empty salt and

    info = framed("privfl/1 " + label, as ASCII; context...)
    framed(parts) = for each part: its length as u32 little-endian | the part

The lengths make the info injective: no two (label, context) pairs share a key.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privfl.errors import ConfigError

PROTOCOL_LABEL: Final = "privfl/1 "
"""The prefix of every label; a new protocol version is a new prefix, and so a new key everywhere."""

KEY_BYTES: Final = 32


def derive(secret: bytes, label: str, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """Return a key for the purpose `label`, bound to every part of `context`.

    Args:
        secret: A key, a seed or an agreed secret: at least 32 bytes of full entropy.
        label: The purpose, in ASCII.
        context: Any number of byte strings that the key depends on.
        length: The number of bytes to return, 32 by default.

    Raises:
        ConfigError: `secret` has fewer than 32 bytes.
    """
    if len(secret) < KEY_BYTES:
        raise ConfigError(f"keys are derived from at least {KEY_BYTES} secret bytes, not {len(secret)}")
    info = framed((PROTOCOL_LABEL + label).encode("ascii"), *context)
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


def framed(*parts: bytes) -> bytes:
    """Return the parts behind their lengths (u32, little-endian): an encoding that no other list of parts has."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def check_key(key: bytes, name: str = "a key") -> bytes:
    """Return `key` if it has 32 bytes; raise `ConfigError` otherwise.

    Args:
        key: The key.
        name: The name of the key in the error.
    """
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ConfigError(f"{name} is {KEY_BYTES} bytes")
    return key
