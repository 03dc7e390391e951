"""Hashes, derived keys, streams, key agreement, signatures and shares of a secret: section 5 of SPEC.md.

The primitives come from the `cryptography` package; all else is written out here.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from masked_messages import Remote, u32

PRIME = 2**256 + 297


def framed(*parts: bytes) -> bytes:
    return b"".join(u32(len(part)) + part for part in parts)


def label(text: str) -> bytes:
    return b"privfl/1 masked-sum " + text.encode()


def derive(secret: bytes, text: str, *context: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt; one block gives the 32 bytes."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, framed(label(text), *context) + b"\x01", hashlib.sha256).digest()


def digest(text: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(label(text), *parts)).digest()


def stream(key: bytes, size: int) -> bytes:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(size))


def words_of(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, other: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise Remote("a point of low order") from error


def sign(seed: bytes, text: str, *parts: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(framed(label(text), *parts))


def verify(key: bytes, signature: bytes, text: str, *parts: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, framed(label(text), *parts))
    except InvalidSignature as error:
        raise Remote("a signature does not verify") from error


def split(secret: bytes, clients: list[int], threshold: int, coins: bytes) -> list[int]:
    """Shamir 1979: the values of one polynomial at identity + 1."""
    tail = [int.from_bytes(coins[48 * i : 48 * (i + 1)], "little") % PRIME for i in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "little"), *tail]
    return [sum(c * pow(client + 1, i, PRIME) for i, c in enumerate(coefficients)) % PRIME for client in clients]


def value_at(x: int, points: list[tuple[int, int]]) -> int:
    """Lagrange's formula."""
    total = 0
    for xi, yi in points:
        term = yi
        for xj, _ in points:
            if xj != xi:
                term = term * (x - xj) * pow(xi - xj, -1, PRIME) % PRIME
        total += term
    return total % PRIME


def combine(shares: dict[int, int], threshold: int, accept: Any) -> tuple[bytes, set[int]] | None:
    """The accepted secret on whose polynomial most shares lie, and the holders of the others; None if there is none."""
    best: tuple[bytes, set[int]] | None = None
    for secret, wrong in polynomials(shares, threshold):
        if secret < 2**256 and accept(secret.to_bytes(32, "little")) and (best is None or len(wrong) < len(best[1])):
            best = secret.to_bytes(32, "little"), wrong
            if not wrong:
                break
    return best


def polynomials(shares: dict[int, int], threshold: int) -> Iterator[tuple[int, set[int]]]:
    """For each `threshold` of the shares: the secret, and the holders whose shares are off the polynomial."""
    for subset in itertools.combinations(sorted(shares), threshold):
        points = [(client + 1, shares[client]) for client in subset]
        yield (
            value_at(0, points),
            {client for client in shares if value_at(client + 1, points) != shares[client]},
        )
