"""Epsilon as a pure function of ledgers: `epsilon`, with `Accountant` and `Budget` around it.

A finished run and a planned one take the same path: both are a `History`, and `Accountant` judges nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from privfl.checks import check_choice, check_count, check_delta, check_positive
from privfl.dp.accounting.compose import CLOSED_FORM, compose, cross_figures
from privfl.dp.accounting.events import (
    Exposure,
    Profile,
    as_seen,
    drawn_at_sites,
    exposure,
    in_every_release,
    known_sampling,
    unsampled,
)
from privfl.dp.accounting.history import History
from privfl.dp.accounting.report import EpsilonReport
from privfl.dp.draws import Draw
from privfl.dp.ledger import Ledger
from privfl.dp.release import Release
from privfl.dp.unit import FixedSize, PrivacyUnit
from privfl.errors import BudgetExceeded, UnsupportedRelease
from privfl.observers import OBSERVERS, Observer

if TYPE_CHECKING:
    from privfl.dp.accounting.curves import PrivacyCurve

Ledgers = Ledger | History | Sequence[Ledger | History]
"""One ledger, or several of one unit that are judged together."""

DROPOUTS: Final = "assumes that who drops out depends neither on the data nor on who else was sampled"
PUBLIC_COUNTS: Final = "assumes that the number of clients is public"
UNBOUNDED: Final = (
    "sampling is not counted where nothing bounds the probability that one client decides whether a round is skipped"
)
ZERO_IS_REPLACE: Final = "zero_out under fixed-size sampling is bounded by replace_one: zeros are other data too"
SEVERAL: Final = "each ledger numbers its clients by itself: the client that took part most in each is taken to be one"
AT_SITES: Final = "assumes that which examples a step samples, and how long it takes, is known to their own site only"
ALWAYS: Final = "the figure of a client in every round, which is smaller here than what sampling gives"


def epsilon(
    ledgers: Ledgers,
    delta: float,
    *,
    observer: Observer = "outsider",
    assume_secure_noise: bool = False,
    group: int = 1,
    cross_checks: bool = True,
) -> EpsilonReport:
    """The epsilon of one ledger, or of several together. It depends on nothing else.

    Args:
        ledgers: One ledger, or several that were kept under one unit: their composition is judged.
        delta: Probability in (0, 1) with which the promise may fail.
        observer: The observer against which the promise holds.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure. The report is then labeled
            "epsilon if the noise were secure".
        group: How many units change together, such as the clients of one person.
        cross_checks: Ask other accountants too, where they apply.

    Raises:
        ConfigError: `delta` is outside (0, 1), or `observer` is not in `OBSERVERS`.
        UnsupportedRelease: The ledgers are of different units, withhold what the observer knows, or hold a release that
            no accountant here can judge.
    """
    accountant = Accountant(delta, observer=observer, assume_secure_noise=assume_secure_noise, group=group)
    return accountant.report(ledgers, cross_checks=cross_checks)


class Accountant:
    """A question that is asked again and again: epsilon at one `delta` against one `observer`.

    Args:
        delta: Probability in (0, 1) with which the promise may fail.
        observer: The observer against which the promise holds.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure, and label the figure so.
        group: How many units change together, at least 1.

    Raises:
        ConfigError: `delta` is outside (0, 1), `observer` is not in `OBSERVERS`, or `group` is below 1.
    """

    def __init__(
        self,
        delta: float,
        *,
        observer: Observer = "outsider",
        assume_secure_noise: bool = False,
        group: int = 1,
    ) -> None:
        check_delta(delta)
        check_count("group", group)
        self.group = group
        check_choice("observer", observer, OBSERVERS)
        self.delta, self.observer = delta, observer
        self.assume_secure_noise = assume_secure_noise

    def spent(self, ledgers: Ledgers, *, quick: bool = False) -> float:
        """The figure of `report` without its words.

        Args:
            ledgers: What was released.
            quick: Compute on one coarse grid: up to about 0.001 above the figure, never below it.
        """
        return self.judge(History.of(ledgers), quick=quick).epsilon

    def report(self, ledgers: Ledgers, *, cross_checks: bool = True) -> EpsilonReport:
        """Return the full statement about these ledgers.

        Args:
            ledgers: One ledger, or several of one unit that are judged together.
            cross_checks: Add the figures of other accountants.
        """
        history = History.of(ledgers)
        judgment = self.judge(history)
        checks = {}
        if cross_checks and judgment.profile is not None and self.group == 1:
            checks = dict(cross_figures(judgment.profile, judgment.unit, judgment.delta))
        return EpsilonReport(
            judgment.epsilon,
            self.delta,
            judgment.accountant,
            judgment.unit,
            _sampling_in_words(judgment.history, self.observer, judgment),
            self.observer,
            history.count,
            secure=all(r.secure or r.placement == "none" for r in history.releases),
            cross_checks=checks,
            caveats=_caveats(judgment, self.observer),
            group=self.group,
            curve=cache(lambda: self._curve(history)),
        )

    def _curve(self, history: History) -> PrivacyCurve:
        from privfl.dp.accounting.curves import PrivacyCurve

        return PrivacyCurve(
            history, observer=self.observer, assume_secure_noise=self.assume_secure_noise, group=self.group
        )

    def judge(self, history: History, *, quick: bool = False) -> Judgment:
        """Return the figure with its basis.

        Args:
            history: What was released.
            quick: Compute on one coarse grid.
        """
        insecure = [r.round for r in history.releases if not r.secure and r.placement != "none"]
        if insecure and not self.assume_secure_noise:
            raise UnsupportedRelease(
                f"round {insecure[0]}: the noise was seeded or floating-point, and no epsilon can be claimed for it; "
                "ask for the figure it would have if the noise were secure"
            )
        turn = history.turn if self.observer == "outsider" else 0.0
        excess = turn if turn > self.delta / 2 else 0.0
        if excess or (turn and self.group > 1):  # the turn is bounded for one client
            history, turn = history.without_turns(), 0.0
        seen = exposure(history, self.observer)
        if self.group > 1 and self.observer != "outsider" and not seen.unbounded and history.unit.level == "client":
            seen = Exposure(in_every_release(history))
        releases = history.releases
        placements = (release.placement for release in releases)
        unit = as_seen(history.unit, self.observer, placements, at_sites=drawn_at_sites(releases))
        if self.observer == "outsider" and history.unbounded and unit.adjacency == "add_remove":
            unit = PrivacyUnit(unit.level, "zero_out")
        delta = self.delta - turn
        if seen.unbounded:
            return Judgment(math.inf, "none", history, unit, delta, reason=seen.unbounded)
        worst, accountant, profile = -1.0, CLOSED_FORM, seen.profiles[0]
        for candidate in seen.profiles:
            figure, name = compose(candidate, unit, delta, observer=self.observer, quick=quick, group=self.group)
            if figure > worst:
                worst, accountant, profile = figure, name, candidate
        judgment = Judgment(worst, accountant, history, unit, delta, profile, turn=turn, excess=excess)
        return self._at_most_known(judgment) if self.observer == "outsider" else judgment

    def _at_most_known(self, judgment: Judgment) -> Judgment:
        """The outsider's figure, or that of one who knows a client to be in every release, if it is smaller.

        An outsider knows no more than such an observer, for whom neither sampling nor skipped rounds matter.
        """
        unit = judgment.unit
        if unit.adjacency == "add_remove":
            unit = PrivacyUnit(unit.level, "zero_out")
        figure, name, profile = max(
            (
                (*compose(profile, unit, self.delta, observer="participant", group=self.group), profile)
                for profile in in_every_release(judgment.history)
            ),
            key=lambda judged: judged[0],
        )
        if figure >= judgment.epsilon:
            return judgment
        return Judgment(figure, name, judgment.history, unit, self.delta, profile, always=True)


@dataclass(frozen=True, slots=True)
class Judgment:
    """A figure and its basis.

    Attributes:
        epsilon: The figure.
        accountant: The name of the accountant.
        history: The history as it was counted.
        unit: The unit that can be promised.
        delta: The rest of delta, after `turn` was taken off.
        profile: The events that were composed; None where nothing bounds epsilon.
        reason: Why nothing bounds epsilon; empty otherwise.
        turn: The part of delta that was taken off for skipped rounds.
        excess: What skipped rounds would have taken, where that is too much.
        always: True where the figure is that of a client in every release.
    """

    epsilon: float
    accountant: str
    history: History
    unit: PrivacyUnit
    delta: float
    profile: Profile | None = None
    reason: str = ""
    turn: float = 0.0
    excess: float = 0.0
    always: bool = False


class Budget:
    """The most that a run may spend: `epsilon` at `delta` against `observer`.

    Args:
        epsilon: The most, positive and finite.
        delta: Probability in (0, 1) with which the promise may fail.
        observer: The observer against which the promise holds.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure.
        group: How many units change together.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        *,
        observer: Observer = "outsider",
        assume_secure_noise: bool = False,
        group: int = 1,
    ) -> None:
        check_positive("epsilon", epsilon)
        self.epsilon = epsilon
        self.accountant = Accountant(delta, observer=observer, assume_secure_noise=assume_secure_noise, group=group)

    def check(
        self,
        ledger: Ledger | History,
        draw: Draw | None,
        worst: Release,
        *,
        others: Sequence[Ledger | History] = (),
    ) -> float:
        """Epsilon, at most, after a round more. Call it before the round's cohort is sampled and a client is asked.

        A figure on the edge is computed on finer grids before it is refused.

        Args:
            ledger: The draws and releases before the round.
            draw: The draw of the round, in the ledger already or not; None at level "example".
            worst: The worst case of what the round releases.
            others: Ledgers of other runs that the same budget pays for.

        Raises:
            BudgetExceeded: The round could cost too much.
        """
        after = History.of([History.of(ledger).after(draw, worst), *others])
        spent = self.accountant.spent(after, quick=True)
        if spent > self.epsilon:
            spent = self.accountant.spent(after)
        if spent > self.epsilon:
            raise BudgetExceeded(spent, self.epsilon)
        return spent


def _caveats(judgment: Judgment, observer: Observer) -> tuple[str, ...]:
    if judgment.reason:
        return (judgment.reason,)
    releases, unit = judgment.history.releases, judgment.unit
    caveats = [DROPOUTS]
    if unit.level == "client" and unit.adjacency == "add_remove":
        caveats.append(PUBLIC_COUNTS)
    if observer == "participant" and any(r.placement == "distributed" for r in releases):
        caveats.append("the participant's own noise and that of the tolerated colluders is not counted")
    spare = min((r.spare for r in releases if r.spare is not None), default=0)
    if observer != "outsider" and spare:
        few = "1 member" if spare == 1 else f"{spare} members"
        caveats.append(f"the noise of up to {few}, the observer's own included, is not counted")
    if unit.level == "example" and drawn_at_sites(releases):
        caveats.append(AT_SITES)
    elif observer != "outsider":
        caveats.append(f"without amplification by sampling, for the {unit.level} that took part most")
        if unit.level == "client" and judgment.history.ledgers > 1:
            caveats.append(SEVERAL)
    else:
        caveats += _of_skipped_rounds(judgment)
    return tuple(caveats)


def _of_skipped_rounds(judgment: Judgment) -> list[str]:
    """The caveats of an outsider's figure, beyond those of every figure."""
    caveats: list[str] = []
    if judgment.always:
        caveats.append(ALWAYS)
    elif judgment.excess:
        caveats.append(
            f"{UNBOUNDED}: here it would take {judgment.excess:.1e}, which is more than half of delta; raise delta, or "
            "ask for fewer survivors"
        )
    elif judgment.history.unbounded:
        caveats.append(UNBOUNDED)
    elif judgment.turn:
        caveats.append(f"{judgment.turn:.1e} of delta is kept for rounds that are skipped because of one client")
    if judgment.unit.adjacency == "zero_out" and not judgment.always and _fixed_size(judgment.history):
        caveats.append(ZERO_IS_REPLACE)
    return caveats


def _fixed_size(history: History) -> bool:
    return any(
        not drawn.unbounded and isinstance(release.sampling, FixedSize)
        for drawn, _ in history.rounds
        for release in drawn.releases
    )


def _sampling_in_words(history: History, observer: Observer, judgment: Judgment) -> str:
    if observer != "outsider" and not (history.unit.level == "example" and drawn_at_sites(history.releases)):
        return "the observer knows who took part: no amplification"
    words = []
    for drawn, _ in history.rounds:
        for release in drawn.releases:
            bare = judgment.always or drawn.unbounded
            sampling = unsampled(release.sampling) if bare else release.sampling
            known = known_sampling(history.unit, release.placement, sampling)
            words.append(known.describe())
    return "; ".join(dict.fromkeys(words)) or "no round"
