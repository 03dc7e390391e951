"""The two halves of a round, free of any engine: bytes in, bytes out.

`ServerRound` reserves the cost, drives the sum, opens it and yields the outcome. `ClientRound` judges the plan, trains,
encodes, adds its noise and speaks for one client. `run_round` drives both in one process; an engine moves the same
bytes over a network.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from privfl.codec import Vector
from privfl.dp.ledger import Token
from privfl.errors import ConfigError, LocalProtocolError, TooFewSurvivors
from privfl.fl.client import Train, client_rng
from privfl.fl.optimizers import ServerOptimizer, ServerSGD
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan
from privfl.fl.policy import ClientPolicy
from privfl.fl.state import Outcome, ServerState
from privfl.ring import Ints
from privfl.sums import ClientSession, Entropy, SecureSum, ServerSession, SumResult
from privfl.wire import ClientId

_OPEN_TO_ALL: Final = ClientPolicy()


class Contribution:
    """A client's work in any round of a run: train, clip, encode, add noise. What changes by round is in the plan."""

    def __init__(self, train: Train, scheme: SecureSum) -> None:
        self.train, self.scheme = train, scheme
        self._plan: RoundPlan | None = None

    def __call__(self, model: Vector, client: ClientId, order: bytes) -> Ints:
        """One client's contribution.

        Args:
            model: The global model, float `[d]`; it is not changed.
            client: Whose contribution this is.
            order: The bytes of the round's plan.

        Returns:
            int64 `[plan.encoding.total_length]`.
        """
        plan = self._plan
        if plan is None or plan.to_bytes() != order:
            plan = self._plan = RoundPlan.from_bytes(order)
        rng = client_rng(plan.seed, plan.round, client)
        update = self.train(model, client, plan.round, rng)  # 2: train
        vector = plan.encoding.encode(update, rng)  # 3: clip and encode
        return plan.add_noise(self.scheme, client, vector)  # 4: noise contribution


class ClientRound:
    """One client's half of a round, over a contribution that is ready; `trained` makes the contribution first.

    Args:
        plan: The round's plan.
        me: This client.
        vector: Its contribution, int64 `[plan.encoding.total_length]`, noise included.
        scheme: The client's own sum; the plan must name it.
        credentials: The client's credentials, which a plain sum does without.
        policy: What this client insists on.
        entropy: Where the sum's secrets come from.

    Raises:
        PlanRejected: If the policy refuses the plan.
        ConfigError: If the plan names another sum, or does not ask this client.
    """

    def __init__(
        self,
        plan: RoundPlan,
        me: ClientId,
        vector: Ints,
        *,
        scheme: SecureSum,
        credentials: Any = None,
        policy: ClientPolicy = _OPEN_TO_ALL,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.plan, self.me = plan, me
        task = policy.check(plan, scheme)
        self._session: ClientSession = scheme.client(
            task,
            me,
            vector,
            credentials=credentials,
            policy=policy.sum,
            opening=plan.opening(scheme),
            entropy=entropy,
        )

    @classmethod
    def trained(
        cls,
        order: bytes,
        model: Vector,
        me: ClientId,
        *,
        contribution: Contribution,
        credentials: Any = None,
        policy: ClientPolicy = _OPEN_TO_ALL,
        entropy: Entropy = os.urandom,
    ) -> Self:
        """Judge a plan that arrived as bytes, and train on the model that came with it.

        Args:
            order: The plan's bytes, as they arrived.
            model: The global model, float `[d]`, as it arrived.
            me: This client.
            contribution: The client's training function and sum.
            credentials: The client's credentials.
            policy: What this client insists on; checked before it trains.
            entropy: Where the sum's secrets come from.

        Raises:
            WireError: If the bytes are not a plan.
            PlanRejected: If the policy refuses the plan.
            ConfigError: If the model is not the plan's, or the plan does not ask this client.
        """
        plan, scheme = RoundPlan.from_bytes(order), contribution.scheme
        policy.check(plan, scheme)
        plan.check_model(model)
        if me not in plan.cohort:
            raise ConfigError(f"client {me} is not in the cohort of round {plan.round}")
        vector = contribution(model, me, order)
        return cls(plan, me, vector, scheme=scheme, credentials=credentials, policy=policy, entropy=entropy)

    def start(self) -> bytes:
        """The first message to the server."""
        return self._session.start()

    def receive(self, message: bytes) -> bytes | None:
        """The answer to one message of the server; None where no answer is due."""
        return self._session.receive(message)


class ServerRound:
    """The server's half of a round: it reserves the cost, drives the sum, opens it and yields the outcome.

    Args:
        state: The server's state before the round.
        plan: The round's plan; its model must be `state.model`.
        scheme: The sum that the plan names.
        optimizer: How the mean update changes the model.
        payment: Where the round is charged; None for a run that keeps no ledger.

    Raises:
        ConfigError: If the state or the sum is not the plan's.
        BudgetExceeded: If the round could cost too much; nothing was charged.
        TooFewSurvivors: If the cohort is smaller than what the sum opens; nothing was charged.
    """

    def __init__(
        self,
        state: ServerState,
        plan: RoundPlan,
        *,
        scheme: SecureSum,
        optimizer: ServerOptimizer | None = None,
        payment: Payment | None = None,
    ) -> None:
        plan.check_model(state.model)
        plan.check_scheme(scheme)
        if plan.encoding != plan.encoding.in_round(state.clip_norm):
            raise ConfigError(
                f"the plan clips to {plan.encoding.clip.clip_norm:g}, and the server's state says {state.clip_norm!r}"
            )
        plan.check_openable(scheme)
        self.plan, self._state, self._scheme = plan, state, scheme
        self._optimizer: ServerOptimizer = optimizer or ServerSGD()
        self._payment = payment
        self._session: ServerSession | None = None
        self._empty: SumResult | None = None
        opening = plan.opening(scheme)
        if plan.cohort:
            self._session = scheme.server(plan.task(scheme), opening=opening)
        self._token: Token | None = payment.reserve(plan, scheme) if payment is not None else None
        if self._session is None:  # nobody was sampled: the noise alone is released, as the accountant assumes
            total = opening(np.zeros(plan.encoding.total_length, np.int64), frozenset())
            self._empty = SumResult(total, frozenset(), plan.digest())

    @property
    def awaiting(self) -> frozenset[ClientId]:
        """Clients whose message of the present step has not come."""
        return frozenset() if self._session is None else self._session.awaiting

    @property
    def result(self) -> SumResult | None:
        """The opened sum, once there is one."""
        return self._empty if self._session is None else self._session.result

    @property
    def ready(self) -> bool:
        """Whether `advance()` would succeed now."""
        return self._session is not None and self._session.ready

    def receive(self, sender: ClientId, message: bytes) -> None:
        """Take one client's message; a `RemoteProtocolError` has dropped its sender, and the round goes on."""
        self._live().receive(sender, message)

    def drop(self, client: ClientId) -> None:
        """Declare that a client has dropped out: nothing is awaited from it any more."""
        self._live().drop(client)

    def advance(self) -> Mapping[ClientId, bytes]:
        """Close this step: clients whose message has not come have dropped out. Returns the next step's messages.

        Raises:
            LocalProtocolError: If too few have answered yet and others are awaited; nothing has changed.
            TooFewSurvivors: If nothing can be opened; the charge is refunded if that is proven.
        """
        try:
            return self._live().advance()
        except TooFewSurvivors as error:
            if self._payment is not None:
                self._payment.refund(self._token, error)
            raise

    @property
    def outcome(self) -> Outcome:
        """The result of the round; raises `LocalProtocolError` before the sum is opened."""
        summed = self.result
        if summed is None:
            raise LocalProtocolError("this round has no outcome yet: its sum is not opened")
        mean, metrics, clip_norm = self.plan.decode(summed.total, len(summed.survivors))  # 9: decode, mean
        model, moments = self._optimizer.step(self._state.model, mean, self._state.moments)  # 10: server optimizer
        norm = math.sqrt(float(np.square(mean).sum()))
        return Outcome(ServerState(model, moments, clip_norm), metrics, norm, summed.survivors, summed.caveats)

    def settle(self) -> None:
        """Replace the reservation by what was opened; call it once the outcome is stored."""
        summed = self.result
        if summed is None:
            raise LocalProtocolError("this round cannot be settled yet: its sum is not opened")
        if self._payment is not None:
            self._payment.settle(self._token, self.plan, self._scheme, summed.survivors)

    def _live(self) -> ServerSession:
        if self._session is None:
            raise LocalProtocolError("nobody was sampled for this round: no message is expected")
        return self._session
