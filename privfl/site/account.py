"""A site's own account: every round is charged at its worst case against the server, before anything of it leaves."""

from __future__ import annotations

from pathlib import Path

from privfl.dp import Ledger, Release
from privfl.dp.unit import Everyone
from privfl.errors import PlanRejected, StateError
from privfl.fl.plan import RoundPlan
from privfl.site.policy import Policy
from privfl.sums import SecureSum


class Account:
    """The ledgers of a site, one for each charter, under one budget.

    Args:
        folder: Where the ledgers are.
        policy: The policy; its budget is judged over all ledgers together.

    Raises:
        StateError: A ledger is of another unit than the policy.
    """

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._folder, self._policy = folder, policy
        try:
            self._ledgers = {path.stem: Ledger(policy.unit, path) for path in sorted(folder.glob("*.jsonl"))}
        except StateError:
            check_units(folder, policy)
            raise
        self._spent: float | None = None

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """All ledgers."""
        return tuple(self._ledgers.values())

    def spent(self) -> float:
        """Epsilon against the server over all charters, at the delta of the policy; 0 before the first round."""
        if self._spent is None:
            charged = [ledger for ledger in self.ledgers if ledger.releases]
            self._spent = self._policy.accountant.spent(charged, quick=True) if charged else 0.0
        return self._spent

    def charge(self, charter: str, plan: RoundPlan, scheme: SecureSum) -> Release | None:
        """Charge a round durably; a charge that a crash left behind for the very same round is used again.

        Nothing of a round has left the site while its record is missing, so one charge covers the repetition.

        Args:
            charter: The digest of the charter.
            plan: The plan of the round.
            scheme: The sum.

        Returns:
            The worst case that was charged; None for a round without noise, which no ledger holds.

        Raises:
            PlanRejected: The round has no noise, and there is a budget.
            BudgetExceeded: The round could cost more than is left.
        """
        limit = self._policy.limit
        if not plan.mechanism.claims:
            if limit is not None:
                raise PlanRejected("a round without noise has no epsilon, and this site keeps a budget")
            return None
        worst, ledger = plan.worst_case(scheme), self._ledger(charter)
        if ledger.pending(worst) is None:
            self._note_draw(ledger, worst)
            spent = None
            if limit is not None:
                others = [other for other in self.ledgers if other is not ledger]
                spent = limit.check(ledger, ledger.draw_of(worst.round), worst, others=others)
            ledger.reserve(worst)
            self._spent = spent
        return worst

    def take_up(self, charter: str, release: Release) -> None:
        """Charge a round that was charged before a rollback, even above the budget.

        Args:
            charter: The digest of the charter.
            release: The worst case in the receipt.
        """
        ledger = self._ledger(charter)
        if not ledger.charged(release):
            self._note_draw(ledger, release)
            ledger.reserve(release)
            self._spent = None

    def _ledger(self, charter: str) -> Ledger:
        if charter not in self._ledgers:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._ledgers[charter] = Ledger(self._policy.unit, self._folder / f"{charter}.jsonl")
        return self._ledgers[charter]

    def _note_draw(self, ledger: Ledger, release: Release) -> None:
        """The server knows the cohort, so nothing is claimed from how it was sampled. Examples are sampled here."""
        if ledger.unit.level == "client" and ledger.draw_of(release.round) is None:
            certain = isinstance(release.sampling, Everyone) and ledger.unit.adjacency != "add_remove"
            ledger.draw(release.round, release.sampling, 0.0 if certain else None)


def check_units(folder: Path, policy: Policy) -> None:
    """Raise `StateError` where a ledger is of another unit than the policy; other faults of a file are passed over.

    Args:
        folder: Where the ledgers are.
        policy: The policy.
    """
    for path in sorted(folder.glob("*.jsonl")):
        try:
            kept = Ledger.read(path).unit
        except StateError:
            continue
        if kept != policy.unit:
            asked = policy.unit
            raise StateError(
                f"{path} counts {kept.level}s under {kept.adjacency}, and policy.toml asks for {asked.level}s under "
                f"{asked.adjacency}, whose figures are never added: set demands.unit and budget.adjacency back, or "
                "make another site's folder"
            )
