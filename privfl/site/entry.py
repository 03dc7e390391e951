"""The judgment of an invitation: every check that a round must pass before it costs the site anything."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from privfl.codec import Vector
from privfl.crypto import KeyDirectory
from privfl.crypto.members import Members
from privfl.errors import PlanRejected, StateError
from privfl.experiment.config import Config
from privfl.experiment.schemes import describe
from privfl.files import atomic_write
from privfl.fl.charter import Charter
from privfl.fl.frames import Down, Invitation, model_from_bytes
from privfl.fl.plan import RoundPlan
from privfl.fl.receipts import Receipt
from privfl.site.chain import Place, ReceiptChain, newest_of
from privfl.site.home import BEHIND, SiteHome
from privfl.site.policy import Policy, scheme_name
from privfl.sums import SecureSum, SumTask

_MILLI: Final = 1000

MAX_CLOCK_STEP: Final = 60.0
"""How far, in seconds, the clock may lie before the time of the last round before it counts as wrong."""


@dataclass(frozen=True, slots=True)
class AcceptedRound:
    """A round that passed every check.

    Attributes:
        charter: The charter of the run.
        plan: The plan.
        scheme: The sum, over the keys that have not expired.
        task: The task of the sum.
        model: The global model, read-only.
        resumed: True where a crash interrupted the very same round before anything of it left.
    """

    charter: Charter
    plan: RoundPlan
    scheme: SecureSum
    task: SumTask
    model: Vector
    resumed: bool


class Judge:
    """The checks of a site.

    Args:
        home: The site's folder.
        policy: Its policy.
        chain: Its receipts.
        since: The time from which invitations count, in seconds since 1970.
    """

    def __init__(self, home: SiteHome, policy: Policy, chain: ReceiptChain, since: float) -> None:
        self._home, self._policy, self._chain, self._since = home, policy, chain, since
        self._client_policy = policy.client

    def scheme(self, plan: RoundPlan, keys: KeyDirectory) -> SecureSum:
        """Return the site's own sum for a plan.

        Args:
            plan: The plan.
            keys: The keys of the sites.
        """
        name = scheme_name(plan.scheme, self._policy.demands.schemes)
        return describe(name).build(Config(), keys)

    def entry(self, down: Down, charter: Charter, members: Members, model: bytes, now: float) -> AcceptedRound:
        """Judge a frame of step 0.

        Args:
            down: The verified frame.
            charter: The approved charter that it names.
            members: The site's directory.
            model: The model's bytes that came with it.
            now: The present time, in seconds since 1970.

        Raises:
            PlanRejected: The round does not meet a demand.
            StateError: This site was rolled back, or its directory does not count.
            WireError: The bytes are no invitation, no plan, or not the plan's model.
        """
        invitation = Invitation.from_bytes(down.body)
        plan = RoundPlan.from_bytes(bytes(invitation.plan))
        if (plan.round, plan.attempt) != (down.round, down.attempt):
            raise PlanRejected("the plan is of another round or attempt than its frame")
        if invitation.issued <= self._since * _MILLI:
            raise PlanRejected("the invitation is older than the last start of this site in a new place")
        charter.check(plan)
        if self._home.card.client not in plan.cohort:
            raise PlanRejected("the plan does not ask this site")
        resumed = self._check_place((plan.round, plan.attempt), charter, plan)
        self._check_time(charter, resumed or plan.evaluates, now)
        if members.digest != charter.directory:
            raise PlanRejected("the charter names another directory than this site holds")
        members.check(now)
        keys = members.current(now)
        if expired := sorted(set(plan.cohort) - set(keys.clients)):
            names = ", ".join(members.cards[client].name for client in expired if client in members.cards)
            raise PlanRejected(f"the keys of {names or expired} have expired: their sites make new ones")
        self._check_receipts([Receipt.from_bytes(r) for r in invitation.receipts], members, charter)
        free = shutil.disk_usage(self._home.folder).free >> 20
        if free < self._policy.agent.min_free_mib:
            raise PlanRejected(f"{free} MiB are free, and agent.min_free_mib is {self._policy.agent.min_free_mib}")
        scheme = self.scheme(plan, keys)
        task = self._client_policy.check(plan, scheme)
        own_model = model_from_bytes(model, plan, self._home.card.client)
        return AcceptedRound(charter, plan, scheme, task, own_model, resumed)

    def _check_place(self, place: Place, charter: Charter, plan: RoundPlan) -> bool:
        """True for the very round that was entered last, before anything of it left; raise for an older one."""
        digest = charter.digest().hex()
        last = self._chain.entered(digest)
        if last is None or place > self._chain.last_place(digest):
            return False
        entered = self._chain.entered_at(digest) or 0.0
        here = not self._chain.adopted(digest) and entered >= self._since  # and not before a rollback
        if here and place == self._chain.last_place(digest) and last.plan == plan.digest().hex():
            return True
        raise PlanRejected(f"round {place[0]}, attempt {place[1]}, does not follow the last one that was entered")

    def _check_time(self, charter: Charter, exempt: bool, now: float) -> None:
        """A round that is resumed, or that evaluates what the last one trained, need not wait."""
        entered = self._chain.trained_at(charter.digest().hex())
        if entered is None or exempt:
            return
        if now < entered - MAX_CLOCK_STEP:
            raise PlanRejected("the clock of this site lies before its last round: set the clock")
        if now - entered < charter.min_interval:
            raise PlanRejected(f"{now - entered:.0f} s after the last round, the charter asks {charter.min_interval:g}")

    def _check_receipts(self, shown: Sequence[Receipt], members: Members, charter: Charter) -> None:
        """Raise `StateError` if this site was rolled back, `PlanRejected` if another site's receipt is hidden."""
        for receipt in shown:
            if receipt.client not in members.cards:
                raise PlanRejected(f"the server shows a receipt of client {receipt.client}, which is no member")
            receipt.verify(members.verify_key(receipt.client))
        mine = newest_of(shown, self._home.card.client)
        if mine is not None and not self._chain.holds(mine):
            atomic_write(self._home / BEHIND, mine.to_bytes())
        if (self._home / BEHIND).exists():
            raise StateError(
                "this site was rolled back: it is shown a receipt of its own that it does not hold; run "
                "`privfl site reconcile` with the receipts that the server and the other sites keep"
            )
        digest, known = charter.digest().hex(), self._home.peers()
        held = known.setdefault(digest, {})
        newest = {r.client: r for r in sorted(shown, key=lambda r: r.number) if r.client != self._home.card.client}
        if hidden := [c for c, receipt in held.items() if c not in newest or newest[c].number < receipt.number]:
            names = ", ".join(map(str, hidden))
            raise PlanRejected(f"the server shows older receipts of clients {names} than it showed before")
        if newest != held:
            held.update(newest)
            self._home.keep_peers(known)
