"""The payment of a round: the ledger is charged before a client is asked, and settled by what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfl.dp import Accountant, Budget, CorrelatedNoise, Draw, Ledger, Mechanism, Release
from privfl.dp.ledger import Token
from privfl.errors import PrivacyError, StateError, TooFewSurvivors
from privfl.fl.bases import check_neighbors
from privfl.fl.plan import RoundPlan
from privfl.fl.report import RoundReport
from privfl.fl.store import ModelStore, Version
from privfl.sums import SecureSum
from privfl.wire import ClientId

MAX_EACH: Final = 64
"""Epsilon is computed after each round up to this one, and after some of the later ones."""


def is_asked(round: int) -> bool:
    """True for the rounds after which epsilon is computed, besides the last: each one up to round 64.

    Then it is every second one up to round 128, every fourth up to 256, and so on. A figure with sampling takes as long
    as a small round, and a curve over many rounds needs no more points.
    """
    return round % (1 << max(0, (round - 1).bit_length() - MAX_EACH.bit_length() + 1)) == 0


@dataclass(frozen=True, slots=True)
class Payment:
    """The charging of rounds: a ledger, its reader and a limit.

    Attributes:
        ledger: The run's ledger; the only truth about its privacy.
        accountant: Reads what was spent so far, for reports.
        budget: The epsilon that the run may spend; None for no limit.
    """

    ledger: Ledger
    accountant: Accountant
    budget: Budget | None = None

    def reserve(self, plan: RoundPlan, scheme: SecureSum) -> Token | None:
        """Charge the worst case of a round durably, before a client is asked.

        Args:
            plan: The plan of the round.
            scheme: The sum.

        Returns:
            The reservation; None for a plan without noise, which claims nothing. With simulation noise the
            reservation of an interrupted attempt is used again: seeded noise repeats to the last bit.

        Raises:
            BudgetExceeded: If the round could cost too much.
            PrivacyError: If the ledger is of another level than the plan: a round that bounds whole updates says
                nothing of one example, which can turn an update into any other. Or if the round is asynchronous, and
                the ledger is of add_remove.
        """
        if not plan.mechanism.claims:
            return None
        if self.ledger.unit.level != plan.level:
            raise PrivacyError(
                f"the round hides one {plan.level}, and the ledger is of {self.ledger.unit.level}s: the two are never "
                f"added. Charge it to a ledger of level {plan.level!r}"
            )
        if plan.bases:
            check_neighbors(self.ledger.unit.adjacency)
        worst = plan.worst_case(scheme)
        interrupted = self.ledger.pending(worst)
        if interrupted is not None and plan.mechanism.source == "simulation":
            return interrupted
        self.check(worst, self.ledger.draw_of(plan.round))
        return self.ledger.reserve(worst)

    def check(self, worst: Release, draw: Draw | None) -> None:
        """Raise `BudgetExceeded` if the next round could cost too much; without a budget do nothing.

        Args:
            worst: The worst-case release of the round.
            draw: The record of its cohort's sampling; None where nothing is sampled.
        """
        if self.budget is not None:
            self.budget.check(self.ledger, draw, worst)

    def reserved(self, digest: str) -> Token | None:
        """The reservation that a saved round holds, None for an empty digest; raises `StateError` if it is not open."""
        token = next((token for token in self.ledger.unsettled if token.digest == digest), None)
        if digest and token is None:
            raise StateError("the ledger holds no open reservation of this round: it is not the ledger of this run")
        return token

    def settle(
        self,
        token: Token | None,
        plan: RoundPlan,
        scheme: SecureSum,
        survivors: Iterable[ClientId],
        *,
        members: tuple[int, int] | None = None,
    ) -> None:
        """Replace a reservation by the release of the opened sum.

        Args:
            token: The reservation; None does nothing.
            plan: The plan of the round.
            scheme: The sum.
            survivors: The clients whose vectors are in the sum.
            members: For mesh noise, the members of the roster and of the sum.
        """
        if token is not None:
            self.ledger.settle(token, plan.release(scheme, survivors, worst_case=False, members=members))

    def refund(self, token: Token | None, error: TooFewSurvivors) -> None:
        """Return a reservation if `error` proves that nothing can have been opened; otherwise the charge stands.

        Args:
            token: The reservation; None does nothing.
            error: The abort of the round.
        """
        if token is not None and not error.opened:
            self.ledger.refund(token, "too_few_survivors")


def check_charged(store: ModelStore, ledger: Ledger) -> None:
    """Raise `StateError` unless the ledger holds the draw of each stored round, and the charge of each trained one.

    A ledger that was lost or cut short has a sound chain, and would give a figure that is too small. Secure noise is
    settled before its model is stored, so the newest charge of a trained round is a settled one.

    Args:
        store: The stored rounds with their reports.
        ledger: The privacy ledger of the run.
    """
    newest = {release.round: release for release in sorted(ledger.releases, key=lambda r: (r.round, r.attempt))}
    unsettled = {(r.round, r.attempt) for r in map(ledger.reserved, ledger.unsettled) if r.secure}
    for round in store.rounds():
        report = store.sealed(round).report
        if report and ledger.unit.level == "client" and ledger.draw_of(round) is None:
            raise StateError(f"round {round} was run and is not in the ledger, which was lost or cut short")
        if report.get("ledger") is not None and not ledger.holds(report["ledger"]):
            raise StateError(
                f"a line about round {round} is not in the ledger, which was cut short or is another run's"
            )
        if report.get("status") != "trained":
            continue
        if round not in newest or (round, newest[round].attempt) in unsettled:
            raise StateError(f"round {round} was trained and is not in the ledger, which was lost or cut short")


def check_noise(store: ModelStore, mechanism: Mechanism, noise: CorrelatedNoise | None) -> None:
    """Raise `StateError` where correlated noise was not added to a trained round: its file was lost or put back.

    Args:
        store: The stored rounds with their reports.
        mechanism: The noise of the run; independent noise has no file.
        noise: The state of correlated noise at its opener.
    """
    if mechanism.correlation == "none":
        return
    rounds = noise.rounds if noise is not None else frozenset()
    for round in store.rounds():
        if store.load(round).report.get("status") == "trained" and round not in rounds:
            raise StateError(
                f"round {round} was trained, and the opener's noise does not know of it: put its file back, or start a "
                "new run"
            )


def settle_stored(
    payment: Payment,
    scheme: SecureSum,
    latest: Version,
    source: Path,
    plan: Callable[[int, tuple[ClientId, ...]], RoundPlan],
) -> None:
    """Settle the round that was stored, but not yet settled, when the run was killed.

    Args:
        payment: The payment of the run.
        scheme: The sum.
        latest: The latest stored version.
        source: Its file.
        plan: The plan of that round, by attempt and cohort.
    """
    report, ledger = RoundReport.read(latest.report, source), payment.ledger
    # Of several charges of one round the newest is that of the attempt which was stored. Older ones are of attempts
    # that were killed, whose sums may have been opened over other survivors: they stay as they were reserved.
    newest = max((r.attempt for r in ledger.releases if r.round == latest.round), default=0)
    for token in ledger.unsettled:
        worst = ledger.reserved(token)
        if (worst.round, worst.attempt) != (latest.round, newest) or report.status != "trained":
            continue
        cohort = worst.participants or ()
        found = plan(worst.attempt, cohort)
        if found.worst_case(scheme) != worst:
            continue  # of other settings than these: it stays as it was reserved
        payment.settle(token, found, scheme, set(cohort) - set(report.dropouts))
