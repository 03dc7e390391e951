"""The session key: what is derived from its 32 bytes, and how long a client keeps it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.crypto import Credentials, add_keystreams, derive
from privfl.errors import ConfigError
from privfl.he.messages import NO_KEY
from privfl.he.plan import CkksPlan

Ternary = npt.NDArray[np.int8]
"""The coefficients of a secret polynomial: -1, 0 or 1, `[degree]`."""

_STREAM_BYTES: Final = 1 << 16


def key_id(session_key: bytes) -> bytes:
    """32 bytes that commit to the key and say nothing about it."""
    return derive(session_key, "ckks-sum key id")


def secret_polynomial(session_key: bytes, plan: CkksPlan) -> Ternary:
    """The uniform ternary secret of these parameters, int8 `[degree]`.

    Bytes of an AES-256-CTR stream below 255 are taken modulo 3, the value 2 standing for -1; the byte 255 is skipped.
    """
    shape = plan.degree.to_bytes(4, "little") + plan.modulus.to_bytes(8, "little")
    stream = np.frombuffer(keystream(derive(session_key, "ckks-sum secret", shape), 2 * plan.degree), np.uint8)
    kept = stream[stream < 255][: plan.degree] % 3
    return np.where(kept == 2, -1, kept).astype(np.int8)


def keystream(key: bytes, count: int) -> bytes:
    """`count` bytes of the AES-256-CTR stream of a single-use key."""
    words = np.zeros(-(-count // 8), np.uint64)
    add_keystreams(words, [key])
    return words.tobytes()[:count]


class KeyedEntropy:
    """A source of random bytes that is the same for all who hold the session key and saw the same transcript."""

    def __init__(self, session_key: bytes, transcript: bytes) -> None:
        self._root = derive(session_key, "ckks-sum opening", transcript)
        self._block = 0
        self._left = b""

    def __call__(self, count: int) -> bytes:
        """The next `count` bytes."""
        parts = [self._left]
        missing = count - len(self._left)
        while missing > 0:
            key = derive(self._root, "ckks-sum opening block", self._block.to_bytes(8, "little"))
            parts.append(keystream(key, _STREAM_BYTES))
            self._block += 1
            missing -= _STREAM_BYTES
        whole = b"".join(parts)
        self._left = whole[count:]
        return whole[:count]


@dataclass(slots=True)
class KeyStore:
    """What one client keeps between sums: its session key until `rotation` sums were made with it."""

    rotation: int = 1
    _key: bytes | None = field(default=None, repr=False)
    _uses: int = 0

    def __post_init__(self) -> None:
        if self.rotation < 1:
            raise ConfigError(f"rotation is at least 1 sum, not {self.rotation}")

    @classmethod
    def holding(cls, session_key: bytes) -> KeyStore:
        """A store of a key that was dealt outside of any sum, and is kept until it is replaced there."""
        return cls(sys.maxsize, session_key)

    @property
    def held(self) -> bytes:
        """The id of the key that may still be used, or `NO_KEY`."""
        return NO_KEY if self._key is None else key_id(self._key)

    def keep(self, session_key: bytes) -> None:
        """Count one sum under `session_key`, and hold it until it was used `rotation` times."""
        self._uses = self._uses + 1 if session_key == self._key else 1
        self._key = session_key if self._uses < self.rotation else None

    def get(self, wanted: bytes) -> bytes | None:
        """The held key if its id is `wanted`."""
        return self._key if self._key is not None and self.held == wanted else None


@dataclass(frozen=True, slots=True)
class StandingCredentials:
    """A client's keys together with its `KeyStore`, for clients that live through many rounds."""

    own: Credentials
    store: KeyStore
