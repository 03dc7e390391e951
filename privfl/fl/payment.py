"""The payment of a round: the ledger is charged before a client is asked, and settled by what happened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from privfl.dp import Accountant, Budget, Draw, Ledger, Release
from privfl.dp.ledger import Token
from privfl.errors import PrivacyError, StateError, TooFewSurvivors
from privfl.fl.plan import RoundPlan
from privfl.sums import SecureSum
from privfl.wire import ClientId


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
            PrivacyError: If the ledger is one of examples. A round bounds whole updates, and one example can turn an
                update into any other, which is twice the bound.
        """
        if not plan.mechanism.claims:
            return None
        if self.ledger.unit.level != "client":
            raise PrivacyError("a round hides whole clients: charge it to a ledger of level 'client', not of examples")
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

    def settle(self, token: Token | None, plan: RoundPlan, scheme: SecureSum, survivors: Iterable[ClientId]) -> None:
        """Replace a reservation by the release of the opened sum.

        Args:
            token: The reservation; None does nothing.
            plan: The plan of the round.
            scheme: The sum.
            survivors: The clients whose vectors are in the sum.
        """
        if token is not None:
            self.ledger.settle(token, plan.release(scheme, survivors, worst_case=False))

    def refund(self, token: Token | None, error: TooFewSurvivors) -> None:
        """Return a reservation if `error` proves that nothing can have been opened; otherwise the charge stands.

        Args:
            token: The reservation; None does nothing.
            error: The abort of the round.
        """
        if token is not None and not error.opened:
            self.ledger.refund(token, "too_few_survivors")
