"""The ledger: an append-only, hash-chained file of releases. Epsilon is derived from it and kept nowhere else.

A round's worst case is *reserved* on disk before a client is asked, and *settled* afterwards by what really happened.
A reservation that was never settled counts in full; it is refunded only when it is proven that nothing was opened.
Specification and vectors: protocols/privacy-ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from privfl.checks import check_choice
from privfl.dp.release import Release
from privfl.dp.unit import PrivacyUnit
from privfl.errors import ConfigError, PrivacyError, StateError, UnsupportedRelease
from privfl.files import GENESIS, HashChain, atomic_write, canonical_json, link, verify_chain

VERSION: Final = 1
RefundReason = Literal["never_asked", "too_few_survivors", "aborted_before_opening"]
REASONS: Final[tuple[RefundReason, ...]] = get_args(RefundReason)


@dataclass(frozen=True, slots=True)
class Token:
    """A reservation: the hash of its line in the ledger."""

    digest: str


class Ledger:
    """Releases of one run under one privacy unit, in a file or (path None) in memory only.

    Raises `StateError` for a file that was altered, is of another version, or was kept under another unit.
    """

    def __init__(self, unit: PrivacyUnit, path: Path | None = None) -> None:
        self.unit = unit
        self._chain: HashChain | _Memory = _Memory() if path is None else HashChain(path)
        self._open: dict[str, Release] = {}
        self._releases: dict[str, Release] = {}
        if not self._chain.records:
            self._chain.append(_header(unit))
        self._replay(self._chain.records)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger at `path` under whatever unit it was kept; raises `StateError` if there is none."""
        if not path.exists():
            raise StateError(f"{path}: there is no ledger here")
        records = [record for record, _ in verify_chain(path.read_bytes(), str(path))]
        if not records:
            raise StateError(f"{path}: the ledger is empty")
        return cls(_unit_of(records[0]), path)

    @property
    def head(self) -> str:
        """The hash of the last line: who knows it detects a ledger that was cut short or rewritten."""
        return self._chain.head

    @property
    def releases(self) -> tuple[Release, ...]:
        """What is charged, in the order of reservation: settled releases, and the worst case where none was settled."""
        return tuple(self._releases.values())

    @property
    def unsettled(self) -> tuple[Token, ...]:
        """Reservations that were neither settled nor refunded (after a crash: charged in full)."""
        return tuple(Token(digest) for digest in self._open)

    def reserved(self, token: Token) -> Release:
        """The worst case behind an unsettled reservation; raises `PrivacyError` for any other token."""
        return self._pending(token)

    def pending(self, worst: Release) -> Token | None:
        """The unsettled reservation of exactly `worst`, if a crash left one.

        Only a replay that repeats the very same noise may use it; a new opening with fresh noise is charged anew.
        """
        return next((Token(digest) for digest, release in self._open.items() if release == worst), None)

    def charged(self, release: Release) -> bool:
        """Whether this opening of this round and attempt is charged already."""
        key = (release.round, release.attempt, release.opening)
        return any((r.round, r.attempt, r.opening) == key for r in self._releases.values())

    def reserve(self, worst: Release) -> Token:
        """Charge the worst case of an opening, durably, before any client is asked.

        Raises `PrivacyError` when this opening of this round and attempt was charged before: a second opening of one
        sum with other noise is a further release, and must be reserved as one (`opening` + 1).
        """
        self._check_new(worst)
        digest = self._chain.append({"type": "reserve", "release": worst.record()})
        self._open[digest] = self._releases[digest] = worst
        return Token(digest)

    def settle(self, token: Token, release: Release) -> None:
        """Replace a reservation by what happened; raises `PrivacyError` unless the reservation covers it."""
        worst = self._pending(token)
        if not worst.covers(release):
            raise PrivacyError(f"round {release.round}: what happened is not covered by what was reserved for it")
        self._chain.append({"type": "settle", "token": token.digest, "release": release.record()})
        self._releases[token.digest] = release
        del self._open[token.digest]

    def refund(self, token: Token, reason: RefundReason) -> None:
        """Give a reservation back because its sum was provably not opened to anybody.

        `never_asked`: no message of the round left; `too_few_survivors`: the sum raised `TooFewSurvivors`, so that
        no share was released; `aborted_before_opening`: the scheme's state shows that no opening step began.
        """
        check_choice("reason", reason, REASONS)
        self._pending(token)
        self._chain.append({"type": "refund", "token": token.digest, "reason": reason})
        del self._open[token.digest], self._releases[token.digest]

    def publish(self, path: Path) -> None:
        """Write a ledger that an outsider may read: who took part and what survived are left out of every line.

        Rounds whose cost was refunded are left out too, and what was never settled stands at its worst case.
        """
        lines, prev = b"", GENESIS
        records = [_header(self.unit), *({"type": "charge", "release": r.withheld().record()} for r in self.releases)]
        for record in records:
            digest = link(prev, record)
            lines += canonical_json({"hash": digest, "prev": prev, "record": record}) + b"\n"
            prev = digest
        atomic_write(path, lines)

    def _pending(self, token: Token) -> Release:
        if token.digest not in self._open:
            raise PrivacyError("this reservation is unknown, or was settled or refunded before")
        return self._open[token.digest]

    def _check_new(self, release: Release) -> None:
        for other in self._releases.values():
            if other.round == release.round and not _same_draw(other, release):
                raise PrivacyError(f"round {release.round}: a cohort that was drawn is never redrawn for a retry")
        if self.charged(release):
            raise PrivacyError(
                f"opening {release.opening} of round {release.round}, attempt {release.attempt}, is charged already: "
                "a second opening with other noise is charged as a further one"
            )

    def _replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        digest = GENESIS
        for number, record in enumerate(records, start=1):
            digest = link(digest, record)
            try:
                self._apply(number, record, digest)
            except (KeyError, TypeError, PrivacyError, ConfigError) as error:
                raise StateError(f"ledger line {number}: {error}") from error

    def _apply(self, number: int, record: Mapping[str, Any], digest: str) -> None:
        kind = record["type"]
        if (number == 1) != (kind == "ledger"):
            raise StateError(f"ledger line {number}: the header stands in line 1 and nowhere else")
        if kind == "ledger":
            found = _unit_of(record)
            if found != self.unit:
                raise StateError(
                    f"the ledger was kept for {found.level}s under {found.adjacency}, and cannot be continued for "
                    f"{self.unit.level}s under {self.unit.adjacency}"
                )
        elif kind in ("reserve", "charge"):
            release = Release.read(record["release"])
            self._check_new(release)
            self._releases[digest] = release
            if kind == "reserve":
                self._open[digest] = release
        elif kind == "settle":
            release = Release.read(record["release"])
            if not self._pending(Token(record["token"])).covers(release):
                raise StateError(f"ledger line {number}: the release is not covered by its reservation")
            self._releases[record["token"]] = release
            del self._open[record["token"]]
        elif kind == "refund":
            check_choice("reason", record["reason"], REASONS)
            self._pending(Token(record["token"]))
            del self._open[record["token"]], self._releases[record["token"]]
        else:
            raise StateError(f"ledger line {number}: unknown type {kind!r}")


def combined(ledgers: Iterable[Ledger]) -> Ledger:
    """All releases of several ledgers of one unit, as one in memory; rounds are renumbered apart.

    Raises `UnsupportedRelease` for ledgers of different units: their figures do not add up to one number.
    """
    parts = list(ledgers)
    if len({part.unit for part in parts}) != 1:
        raise UnsupportedRelease("ledgers of different units, or of none, do not add up to one number")
    whole, offset = Ledger(parts[0].unit), 0
    for part in parts:
        for release in part.releases:
            whole.reserve(replace(release, round=release.round + offset))
        offset += 1 + max((release.round for release in part.releases), default=-1)
    return whole


def _same_draw(one: Release, other: Release) -> bool:
    """Whether two releases of a round can come from one draw: one cohort within the other's, where both are known."""
    if one.participants is None or other.participants is None:
        return True
    mine, theirs = set(one.participants), set(other.participants)
    return mine <= theirs or theirs <= mine


class _Memory:
    """A chain without a file, for what-if questions and tests."""

    def __init__(self) -> None:
        self.records: tuple[dict[str, Any], ...] = ()
        self.head = GENESIS

    def append(self, record: Mapping[str, Any]) -> str:
        self.records = (*self.records, dict(record))
        self.head = link(self.head, record)
        return self.head


def _header(unit: PrivacyUnit) -> dict[str, Any]:
    return {"type": "ledger", "version": VERSION, "level": unit.level, "adjacency": unit.adjacency}


def _unit_of(record: Mapping[str, Any]) -> PrivacyUnit:
    try:
        if record["type"] != "ledger" or record["version"] != VERSION:
            raise StateError(f"the first line is not the header of a ledger of version {VERSION}")
        return PrivacyUnit(record["level"], record["adjacency"])
    except (KeyError, TypeError, ConfigError) as error:
        raise StateError("the first line is not the header of a ledger") from error
