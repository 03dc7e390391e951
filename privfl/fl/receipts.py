"""Receipts: what a site signs about each round, so a restored backup cannot take back what was spent.

A site's receipts are numbered, and each names the hash of the one before. The first of a round states what the round
costs in the worst case, and is made before anything of it leaves the site. The second ends the round and states the
digest of all frames. The server keeps the newest receipt of every site and shows them all in every invitation. A site
that is shown a receipt of its own that it does not hold was rolled back: it refuses until it has taken up what it lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from privfl.checks import check_choice
from privfl.crypto import SigningKey, VerifyKey
from privfl.dp.release import Release
from privfl.errors import ConfigError, StateError, WireError
from privfl.files import GENESIS, canonical_json, read_json
from privfl.fl.frames import MAX_RECEIPT_BYTES
from privfl.wire import ClientId, check_client

Kind = Literal["entered", "ended"]

_LABEL: Final = "receipt of a site"
_HASH: Final = b"privfl/1 receipt"
_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One receipt.

    Attributes:
        client: The site.
        number: Its place among the site's receipts, from 1.
        previous: The hash of the receipt before it, 64 hexadecimal digits; zeros for the first.
        kind: "entered" before the first answer of a round leaves, "ended" with the last one.
        charter: The digest of the charter, 64 hexadecimal digits.
        round: The round.
        attempt: The attempt of the round.
        plan: The digest of the plan, 64 hexadecimal digits.
        transcript: The digest of the frames so far, 64 hexadecimal digits.
        spent: Epsilon against the server over all that the site has taken part in, at the delta of its policy, by worst
            case. None where no epsilon holds, because a round had no noise or the policy has no budget.
        release: The worst case that the round was charged, with this site as its only participant; None in a receipt of
            kind "ended", and for a round without noise.
        software: The version of privfl at the site.
        signature: 64 bytes over all other fields; 128 hexadecimal digits.

    Raises:
        ConfigError: A value is out of range.
    """

    client: ClientId
    number: int
    previous: str = GENESIS
    kind: Kind
    charter: str
    round: int
    attempt: int
    plan: str
    transcript: str
    spent: float | None
    release: Mapping[str, Any] | None = None
    software: str
    signature: str = ""

    def __post_init__(self) -> None:
        check_client(self.client)
        check_choice("kind", self.kind, ("entered", "ended"))
        for name, low in (("number", 1), ("round", 0), ("attempt", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ConfigError(f"{name} must be an integer of at least {low}, not {value!r}")
        for name in ("previous", "charter", "plan", "transcript"):
            value = getattr(self, name)
            if type(value) is not str or len(value) != _DIGITS or set(value) - _HEX:
                raise ConfigError(f"{name} must be {_DIGITS} hexadecimal digits")
        if self.spent is not None and (type(self.spent) is not float or not 0 <= self.spent < float("inf")):
            raise ConfigError(f"spent must be a finite number of at least 0, not {self.spent!r}")
        if self.release is not None:
            Release.read(self.release)

    def record(self) -> dict[str, Any]:
        """The fields that are signed, as a JSON object."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "signature"}

    @property
    def hash(self) -> str:
        """64 hexadecimal digits over the signed fields; the next receipt names it."""
        return hashlib.sha256(_HASH + canonical_json(self.record())).hexdigest()

    def signed(self, key: SigningKey) -> Receipt:
        """This receipt with the signature of the site. The same key gives the same signature each time."""
        return Receipt(**self.record(), signature=key.sign(_LABEL, bytes.fromhex(self.hash)).hex())

    def verify(self, key: VerifyKey) -> None:
        """Raise `RemoteProtocolError` unless the site of this key has signed it."""
        key.verify(bytes.fromhex(self.signature), _LABEL, bytes.fromhex(self.hash), sender=self.client)

    def to_bytes(self) -> bytes:
        """The canonical JSON, with the signature."""
        return canonical_json(self.record() | {"signature": self.signature})

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Receipt:
        """The receipt from its canonical bytes, its signature not verified; raises `WireError` for any others."""
        if len(data) > MAX_RECEIPT_BYTES:
            raise WireError(f"a receipt has at most {MAX_RECEIPT_BYTES} bytes, not {len(data)}")
        try:
            receipt = cls(**read_json(bytes(data)))
            written = receipt.to_bytes()
        except (ConfigError, StateError) as error:
            raise WireError(f"not a receipt: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WireError(f"not a receipt: {type(error).__name__}") from error
        if written != data:
            raise WireError("a receipt in another form than the canonical one")
        return receipt
