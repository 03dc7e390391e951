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

from privfl.crypto.kdf import check_key, draw
from privfl.errors import RemoteProtocolError

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
SEAL_OVERHEAD: Final = NONCE_BYTES + TAG_BYTES
"""Bytes that a box is longer than its content."""


def seal(key: bytes, content: bytes, *, associated: bytes, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
    """A box around `content` that opens only under the same `key` and `associated` data.

    Derive one `key` per direction, purpose and message where you can; the random nonce is a second line of defense.
    """
    nonce = draw(entropy, NONCE_BYTES)
    return nonce + AESGCM(check_key(key)).encrypt(nonce, content, associated)


def unseal(key: bytes, box: bytes, *, associated: bytes, sender: int | None = None) -> bytes:
    """The content of `box`; raises `RemoteProtocolError` (blaming `sender`) if a single bit is not as it was."""
    if len(box) < SEAL_OVERHEAD:
        raise RemoteProtocolError(f"a box has at least {SEAL_OVERHEAD} bytes, not {len(box)}", sender=sender)
    try:
        return AESGCM(check_key(key)).decrypt(bytes(box[:NONCE_BYTES]), bytes(box[NONCE_BYTES:]), associated)
    except InvalidTag as error:
        raise RemoteProtocolError("a sealed box does not open: altered, or meant for others", sender=sender) from error


def tag(key: bytes, data: bytes | memoryview) -> bytes:
    """16 bytes that no other data has under `key`, several times faster than a hash; one `key` for one tag.

    Under a key that others can derive it tells damage, not lies.
    """
    return AESGCM(check_key(key)).encrypt(bytes(NONCE_BYTES), b"", data)
