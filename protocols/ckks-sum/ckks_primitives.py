"""Hashes, derived keys, streams, signatures and key agreement: section 3 of SPEC.md."""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def framed(*parts):
    return b"".join(u32(len(part)) + part for part in parts)


def derive(secret, label, *context):
    extracted = hmac.new(bytes(32), secret, "sha256").digest()
    info = framed(b"privfl/1 " + label.encode(), *context)
    return hmac.new(extracted, info + b"\x01", "sha256").digest()


def stream(key, count):
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(count))


def digest(*parts):
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def sign(secret, label, *parts):
    return Ed25519PrivateKey.from_private_bytes(secret).sign(framed(b"privfl/1 " + label.encode(), *parts))


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret, public):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
