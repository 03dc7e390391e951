"""Histories: what epsilon is computed from, of one ledger, of several, or of a run that is only planned."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from privfl.dp.draws import Draw, rounded_up, sampled_share
from privfl.dp.ledger import Ledger
from privfl.dp.release import Release
from privfl.dp.unit import Everyone, OnePass, Poisson, PoissonBySite, PrivacyUnit, RandomAllocation
from privfl.errors import ConfigError, UnsupportedRelease
from privfl.wire import ClientId

EVERYONE: Final = Everyone()
_UP: Final = 1 + 2.0**-50


@dataclass(frozen=True, slots=True)
class DrawnRound:
    """One draw of a cohort (at level "example": of batches) and what was released about it.

    Attributes:
        draw: The draw as the ledger notes it; None at level "example", where each release states its sampling.
        releases: Attempts and openings that share the draw; empty for a round that was skipped.
        ledger: Which of the ledgers that are judged together the round stands in, from 0. Each numbers its clients by
            itself.
    """

    draw: Draw | None
    releases: tuple[Release, ...]
    ledger: int = 0

    @property
    def unbounded(self) -> bool:
        """True when the turn of the draw is not bounded, so its sampling protects nobody."""
        return self.draw is not None and self.draw.turn is None

    @property
    def once(self) -> bool:
        """True when each unit takes part in no other round of its ledger."""
        return any(isinstance(release.sampling, OnePass) for release in self.releases)


@dataclass(frozen=True, slots=True)
class History:
    """Rounds of one privacy unit, each with the number of times that it counts.

    Attributes:
        unit: Whose presence is hidden.
        rounds: Pairs of a round and how often it counts: once in a ledger, many times in a planned run.
    """

    unit: PrivacyUnit
    rounds: tuple[tuple[DrawnRound, int], ...] = ()

    @classmethod
    def of(cls, ledgers: Ledger | History | Sequence[Ledger | History], *, site: ClientId | None = None) -> History:
        """The history of one ledger, or of all ledgers of one unit together.

        A ledger with a void draw has no `turn` left.

        Args:
            ledgers: One ledger, or several.
            site: The site whose examples are asked about, where each site samples with a probability of its own; None
                asks about the largest probability, whose figure is the largest.

        Raises:
            UnsupportedRelease: The ledgers are of different units: their figures do not add up to one number.
            ConfigError: There is no ledger at all, or `site` is not named in a release.
        """
        parts = [ledgers] if isinstance(ledgers, Ledger | History) else list(ledgers)
        if not parts:
            raise ConfigError("give at least one ledger to compute an epsilon from")
        histories = [part if isinstance(part, History) else _of_ledger(part) for part in parts]
        if len({history.unit for history in histories}) != 1:
            units = " and ".join(dict.fromkeys(f"{h.unit.level}s under {h.unit.adjacency}" for h in histories))
            raise UnsupportedRelease(
                f"ledgers of {units} do not add up to one number: ask for the epsilon of each ledger by itself"
            )
        draws = [drawn.draw for history in histories for drawn, _ in history.rounds if drawn.draw is not None]
        if len(histories) > 1 and any(isinstance(draw.sampling, RandomAllocation) for draw in draws):
            raise UnsupportedRelease(
                "ledgers of random allocation are not priced together: ask for the epsilon of each ledger by itself"
            )
        pairs = (pair for pairs in _apart(histories) for pair in pairs)
        return cls(histories[0].unit, tuple((_of_site(drawn, site), times) for drawn, times in pairs))

    @classmethod
    def hypothetical(cls, unit: PrivacyUnit, releases: Iterable[Release], *, turn: float | None = 0.0) -> History:
        """The history of a ledger with these releases, each round sampled as its releases state.

        Args:
            unit: Whose presence is hidden.
            releases: What is released, in order.
            turn: The probability of `round_turn` for every round.

        Raises:
            StateError: The releases of one round differ in their sampling.
        """
        ledger = Ledger(unit)
        for release in releases:
            if unit.level == "client" and ledger.draw_of(release.round) is None:
                ledger.draw(release.round, release.sampling, turn)
            ledger.reserve(release)
        return cls.of(ledger)

    @classmethod
    def planned(cls, unit: PrivacyUnit, worst: Release, *, rounds: int, turn: float | None) -> History:
        """The history of a run that makes one release `rounds` times, each time with a draw of its own.

        Args:
            unit: Whose presence is hidden.
            worst: What a round releases.
            rounds: How often; at level "example" these are steps.
            turn: The probability of `round_turn`; not used at level "example".
        """
        draw = None
        if unit.level == "client":
            draw = Draw(worst.round, worst.sampling, None if turn is None else rounded_up(turn))
        return cls(unit, ((_of_site(DrawnRound(draw, (worst,)), None), rounds),))

    @property
    def releases(self) -> list[Release]:
        """All releases, each once."""
        return [release for drawn, _ in self.rounds for release in drawn.releases]

    @property
    def count(self) -> int:
        """Rounds of clients with a release, or steps over examples."""
        if self.unit.level == "example":
            return sum(release.count * times for drawn, times in self.rounds for release in drawn.releases)
        return sum(times for drawn, times in self.rounds if drawn.releases)

    @property
    def ledgers(self) -> int:
        """The number of ledgers whose releases are composed here."""
        return 1 + max((drawn.ledger for drawn, _ in self.rounds), default=0)

    @property
    def turn(self) -> float:
        """The sum of q(S) t over all draws with a bounded t, rounded up: skipped rounds consume it of delta."""
        terms = [
            times * (sampled_share(drawn.draw.sampling) * drawn.draw.turn)
            for drawn, times in self.rounds
            if drawn.draw is not None and drawn.draw.turn is not None
        ]
        return math.fsum(terms) * _UP

    @property
    def unbounded(self) -> bool:
        """True when some draw has no bounded turn."""
        return any(drawn.unbounded for drawn, _ in self.rounds)

    def after(self, draw: Draw | None, release: Release) -> History:
        """Return this history with one more release, in the round of `draw`. The round is added if it is new.

        If `draw` is void, the returned history claims no amplification by sampling for any round.

        Args:
            draw: The draw of the release's round; None at level "example".
            release: The release to add.
        """
        rounds, added = [], False
        for drawn, times in self.rounds:
            same = draw is not None and drawn.draw is not None and drawn.draw.round == draw.round
            rounds.append((replace(drawn, releases=(*drawn.releases, release)) if same else drawn, times))
            added = added or same
        if not added:
            rounds.append((DrawnRound(draw, (release,)), 1))
        history = History(self.unit, tuple(rounds))
        return history.without_turns() if draw is not None and draw.void else history

    def without_turns(self) -> History:
        """This history as if no turn were bounded: no amplification by sampling is claimed for any round."""

        def known(entry: DrawnRound) -> DrawnRound:
            return entry if entry.draw is None else replace(entry, draw=replace(entry.draw, turn=None))

        return History(self.unit, tuple((known(drawn), times) for drawn, times in self.rounds))


def _of_site(entry: DrawnRound, site: ClientId | None) -> DrawnRound:
    """The draw with the probability of one site, or the largest of all sites."""
    releases = tuple(
        replace(release, sampling=sampling.of(site) if site is not None else Poisson(sampling.probability))
        if isinstance(sampling := release.sampling, PoissonBySite)
        else release
        for release in entry.releases
    )
    return replace(entry, releases=releases) if releases != entry.releases else entry


def _apart(histories: Iterable[History]) -> Iterator[list[tuple[DrawnRound, int]]]:
    """The rounds of each history, with the ledgers counted on from one history to the next."""
    first = 0
    for history in histories:
        yield [(replace(drawn, ledger=first + drawn.ledger), times) for drawn, times in history.rounds]
        first += history.ledgers


def _of_ledger(ledger: Ledger) -> History:
    """One ledger's rounds; at level "example" each attempt draws batches of its own."""
    if ledger.unit.level == "example":
        batches: defaultdict[tuple[int, int], list[Release]] = defaultdict(list)
        for release in ledger.releases:
            batches[release.round, release.attempt].append(release)
        return History(ledger.unit, tuple((DrawnRound(None, tuple(each)), 1) for each in batches.values()))
    releases: defaultdict[int, list[Release]] = defaultdict(list)
    for release in ledger.releases:
        releases[release.round].append(release)
    void = any(draw.void for draw in ledger.draws)
    rounds = (
        DrawnRound(replace(draw, turn=None) if void else draw, tuple(releases.get(draw.round, ())))
        for draw in ledger.draws
    )
    return History(ledger.unit, tuple((drawn, 1) for drawn in rounds))
