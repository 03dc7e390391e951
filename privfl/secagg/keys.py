"""Every key and every signed text of a masked sum, in one place.

`session` is the digest of the terms (privfl/secagg/terms.py), 32 bytes. `roster` is the digest of the roster,
SHA-256(framed("privfl/1 masked-sum roster", session, entries)). Identities stand as u32 little-endian. framed() and
derive() are those of privfl/crypto/kdf.py.

    pairwise mask    derive(X25519(mask keys),  "masked-sum pairwise mask", session, roster, lower id, higher id)
    self mask        derive(self-mask seed,     "masked-sum self mask",     session, roster, id)
    box              derive(X25519(box keys),   "masked-sum box",           session, roster, from, to)
                     associated data            framed(session, "ShareKeys", from, to)
    seed hash        SHA-256(framed("privfl/1 masked-sum seed hash", session, roster, id, seed))
    input check      AES-256-GCM tag of the packed values as associated data, empty text, nonce of zeros, under
                     derive(roster,             "masked-sum input",         session, id)
    ring             derive(roster,             "masked-sum ring",          session)
    member order     derive(roster,             "masked-sum members",       session)
    pair noise       derive(X25519(box keys),   "masked-sum mesh noise",    session, roster, lower id, higher id)
    advertisement    Ed25519 over framed("privfl/1 masked-sum advertise", session, id, keys)
    consistency      Ed25519 over framed("privfl/1 masked-sum survivors", session, roster, id, bitmap)
    transcript       SHA-256(framed("privfl/1 masked-sum transcript", session, roster, bitmap))

Mask keys and the keys of pair noise take the sorted pair of identities, because both clients must find one key; only
the keys of boxes have a direction. Pair noise is keyed by the box keys, of which no share exists. From a dropout's mask
key, which is reconstructed, the server could compute the noise that stands in for it.
The client with the lower identity adds the pairwise stream, the other one subtracts it. Each adds its own self mask.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from privfl.crypto import AgreementKey
from privfl.crypto.kdf import PROTOCOL_LABEL, derive, framed
from privfl.crypto.sealed import tag
from privfl.secagg.messages import Bitmap
from privfl.wire import ClientId

ADVERTISE: Final = "masked-sum advertise"
SURVIVORS: Final = "masked-sum survivors"


def id_bytes(client: ClientId) -> bytes:
    """An identity as it enters keys and signatures."""
    return client.to_bytes(4, "little")


def roster_digest(session: bytes, entries: bytes) -> bytes:
    """Return the digest that binds a key to all advertisements.

    Args:
        session: The digest of the terms, 32 bytes.
        entries: The roster as bytes.
    """
    return _hash("masked-sum roster", session, entries)


@dataclass(frozen=True, slots=True)
class RosterKeys:
    """Derives the keys and hashes that are bound to one session and one roster.

    Attributes:
        session: The digest of the terms, 32 bytes.
        roster: The digest of the roster, 32 bytes.
    """

    session: bytes
    roster: bytes

    def pairwise(self, own: AgreementKey, public: bytes, me: ClientId, peer: ClientId) -> bytes:
        """Return the key of the mask of two clients.

        Args:
            own: The mask key pair of `me`.
            public: The mask key of `peer`, 32 bytes.
            me: This client.
            peer: The other client.

        Raises:
            RemoteProtocolError: `public` is no good point (sender=peer).
        """
        low, high = sorted((me, peer))
        shared = own.agree(public, sender=peer)
        return self._derive(shared, "masked-sum pairwise mask", id_bytes(low), id_bytes(high))

    def self_mask(self, client: ClientId, seed: bytes) -> bytes:
        """Return the key of a client's own mask.

        Args:
            client: The client.
            seed: Its self-mask seed, 32 bytes.
        """
        return self._derive(seed, "masked-sum self mask", id_bytes(client))

    def seed_hash(self, client: ClientId, seed: bytes) -> bytes:
        """Return the hash that a reconstructed seed is compared with. A seed has full entropy, so its hash hides it.

        Args:
            client: The client.
            seed: Its self-mask seed, 32 bytes.
        """
        return _hash("masked-sum seed hash", self.session, self.roster, id_bytes(client), seed)

    def input_check(self, client: ClientId, values: bytes | memoryview) -> bytes:
        """Return the tag that an upload is compared with. It detects damage, not lies: a client may sum any vector.

        Args:
            client: The client.
            values: Its masked vector, packed.
        """
        return tag(derive(self.roster, "masked-sum input", self.session, id_bytes(client)), values)

    def box(self, shared: bytes, sender: ClientId, receiver: ClientId) -> bytes:
        """Return the key of the one box from `sender` to `receiver`.

        Args:
            shared: The agreed secret of their box keys.
            sender: The client that seals.
            receiver: The client that opens.
        """
        return self._derive(shared, "masked-sum box", id_bytes(sender), id_bytes(receiver))

    def box_context(self, sender: ClientId, receiver: ClientId) -> bytes:
        """Return the associated data of the box from `sender` to `receiver`.

        Args:
            sender: The client that seals.
            receiver: The client that opens.
        """
        return framed(self.session, b"ShareKeys", id_bytes(sender), id_bytes(receiver))

    def ring(self) -> bytes:
        """The key whose stream permutes the ring."""
        return derive(self.roster, "masked-sum ring", self.session)

    def members(self) -> bytes:
        """The key whose stream permutes the members of noise that needs the roster."""
        return derive(self.roster, "masked-sum members", self.session)

    def pair_noise(self, shared: bytes, me: ClientId, peer: ClientId) -> bytes:
        """Return the key of the noise that two members have in common.

        Args:
            shared: The agreed secret of their box keys.
            me: One of them.
            peer: The other one.
        """
        low, high = sorted((me, peer))
        return self._derive(shared, "masked-sum mesh noise", id_bytes(low), id_bytes(high))

    def said_by(self, client: ClientId, survivors: Bitmap) -> tuple[bytes, ...]:
        """Return the parts that `client` signs in the consistency step.

        Args:
            client: The client.
            survivors: The survivor list.
        """
        return self.session, self.roster, id_bytes(client), survivors.to_bytes()

    def transcript(self, survivors: Bitmap) -> bytes:
        """The digest of what was opened for whom."""
        return _hash("masked-sum transcript", self.session, self.roster, survivors.to_bytes())

    def _derive(self, secret: bytes, label: str, *parts: bytes) -> bytes:
        return derive(secret, label, self.session, self.roster, *parts)


def _hash(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed((PROTOCOL_LABEL + label).encode("ascii"), *parts)).digest()
