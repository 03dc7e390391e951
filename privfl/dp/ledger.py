"""The ledger: an append-only, hash-chained file of draws and releases, from which alone epsilon is derived.

A cohort's draw is noted before the cohort is sampled. A round's worst case is *reserved* on disk before a client is
asked, and *settled* afterwards by what really happened. A reservation that was never settled counts in full; it is
refunded only when it is proven that nothing was opened. Specification and vectors: protocols/privacy-ledger.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from privfl.checks import check_choice
from privfl.dp.draws import Draw, rounded_up
from privfl.dp.release import Release
from privfl.dp.unit import OnePass, PrivacyUnit, Sampling
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.files import (
    GENESIS,
    HashChain,
    atomic_write,
    canonical_json,
    chain_hash,
    existing_folder,
    user_path,
    verify_chain,
)
from privfl.wire import ClientId

VERSION: Final = 2
RefundReason = Literal["never_asked", "too_few_survivors", "aborted_before_opening"]
REASONS: Final[tuple[RefundReason, ...]] = get_args(RefundReason)


@dataclass(frozen=True, slots=True)
class Token:
    """A reservation: the hash of its line in the ledger."""

    digest: str


class Ledger:
    """Draws and releases of one run under one privacy unit.

    Args:
        unit: Whose presence is hidden.
        path: The file, made at the first line; None keeps the ledger in memory.

    Raises:
        StateError: The file was altered, is of another version, or was kept under another unit.
    """

    def __init__(self, unit: PrivacyUnit, path: Path | str | None = None) -> None:
        self.unit = unit
        self._chain: HashChain | _Memory = _Memory() if path is None else HashChain(existing_folder(path))
        self._open: dict[str, Release] = {}
        self._releases: dict[str, Release] = {}
        self._draws: dict[int, Draw] = {}
        self._rounds: defaultdict[int, list[str]] = defaultdict(list)
        self._only: dict[ClientId, int] = {}  # the round of each client that takes part once
        self._attempts: dict[int, int] = {}  # the highest attempt of each round, refunded ones too
        self._lines: set[str] = set()
        if not self._chain.records:
            self._chain.append(_header(unit))
        self._replay(self._chain.records)

    @classmethod
    def read(cls, path: Path | str) -> Ledger:
        """The ledger at `path` under the unit that it was kept under; raises `StateError` if there is none."""
        path = user_path(path)
        if not path.is_file():
            raise StateError(f"{path}: there is no ledger here")
        records = [record for record, _ in verify_chain(path.read_bytes(), str(path))]
        if not records:
            raise StateError(f"{path}: the ledger is empty")
        return cls(_unit_of(records[0]), path)

    @property
    def head(self) -> str:
        """The hash of the last line: a reader who knows it detects a ledger that was cut short or rewritten."""
        return self._chain.head

    def holds(self, line: str) -> bool:
        """True when `line`, the `head` of an earlier moment, is the hash of a line of this ledger."""
        return line in self._lines

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The draws of cohorts, in order; none at level "example"."""
        return tuple(self._draws.values())

    @property
    def releases(self) -> tuple[Release, ...]:
        """The charged releases in the order of reservation: settled ones, and the worst case where none was settled."""
        return tuple(self._releases.values())

    @property
    def unsettled(self) -> tuple[Token, ...]:
        """Reservations that were neither settled nor refunded (after a crash: charged in full)."""
        return tuple(Token(digest) for digest in self._open)

    def draw_of(self, round: int) -> Draw | None:
        """The draw of `round`, or None before it was noted."""
        return self._draws.get(round)

    def draw(self, round: int, sampling: Sampling, turn: float | None, *, void: bool = False) -> None:
        """Record the draw of a round's cohort, durably, before the cohort is sampled.

        Args:
            round: The round; each has one draw, also if it fails.
            sampling: How its cohort is sampled.
            turn: The probability that one client decides whether the round is skipped, from `round_turn`. It is rounded
                up here to three digits. None means that nothing bounds it, so sampling does not count.
            void: True if earlier rounds went as the declared sampling or dropout makes implausible. From then on no
                `turn` of this ledger counts.

        Raises:
            ConfigError: `turn` is not a probability.
            StateError: The round has a draw, or the ledger is one of examples, whose batches are not sampled here.
        """
        draw = Draw(round, sampling, None if turn is None else rounded_up(turn), void)
        self._check_draw(draw)
        self._append(draw.record())
        self._draws[round] = draw

    def reserved(self, token: Token) -> Release:
        """The worst case behind an unsettled reservation; raises `PrivacyError` for any other token."""
        return self._pending(token)

    def pending(self, worst: Release) -> Token | None:
        """The unsettled reservation of exactly `worst`, if a crash left one.

        Only a replay that repeats the very same noise may use it; a new opening with fresh noise is charged again.
        """
        return next((Token(digest) for digest, release in self._open.items() if release == worst), None)

    def next_attempt(self, round: int) -> int:
        """The number of the next attempt of a round: above every attempt that was ever charged, refunded or not."""
        return self._attempts.get(round, -1) + 1

    def first_undrawn(self, round: int) -> int:
        """The first round from `round` on that has no draw yet."""
        return next(number for number in itertools.count(round) if number not in self._draws)

    def participants(self, round: int) -> frozenset[ClientId]:
        """The clients that the charges of a round name; empty in the public version of a ledger."""
        return frozenset().union(*(release.participants or () for release in self._in_round(round)))

    def charged(self, release: Release) -> bool:
        """True when this opening of this round and attempt is charged already."""
        key = (release.attempt, release.opening)
        return any((other.attempt, other.opening) == key for other in self._in_round(release.round))

    def reserve(self, worst: Release) -> Token:
        """Charge the worst case of an opening, durably, before any client is asked.

        Args:
            worst: The release with its declared noise and the whole cohort.

        Raises:
            PrivacyError: This opening of this round and attempt was charged before. A second opening of one sum with
                other noise is a further release, and must be reserved as one (`opening` + 1).
            StateError: The round has no draw, or one with another sampling.
        """
        self._check_new(worst)
        digest = self._append({"type": "reserve", "release": worst.record()})
        self._open[digest] = worst
        self._charge(digest, worst)
        return Token(digest)

    def settle(self, token: Token, release: Release) -> None:
        """Replace a reservation by the release that happened.

        Args:
            token: The reservation.
            release: The release.

        Raises:
            PrivacyError: The reservation does not cover it.
        """
        worst = self._pending(token)
        if not worst.covers(release):
            raise PrivacyError(f"round {release.round}: what happened is not covered by what was reserved for it")
        self._append({"type": "settle", "token": token.digest, "release": release.record()})
        self._releases[token.digest] = release
        del self._open[token.digest]

    def refund(self, token: Token, reason: RefundReason) -> None:
        """Give a reservation back because its sum was provably not opened to anybody.

        Args:
            token: The reservation.
            reason: "never_asked": no message of the round left; "too_few_survivors": the sum raised
                `TooFewSurvivors` with `opened` False; "aborted_before_opening": the scheme's state shows that no
                opening step began.
        """
        check_choice("reason", reason, REASONS)
        self._pending(token)
        self._append({"type": "refund", "token": token.digest, "reason": reason})
        del self._open[token.digest], self._releases[token.digest]

    def publish(self, path: Path | str) -> None:
        """Write a ledger that an outsider may read: it gives the outsider's figure, and no other observer's.

        All draws stay. Participants and surviving noise are left out of every line, and refunded releases are left out.
        A reservation that was never settled stands at its worst case. Attempts are numbered again from 0, so they do
        not count retries.
        """
        draws = [draw.record() for draw in self._draws.values()]
        charges = [{"type": "charge", "release": release.record()} for release in self._public_releases()]
        lines, prev = b"", GENESIS
        for record in [_header(self.unit), *draws, *charges]:
            digest = chain_hash(prev, record)
            lines += canonical_json({"hash": digest, "prev": prev, "record": record}) + b"\n"
            prev = digest
        atomic_write(existing_folder(path), lines)

    def _public_releases(self) -> Iterable[Release]:
        """The charged releases as they are published, with attempts counted from 0 and openings likewise."""
        attempts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        openings: defaultdict[tuple[int, int], int] = defaultdict(int)
        for release in self._releases.values():
            of_round = attempts[release.round]
            attempt = of_round.setdefault(release.attempt, len(of_round))
            opening = openings[release.round, attempt]
            openings[release.round, attempt] += 1
            yield replace(release.public_version(), attempt=attempt, opening=opening)

    def _charge(self, digest: str, release: Release) -> None:
        self._releases[digest] = release
        self._rounds[release.round].append(digest)
        if isinstance(release.sampling, OnePass):
            self._only |= dict.fromkeys(release.participants or (), release.round)
        self._attempts[release.round] = max(release.attempt, self._attempts.get(release.round, 0))

    def _in_round(self, round: int) -> list[Release]:
        """The charged releases of one round."""
        return [self._releases[digest] for digest in self._rounds.get(round, ()) if digest in self._releases]

    def _append(self, record: Mapping[str, Any]) -> str:
        digest = self._chain.append(record)
        self._lines.add(digest)
        return digest

    def _pending(self, token: Token) -> Release:
        if token.digest not in self._open:
            raise PrivacyError("this reservation is unknown, or was settled or refunded before")
        return self._open[token.digest]

    def _check_draw(self, draw: Draw) -> None:
        if self.unit.level == "example":
            raise StateError("a ledger of examples notes no draws: each of its releases states how it was sampled")
        if draw.round in self._draws:
            raise StateError(f"round {draw.round} was sampled before: a cohort is never sampled again")

    def _check_new(self, release: Release) -> None:
        if self.unit.level == "client":
            if release.draw_known_to is not None:
                raise StateError("a release of sampled examples is of level 'example', and this ledger is of clients")
            draw = self._draws.get(release.round)
            if draw is None or draw.sampling != release.sampling:
                found = "was not sampled" if draw is None else f"was sampled otherwise ({draw.sampling.describe()})"
                raise StateError(
                    f"round {release.round} {found}: note its draw, with the sampling of its releases, before its "
                    "cohort is sampled"
                )
        if isinstance(release.sampling, OnePass):
            self._check_once(release)
        for other in self._in_round(release.round):
            if not _same_draw(other, release):
                raise PrivacyError(f"round {release.round}: a cohort that was sampled is never replaced for a retry")
        if self.charged(release):
            raise PrivacyError(
                f"opening {release.opening} of round {release.round}, attempt {release.attempt}, is charged already: "
                "a second opening with other noise is charged as a further one"
            )

    def _check_once(self, release: Release) -> None:
        """Raise `PrivacyError` where a client that takes part once was charged in another round."""
        if self.unit.level != "client":
            raise StateError("one pass is over clients: a ledger of examples has no such sampling")
        before = self._only.keys() & set(release.participants or ())
        again = [c for c in before if any(c in (r.participants or ()) for r in self._in_round(self._only[c]))]
        others = {self._only[c] for c in again} - {release.round}
        if others:
            raise PrivacyError(
                f"round {release.round} asks a client of round {min(others)} again, and each takes part in one round "
                "at most: ask other clients, or declare Everyone()"
            )

    def _replay(self, records: Iterable[Mapping[str, Any]]) -> None:
        digest = GENESIS
        for number, record in enumerate(records, start=1):
            digest = chain_hash(digest, record)
            self._lines.add(digest)
            try:
                self._apply(number, record, digest)
            except (KeyError, TypeError, PrivacyError, ConfigError, StateError) as error:
                raise StateError(f"ledger line {number}: {error}") from error

    def _apply(self, number: int, record: Mapping[str, Any], digest: str) -> None:
        kind = record["type"]
        if (number == 1) != (kind == "ledger"):
            raise StateError("the header stands in line 1 and nowhere else")
        if kind == "ledger":
            found = _unit_of(record)
            if found != self.unit:
                raise StateError(
                    f"the ledger was kept for {found.level}s under {found.adjacency}, and cannot be continued for "
                    f"{self.unit.level}s under {self.unit.adjacency}"
                )
        elif kind == "draw":
            draw = Draw.read(record)
            self._check_draw(draw)
            self._draws[draw.round] = draw
        elif kind in ("reserve", "charge"):
            release = Release.read(record["release"])
            self._check_new(release)
            self._charge(digest, release)
            if kind == "reserve":
                self._open[digest] = release
        elif kind == "settle":
            release = Release.read(record["release"])
            if not self._pending(Token(record["token"])).covers(release):
                raise StateError("the release is not covered by its reservation")
            self._releases[record["token"]] = release
            del self._open[record["token"]]
        elif kind == "refund":
            check_choice("reason", record["reason"], REASONS)
            self._pending(Token(record["token"]))
            del self._open[record["token"]], self._releases[record["token"]]
        else:
            raise StateError(f"unknown type {kind!r}")


def _same_draw(one: Release, other: Release) -> bool:
    """True when two releases of a round can come from one draw: one cohort within the other's, where both are known."""
    if one.participants is None or other.participants is None:
        return True
    mine, theirs = set(one.participants), set(other.participants)
    return mine <= theirs or theirs <= mine


class _Memory:
    """A chain without a file, for what-if questions and tests."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self.head = GENESIS

    @property
    def records(self) -> tuple[dict[str, Any], ...]:
        return tuple(self._records)

    def append(self, record: Mapping[str, Any]) -> str:
        self._records.append(dict(record))
        self.head = chain_hash(self.head, record)
        return self.head


def _header(unit: PrivacyUnit) -> dict[str, Any]:
    return {"type": "ledger", "version": VERSION, "level": unit.level, "adjacency": unit.adjacency}


def _unit_of(record: Mapping[str, Any]) -> PrivacyUnit:
    try:
        if record["type"] != "ledger":
            raise StateError("the first line is not the header of a ledger")
        if record["version"] != VERSION:
            raise StateError(
                f"this ledger is of version {record['version']!r}, and version {VERSION} is read: start the run again "
                "under another name"
            )
        return PrivacyUnit(record["level"], record["adjacency"])
    except (KeyError, TypeError, ConfigError) as error:
        raise StateError("the first line is not the header of a ledger") from error
