"""Key agreement: X25519 (RFC 7748), with low-order points refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privfl.checks import draw
from privfl.crypto.kdf import KEY_BYTES, check_key
from privfl.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True)
class AgreementKey:
    """An X25519 key pair, held as its 32-byte secret."""

    secret: bytes = field(repr=False)
    public: bytes = field(init=False)
    _key: X25519PrivateKey = field(init=False, repr=False, compare=False)  # making it costs as much as an exchange

    def __post_init__(self) -> None:
        key = X25519PrivateKey.from_private_bytes(check_key(self.secret, "an X25519 secret"))
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "public", key.public_key().public_bytes_raw())

    def __reduce__(self) -> tuple[type[AgreementKey], tuple[bytes]]:
        return AgreementKey, (self.secret,)

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> AgreementKey:
        """Return a fresh key pair from `entropy`."""
        return cls(draw(entropy, KEY_BYTES))

    def agree(self, public: bytes, *, sender: int | None = None) -> bytes:
        """Return the secret shared with the owner of `public`, 32 bytes. Pass it to `derive`; never use it as a key.

        Args:
            public: The peer's public key, 32 bytes.
            sender: The client to blame for a bad key; None blames the server.

        Raises:
            RemoteProtocolError: `public` has another length, or is a point of low order, whose secret everybody would
                know.
        """
        if len(public) != KEY_BYTES:
            raise RemoteProtocolError(f"an X25519 key has {KEY_BYTES} bytes, not {len(public)}", sender=sender)
        try:
            peer = X25519PublicKey.from_public_bytes(bytes(public))
            return self._key.exchange(peer)
        except ValueError as error:  # the exchange came out as zero
            raise RemoteProtocolError("an X25519 key is a point of low order", sender=sender) from error
