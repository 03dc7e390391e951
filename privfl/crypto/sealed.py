"""Sealed boxes and fast tags: AES-256-GCM (NIST SP 800-38D).

A box is nonce (12 bytes, random) | ciphertext | tag (16 bytes). A tag alone is that of an empty text with the data as
associated data and a nonce of zeros: its key must be used for that one tag only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privfl.checks import draw
from privfl.crypto.kdf import check_key
from privfl.errors import RemoteProtocolError

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEAL_OVERHEAD: Final = NONCE_BYTES + TAG_BYTES
"""Bytes that a box is longer than its content."""


def seal(key: bytes, content: bytes, *, associated: bytes, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return a box around `content` that opens only under the same `key` and `associated` data.

    Derive one `key` per direction, purpose and message where you can; the random nonce is a second line of defense.

    Args:
        key: 32 bytes.
        content: The bytes to seal; a box has 28 bytes more.
        associated: Bytes that the opener must know; they do not travel in the box.
        entropy: A source of random bytes for the nonce, such as `os.urandom`.
    """
    nonce = draw(entropy, NONCE_BYTES)
    return nonce + AESGCM(check_key(key)).encrypt(nonce, content, associated)


def unseal(key: bytes, box: bytes, *, associated: bytes, sender: int | None = None) -> bytes:
    """Return the content of `box`.

    Args:
        key: The key under which the box was sealed, 32 bytes.
        box: Bytes from `seal`.
        associated: The same bytes as in `seal`.
        sender: The client to blame for a bad box; None blames the server.

    Raises:
        RemoteProtocolError: A bit of the box, the key or the associated data differs.
    """
    if len(box) < SEAL_OVERHEAD:
        raise RemoteProtocolError(f"a box has at least {SEAL_OVERHEAD} bytes, not {len(box)}", sender=sender)
    try:
        return AESGCM(check_key(key)).decrypt(bytes(box[:NONCE_BYTES]), bytes(box[NONCE_BYTES:]), associated)
    except InvalidTag as error:
        raise RemoteProtocolError("a sealed box does not open: altered, or meant for others", sender=sender) from error


def tag(key: bytes, data: bytes | memoryview) -> bytes:
    """Return a 16-byte authentication tag of `data` under `key`, several times faster than a hash.

    Under a key that others can derive, a tag detects damage but not forgery.

    Args:
        key: 32 bytes, used for this one tag only.
        data: The bytes to authenticate, of any length.
    """
    return AESGCM(check_key(key)).encrypt(bytes(NONCE_BYTES), b"", data)
