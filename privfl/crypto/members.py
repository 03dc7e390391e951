"""The directory of a federation's sites: dated, expiring, signed by its own members, and pinned by its digest.

Each site makes a card: its name, its public key and the date on which the key expires, signed by that key. A directory
holds the cards of all sites. Its digest covers everything except the members' signatures, so members sign one text, and
a charter can pin it. The directory counts once a quorum of its members has signed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from privfl.checks import check_count
from privfl.crypto.identity import MemoryDirectory
from privfl.crypto.signing import SigningKey, VerifyKey
from privfl.errors import ConfigError, PrivflError, RemoteProtocolError, StateError
from privfl.files import atomic_write, canonical_json, read_json, user_path
from privfl.wire import SERVER, ClientId

MAX_NAME: Final = 60

_CARD: Final = "site card"
_DIRECTORY: Final = "site directory"
_CARD_FORMAT: Final = "privfl site card 1"
_DIRECTORY_FORMAT: Final = "privfl site directory 1"
_CLIENT: Final = b"privfl/1 client of a key"
_DIGEST: Final = b"privfl/1 site directory digest"
_FINGERPRINT: Final = b"privfl/1 fingerprint"
_GROUPS, _GROUP_DIGITS = 8, 4
_MAX_TIME: Final = 1 << 40


def client_of(key: VerifyKey) -> ClientId:
    """The identity of the site with this key: the first 32 bits of a hash of the key, below 2^32 - 1."""
    return int.from_bytes(hashlib.sha256(_CLIENT + key.public).digest()[:4], "little") % SERVER


def fingerprint(key: VerifyKey) -> str:
    """Eight groups of four hexadecimal digits of a hash of the key, for two people who compare by telephone."""
    digits = hashlib.sha256(_FINGERPRINT + key.public).hexdigest()
    return " ".join(digits[at : at + _GROUP_DIGITS] for at in range(0, _GROUPS * _GROUP_DIGITS, _GROUP_DIGITS))


def check_name(name: str) -> str:
    """Return the name of a site: 1 to 60 letters, digits, dots, dashes and underscores; `ConfigError` otherwise."""
    allowed = isinstance(name, str) and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not allowed or not name.isascii() or len(name) > MAX_NAME or name.startswith("."):
        raise ConfigError(f"a site's name has 1 to {MAX_NAME} letters, digits, '.', '-' or '_', not {name!r}")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCard:
    """The statement of a site about itself, signed by its key.

    Attributes:
        name: The name of the site.
        key: Its public signing key.
        issued: The time at which the card was made, in seconds since 1970 (UTC).
        expires: The time from which the key is no longer valid, in seconds since 1970 (UTC).
        signature: 64 bytes of the key over the other fields.

    Raises:
        ConfigError: A value is out of range.
    """

    name: str
    key: VerifyKey
    issued: int
    expires: int
    signature: bytes = b""

    def __post_init__(self) -> None:
        check_name(self.name)
        for field in ("issued", "expires"):
            value = getattr(self, field)
            if type(value) is not int or not 0 <= value < _MAX_TIME:
                raise ConfigError(f"{field} must be a time in seconds since 1970, not {value!r}")
        if self.expires <= self.issued:
            raise ConfigError("a card must expire after it was issued")

    @property
    def client(self) -> ClientId:
        """The identity of the site in every sum."""
        return client_of(self.key)

    @classmethod
    def make(cls, name: str, signing: SigningKey, *, issued: int, expires: int) -> SiteCard:
        """Return the signed card.

        Args:
            name: The name of the site.
            signing: Its key.
            issued: The present time, in seconds since 1970.
            expires: The time from which the key counts no more.
        """
        card = cls(name=name, key=signing.public, issued=issued, expires=expires)
        signature = signing.sign(_CARD, canonical_json(card._signed()))
        return cls(name=name, key=signing.public, issued=issued, expires=expires, signature=signature)

    def _signed(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key.public.hex(), "issued": self.issued, "expires": self.expires}

    def record(self) -> dict[str, Any]:
        """The card as a JSON object."""
        return self._signed() | {"signature": self.signature.hex()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> SiteCard:
        """The card of a JSON object, its signature verified; raises `StateError` for any other object."""
        try:
            values = dict(record)
            values["key"] = VerifyKey(bytes.fromhex(values["key"]))
            values["signature"] = bytes.fromhex(values["signature"])
            card = cls(**values)
            card.key.verify(card.signature, _CARD, canonical_json(card._signed()), sender=card.client)
            return card
        except (KeyError, TypeError, ValueError, AttributeError, RemoteProtocolError) as error:
            raise StateError(f"not a site's card: {error}") from error

    def write(self, path: Path) -> None:
        """Write the card to a file that others may read."""
        atomic_write(path, canonical_json({"format": _CARD_FORMAT} | self.record()) + b"\n", shared=True)

    @classmethod
    def read(cls, path: Path | str) -> SiteCard:
        """The card in a file; raises `StateError` where there is none."""
        record = _load(user_path(path), _CARD_FORMAT)
        try:
            return cls.of(record)
        except StateError as error:
            raise StateError(f"{path}: {error}") from error


class Members(MemoryDirectory):
    """The directory of all sites.

    Args:
        cards: The card of each site.
        issued: The time at which the directory was made, in seconds since 1970 (UTC).
        expires: The time from which it counts no more.
        quorum: How many members must sign it.
        signatures: The signatures so far, by member.

    Raises:
        ConfigError: Two sites share a name, a key or an identity; or a value is out of range.
    """

    def __init__(
        self,
        cards: Iterable[SiteCard],
        *,
        issued: int,
        expires: int,
        quorum: int,
        signatures: Mapping[ClientId, bytes] | None = None,
    ) -> None:
        self.cards = {card.client: card for card in sorted(cards, key=lambda card: card.client)}
        listed = list(self.cards.values())
        super().__init__({card.client: card.key for card in listed})
        names = [card.name for card in listed]
        if len(set(names)) < len(names):
            raise ConfigError(f"two sites share a name: {', '.join(sorted(names))}")
        check_count("quorum", quorum)
        if not 1 <= quorum <= len(listed):
            raise ConfigError(f"quorum must be in [1, {len(listed)}], the number of sites, not {quorum}")
        if not 0 <= issued < expires < _MAX_TIME:
            raise ConfigError("a directory must expire after it was issued")
        self.issued, self.expires, self.quorum = issued, expires, quorum
        self.signatures = dict(signatures or {})

    @property
    def names(self) -> dict[str, ClientId]:
        """The identity of each site, by its name."""
        return {card.name: client for client, card in self.cards.items()}

    @property
    def digest(self) -> str:
        """64 hexadecimal digits over everything except the members' signatures; charters pin it."""
        return hashlib.sha256(_DIGEST + canonical_json(self._signed())).hexdigest()

    def _signed(self) -> dict[str, Any]:
        cards = [card.record() for card in self.cards.values()]
        return {"sites": cards, "issued": self.issued, "expires": self.expires, "quorum": self.quorum}

    def signed(self, key: SigningKey) -> Self:
        """This directory with the signature of one more member; raises `ConfigError` for a key that is in no card."""
        client = client_of(key.public)
        if client not in self.cards or self.cards[client].key != key.public:
            raise ConfigError("only a member signs a directory: this site's card is not in it")
        signatures = self.signatures | {client: key.sign(_DIRECTORY, bytes.fromhex(self.digest))}
        return type(self)(
            self.cards.values(), issued=self.issued, expires=self.expires, quorum=self.quorum, signatures=signatures
        )

    def check(self, now: float) -> None:
        """Raise `StateError` unless the directory is valid at the time `now` and a quorum of its members signed it."""
        if not self.issued <= now < self.expires:
            when = "is not valid yet" if now < self.issued else "has expired"
            raise StateError(f"the directory {when}: compare the clock, or have its members sign a new one")
        if len(self.signatures) < self.quorum:
            raise StateError(
                f"the directory has {len(self.signatures)} of {self.quorum} signatures: run `privfl site sign` at "
                "another member"
            )

    def current(self, now: float) -> MemoryDirectory:
        """The keys that have not expired at the time `now`."""
        return MemoryDirectory({client: card.key for client, card in self.cards.items() if now < card.expires})

    def write(self, path: Path | str) -> None:
        """Write the directory to a file that others may read."""
        signatures = {str(client): signature.hex() for client, signature in sorted(self.signatures.items())}
        record = {"format": _DIRECTORY_FORMAT, "signatures": signatures} | self._signed()
        atomic_write(user_path(path), canonical_json(record) + b"\n", shared=True)

    @classmethod
    def read(cls, path: Path | str) -> Members:
        """The directory in a file, all signatures verified; raises `StateError` where there is none."""
        record = _load(user_path(path), _DIRECTORY_FORMAT)
        try:
            signatures = {int(client): bytes.fromhex(value) for client, value in record.pop("signatures").items()}
            cards = [SiteCard.of(card) for card in record.pop("sites")]
            members = cls(cards, signatures=signatures, **record)
            for client, signature in signatures.items():
                key = members.verify_key(client)
                key.verify(signature, _DIRECTORY, bytes.fromhex(members.digest), sender=client)
            return members
        except (PrivflError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"{path} is not a {_DIRECTORY_FORMAT}: {error}") from error


def _load(path: Path, form: str) -> dict[str, Any]:
    try:
        record = read_json(path.read_bytes())
        if not isinstance(record, dict) or record.pop("format", None) != form:
            raise ValueError("another format")
        return record
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StateError(f"{path} is not a {form}: {error}") from error
