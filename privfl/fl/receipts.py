"""Receipts: what a site signs about each round, so a restored backup cannot take back what was spent.

A site's receipts are numbered, and each names the hash of the one before. The first of a round states what the round
costs in the worst case, and is made before anything of it leaves the site. The second ends the round and states the
digest of all frames. The server keeps every receipt, and shows the newest of each site in every invitation. A site that
is shown a receipt of its own that it does not hold was rolled back: it refuses until it has taken up what it lost.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from privfl.checks import check_choice
from privfl.crypto import SigningKey, VerifyKey
from privfl.dp.release import Release
from privfl.errors import ConfigError, StateError, WireError
from privfl.files import GENESIS, append_lines, canonical_json, read_json, whole_lines
from privfl.fl.frames import MAX_RECEIPT_BYTES
from privfl.wire import ClientId, check_client

ReceiptKind = Literal["entered", "ended"]

Mode = Literal["agent", "in-app"]
"""The place of a site's keys and data: in a process of the site's own, or in the process of the engine's app."""

MODES: Final[tuple[Mode, ...]] = ("agent", "in-app")

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
        spent: Epsilon against the server over all that the site has taken part in, at the delta of its policy, counting
            the reserved worst case of each round. None where no epsilon holds, because a round had no noise or the
            policy has no budget.
        release: The worst case that the round was charged, with this site as its only participant; None in a receipt of
            kind "ended", and for a round without noise.
        software: The version of privfl at the site.
        mode: "agent" where the site's own agent answered, "in-app" where an app of the engine opened the site's folder.
        signature: 64 bytes over all other fields; 128 hexadecimal digits.

    Raises:
        ConfigError: A value is out of range.
    """

    client: ClientId
    number: int
    previous: str = GENESIS
    kind: ReceiptKind
    charter: str
    round: int
    attempt: int
    plan: str
    transcript: str
    spent: float | None
    release: Mapping[str, Any] | None = None
    software: str
    mode: Mode
    signature: str = ""

    def __post_init__(self) -> None:
        check_client(self.client)
        check_choice("kind", self.kind, ("entered", "ended"))
        check_choice("mode", self.mode, MODES)
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


class ReceiptBook:
    """All receipts of all sites, in a file of one canonical line each; `privfl site reconcile` reads it.

    Args:
        path: The file; it need not exist yet. A last line that a crash cut short was never shown, and is dropped.

    Raises:
        StateError: If the file was altered.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._newest, self._hashes = path, dict[ClientId, Receipt](), set[str]()
        self._modes: defaultdict[ClientId, list[Mode]] = defaultdict(list)
        for receipt in receipts_in(whole_lines(path), str(path)):
            self._take(receipt)

    @property
    def newest(self) -> tuple[Receipt, ...]:
        """The newest receipt of each site, by client."""
        return tuple(receipt for _, receipt in sorted(self._newest.items()))

    @property
    def modes(self) -> dict[ClientId, tuple[Mode, ...]]:
        """The modes that each site stated, in the order in which it first did."""
        return {client: tuple(modes) for client, modes in sorted(self._modes.items())}

    def keep(self, receipts: Iterable[Receipt]) -> None:
        """Keep the receipts that are not held, durably."""
        new = list({receipt.hash: receipt for receipt in receipts if receipt.hash not in self._hashes}.values())
        if new:
            append_lines(self._path, [receipt.to_bytes() for receipt in new])
            for receipt in new:
                self._take(receipt)

    def _take(self, receipt: Receipt) -> None:
        held = self._newest.get(receipt.client)
        if held is None or receipt.number > held.number:
            self._newest[receipt.client] = receipt
        self._hashes.add(receipt.hash)
        if receipt.mode not in self._modes[receipt.client]:
            self._modes[receipt.client].append(receipt.mode)


def receipts_in(lines: Iterable[bytes], name: str) -> list[Receipt]:
    """The receipts of lines of canonical JSON.

    Args:
        lines: The lines.
        name: The name of their file, for errors.

    Raises:
        StateError: If a line is no receipt.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(Receipt.from_bytes(line))
        except WireError as error:
            raise StateError(f"{name}, line {number}: {error}") from error
    return found
