"""Signatures: Ed25519 (RFC 8032) over a label and a framed message."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privfl.checks import draw
from privfl.crypto.kdf import KEY_BYTES, PROTOCOL_LABEL, check_key, framed
from privfl.errors import ConfigError, RemoteProtocolError

SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """The public half: 32 bytes that identify a signer."""

    public: bytes

    def __post_init__(self) -> None:
        check_key(self.public, "an Ed25519 public key")

    def verify(self, signature: bytes, label: str, *parts: bytes, sender: int | None = None) -> None:
        """Check that the signer signed exactly (label, parts).

        Args:
            signature: 64 bytes.
            label: The purpose of the signature.
            parts: The byte strings that were signed.
            sender: The client to blame for a bad signature; None blames the server.

        Raises:
            RemoteProtocolError: The signature is another one.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(self.public)
            key.verify(bytes(signature), _signed(label, parts))
        except (InvalidSignature, ValueError) as error:
            raise RemoteProtocolError(f"a signature ({label}) does not verify", sender=sender) from error


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair, held as its 32-byte seed. It is used for signatures only."""

    secret: bytes = field(repr=False)
    public: VerifyKey = field(init=False)
    _key: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = Ed25519PrivateKey.from_private_bytes(check_key(self.secret, "an Ed25519 seed"))
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "public", VerifyKey(key.public_key().public_bytes_raw()))

    def __reduce__(self) -> tuple[type[SigningKey], tuple[bytes]]:
        return SigningKey, (self.secret,)

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes] = os.urandom) -> SigningKey:
        """Return a fresh key pair from `entropy`."""
        return cls(draw(entropy, KEY_BYTES))

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Return 64 bytes over framed("privfl/1 " + label, parts...): a signature for one purpose fits no other.

        Args:
            label: The purpose of the signature, not empty.
            parts: The byte strings to sign.
        """
        return self._key.sign(_signed(label, parts))


def _signed(label: str, parts: tuple[bytes, ...]) -> bytes:
    if not label:
        raise ConfigError("a signature needs a label")
    return framed((PROTOCOL_LABEL + label).encode("ascii"), *parts)
