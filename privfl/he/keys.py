"""The session key: everything derived from its 32 bytes, and its storage between sums."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.crypto import Credentials, add_keystreams
from privfl.crypto.kdf import derive
from privfl.errors import ConfigError
from privfl.he.messages import NO_KEY
from privfl.he.plan import CkksPlan

Ternary = npt.NDArray[np.int8]
"""The coefficients of a secret polynomial: -1, 0 or 1, `[degree]`."""

_STREAM_BYTES: Final = 1 << 16


def key_id(session_key: bytes) -> bytes:
    """Return 32 bytes that commit to the key and reveal nothing about it."""
    return derive(session_key, "ckks-sum key id")


def secret_polynomial(session_key: bytes, plan: CkksPlan) -> Ternary:
    """Return the uniform ternary secret of these parameters.

    Bytes of an AES-256-CTR stream below 255 are taken modulo 3, the value 2 standing for -1; the byte 255 is skipped.

    Args:
        session_key: 32 secret bytes.
        plan: The parameters of the sum.

    Returns:
        int8 `[degree]`, each -1, 0 or 1.
    """
    shape = plan.degree.to_bytes(4, "little") + plan.modulus.to_bytes(8, "little")
    stream = np.frombuffer(keystream(derive(session_key, "ckks-sum secret", shape), 2 * plan.degree), np.uint8)
    digits = (stream[stream < 255][: plan.degree] % 3).astype(np.int8)
    return np.where(digits == 2, np.int8(-1), digits)


def keystream(key: bytes, count: int) -> bytes:
    """Return the first bytes of an AES-256-CTR stream.

    Args:
        key: A key of 32 bytes that is used for this stream only.
        count: Bytes wanted.
    """
    words = np.zeros(-(-count // 8), np.uint64)
    add_keystreams(words, [key])
    return words.tobytes()[:count]


class KeyedEntropy:
    """A source of random bytes that is equal for all holders of the session key that saw the same transcript."""

    def __init__(self, session_key: bytes, transcript: bytes) -> None:
        """Start the stream.

        Args:
            session_key: 32 secret bytes.
            transcript: The digest that names the sum, 32 bytes.
        """
        self._root = derive(session_key, "ckks-sum opening", transcript)
        self._block = 0
        self._rest = b""

    def __call__(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        parts = [self._rest]
        missing = count - len(self._rest)
        while missing > 0:
            key = derive(self._root, "ckks-sum opening block", self._block.to_bytes(8, "little"))
            parts.append(keystream(key, _STREAM_BYTES))
            self._block += 1
            missing -= _STREAM_BYTES
        stream = b"".join(parts)
        self._rest = stream[count:]
        return stream[:count]


@dataclass(slots=True)
class KeyStore:
    """Keeps one client's session key from sum to sum, for `rotation` sums. Safe to use from several threads.

    A sum reserves its use of the key when it advertises the key, so sums that overlap never count on one use twice. A
    reserved use counts even if its sum is never opened.

    Attributes:
        rotation: The number of sums that use one key, at least 1. The sum in which the key was dealt is one of them.
    """

    rotation: int = 1
    _key: bytes | None = field(default=None, repr=False)
    _uses: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.rotation < 1:
            raise ConfigError(f"rotation is at least 1 sum, not {self.rotation}")

    @classmethod
    def holding(cls, session_key: bytes) -> KeyStore:
        """Return a store of a key that was dealt outside of any sum. Its uses do not end before another is dealt."""
        return cls(sys.maxsize, session_key)

    @property
    def held(self) -> bytes:
        """The id of the key that has a use left, or `NO_KEY`."""
        key = self._key
        return NO_KEY if key is None else key_id(key)

    def reserve(self) -> bytes | None:
        """Return the key for one more sum, which counts as a use from now on; None where no use is left."""
        with self._lock:
            key = self._key
            if key is not None:
                self._count(key)
            return key

    def keep(self, session_key: bytes) -> None:
        """Hold a dealt key, whose first use is the sum in which it was dealt."""
        with self._lock:
            if session_key != self._key:
                self._uses = 0
            self._count(session_key)

    def _count(self, session_key: bytes) -> None:
        self._uses += 1
        self._key = session_key if self._uses < self.rotation else None


@dataclass(frozen=True, slots=True)
class StandingCredentials:
    """A client's keys together with its `KeyStore`, for clients that live through many rounds.

    Attributes:
        own: The client's signing and box keys, and the memory of its tasks.
        store: Its session key between sums.
    """

    own: Credentials
    store: KeyStore
