"""A site's half of each round: trained from an invitation, or restored from a record."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from privfl.codec import Vector
from privfl.crypto import Credentials
from privfl.errors import PlanRejected
from privfl.fl.client import ClientUpdate, Train
from privfl.fl.client_round import ClientRound, Contribution, saves_sessions
from privfl.fl.client_state import ClientState, SiteState, Stateful
from privfl.fl.examples import ExampleGradients, ExampleSums
from privfl.fl.plan import RoundPlan
from privfl.fl.policy import ClientPolicy
from privfl.fl.receipts import Mode
from privfl.site.entry import AcceptedRound
from privfl.site.examples import NO_GRADIENTS, NoExamples, OwnCoins, OwnExamples, SiteCoins, SiteSums
from privfl.site.log import SiteLog
from privfl.sums import SecureSum
from privfl.sums.base import Entropy
from privfl.wire import ClientId


class Halves:
    """Makes the client's half of each round.

    Args:
        train: The training function; plans about examples need an `ExampleGradients` or a `SiteSums`.
        evaluate: The evaluation of a model; None calls `train`.
        own: The keys of the site.
        policy: What the site insists on.
        states: The folder of the states of `Stateful` training, one file for each charter.
        coins: The coins of rounds about examples.
        mode: Where this code runs.
        log: The log of the site.
        entropy: A source of random bytes.
    """

    def __init__(
        self,
        train: Train | Stateful | ExampleGradients | SiteSums,
        evaluate: Train | None,
        *,
        own: Credentials,
        policy: ClientPolicy,
        states: Path,
        coins: SiteCoins,
        mode: Mode,
        log: SiteLog,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._train, self._evaluate = train, evaluate
        self._own, self._policy, self._states, self._coins = own, policy, states, coins
        self._mode, self._log, self._entropy = mode, log, entropy

    def check(self, entry: AcceptedRound) -> None:
        """Raise an error, before a round costs anything, if this site could not take part in it to its end.

        Raises:
            PlanRejected: Either the plan or the training keeps states, and the other does not. Or one is of examples,
                and the other of clients. Or the sum saves no sessions, and this site runs in an app that may end
                between two steps.
            StateError: The state that the plan names is not here.
        """
        plan = entry.plan
        if self._mode == "in-app" and not saves_sessions(entry.scheme):
            raise PlanRejected(
                f"a session of {plan.scheme} is never saved, and an app may end between two steps: answer through this "
                "site's agent, `privfl site serve`"
            )
        if plan.evaluates:
            return
        if plan.level == "example":
            self._sums()
        elif not callable(self._train):
            raise PlanRejected("the plan sums updates of clients, and the training function gives gradients alone")
        if isinstance(self._train, Stateful) != bool(plan.state_rounds):
            raise PlanRejected(
                "the charter keeps a state at each site, and this training function keeps none"
                if plan.state_rounds
                else "this training function keeps a state between rounds, and the charter keeps none"
            )
        if plan.state_rounds:
            self._keeper(entry).begin(plan)

    def trained(self, entry: AcceptedRound) -> ClientRound:
        """The half of a round that passed `check`. Where noise is added, a failed training gives zeros and noise.

        Raises:
            PlanRejected: The training failed, and the round has no noise.
        """
        plan = entry.plan
        keeper = self._keeper(entry) if plan.state_rounds else None
        try:
            return self._half(entry, self._work(entry), keeper)
        except Exception as error:
            self._log.note("training failed", error=type(error).__name__, traceback=traceback.format_exc()[-4000:])
            if not plan.mechanism.claims:
                raise PlanRejected("the training failed, and a round without noise has nothing to send") from error
        if plan.level == "example":
            return self._half(entry, NoExamples(), None)
        return self._half(entry, _nothing if keeper is None else Stateful(_nothing_new), keeper)

    def forget_coins(self, charter: str) -> None:
        """Remove the coins of a charter's round, whose contribution is saved."""
        self._coins.forget(charter)

    def _work(self, entry: AcceptedRound) -> Train | Stateful | ExampleSums:
        """The training that makes the contribution of a round."""
        if entry.plan.level == "example":
            return OwnCoins(self._sums(), self._coins.of(entry.charter.digest().hex(), entry.plan), self._log)
        evaluates = entry.plan.evaluates and self._evaluate is not None
        return cast("Train | Stateful", self._evaluate if evaluates else self._train)

    def _sums(self) -> SiteSums:
        """The site's examples; raises `PlanRejected` for a training that gives no gradients of them."""
        if isinstance(self._train, SiteSums):
            return self._train
        if isinstance(self._train, ExampleGradients):
            return OwnExamples(self._train)
        raise PlanRejected(NO_GRADIENTS)

    def restored(self, state: bytes, scheme_of: Callable[[RoundPlan], SecureSum]) -> ClientRound:
        """The half whose state a record holds.

        Args:
            state: The state.
            scheme_of: Makes the sum of a plan.

        Raises:
            PlanRejected: The record holds none, because the sum saves no sessions.
        """
        if not state:
            raise PlanRejected(
                "this site was started again in the middle of a round whose sum saves no session: it has dropped out"
            )
        return ClientRound.restore(
            state,
            self._own.client,
            scheme=scheme_of(ClientRound.plan_of(state)),
            credentials=self._credentials(),
            policy=self._policy,
            entropy=self._entropy,
        )

    def _half(
        self, entry: AcceptedRound, train: Train | Stateful | ExampleSums, keeper: SiteState | None
    ) -> ClientRound:
        return ClientRound.accepted(
            entry.plan,
            entry.model,
            self._own.client,
            contribution=Contribution(train, entry.scheme),
            credentials=self._credentials(),
            policy=self._policy,
            keeper=keeper,
            entropy=self._entropy,
        )

    def _keeper(self, entry: AcceptedRound) -> SiteState:
        self._states.mkdir(mode=0o700, exist_ok=True)
        return SiteState(self._states / entry.charter.digest().hex(), self._own.client)

    def _credentials(self) -> Credentials:
        """The keys for one session. What may be begun and restored is decided by the record, not by the session."""
        return replace(self._own, tasks=_OneSession())


class _OneSession:
    """The memory of one session in this process; the record on the disk keeps what must survive it."""

    def __init__(self) -> None:
        self._begun: set[bytes] = set()

    def begin(self, task: bytes) -> None:
        """Note a task or a state; raises `PlanRejected` the second time."""
        if task in self._begun:
            raise PlanRejected("this session was begun or restored before")
        self._begun.add(task)


def _nothing(model: Vector, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
    """The update of a training that failed: it counts as zeros and has no weight."""
    return ClientUpdate(np.full(len(model), np.nan), 0)


def _nothing_new(
    model: Vector, client: ClientId, round: int, rng: np.random.Generator, state: ClientState
) -> tuple[ClientUpdate, ClientState]:
    return _nothing(model, client, round, rng), state
