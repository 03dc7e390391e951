"""Certificates for TLS on loopback, and the keys by which nodes authenticate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificates:
    """The files of a server that clients of one authority trust.

    Attributes:
        authority: the certificate of the authority.
        server: the server's certificate.
        key: the server's private key.
    """

    authority: Path
    server: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """A fresh authority, and a server certificate for loopback that lasts one day."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    signer = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "privfl loopback authority")])
    authority = _signed(name, name, signer.public_key(), signer, authority=True)
    key = ec.generate_private_key(ec.SECP384R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    server = _signed(own, name, key.public_key(), signer, authority=False)
    _write(files.authority, authority.public_bytes(serialization.Encoding.PEM))
    _write(files.server, server.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    _write(files.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return files


def make_node_key(path: Path) -> Path:
    """A key pair of a SuperNode: the private key at `path`, the public one beside it, whose path is returned."""
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    _write(path, secret)
    public = path.with_suffix(".pub")
    _write(public, key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    return public


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA384())


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
