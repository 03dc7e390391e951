"""A client's half of a round, free of any engine: judge the plan, train, encode, add noise, and speak in the sum.

`run_round` drives it in one process; an engine moves the same bytes over a network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, Self, cast

import numpy as np

from privfl.checks import check_choice
from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, PlanRejected
from privfl.fl.bases import weighed
from privfl.fl.batches import BatchedWork
from privfl.fl.chunks import Chunk, ChunkAnswer, one_by_one
from privfl.fl.client import ClientUpdate, OnClientError, Train, checked_update, client_rng
from privfl.fl.client_state import SiteState, Stateful, pack_state, unpack_state
from privfl.fl.examples import ExampleGradients, ExampleSums, example_sum
from privfl.fl.faults import kind_of
from privfl.fl.plan import RoundPlan
from privfl.fl.policy import ClientPolicy
from privfl.fl.saved import SavedParty, client_bytes, client_restorer
from privfl.ring import Ints
from privfl.sums import ClientSession, Entropy, SecureSum
from privfl.sums.base import identity
from privfl.sums.restore import restores_clients
from privfl.wire import ClientId

_OPEN_TO_ALL: Final = ClientPolicy()
_CLIENT: Final = b"privfl/1 client round"


def saves_sessions(scheme: SecureSum) -> bool:
    """True if a client of this sum can be restored between two steps, or has one step only."""
    return restores_clients(scheme) or scheme.messages_per_client == 1


class Contribution:
    """The clients' work in any round of a run: train, clip, encode, add noise. Its plan holds all that changes.

    Args:
        train: The local training. A `Stateful` one keeps a state at each client, and sums over examples need an
            `ExampleGradients` or an `ExampleSums`.
        scheme: The sum.
        on_client_error: "raise" lets an error of the training pass; "drop" lets its client drop out.
    """

    def __init__(
        self,
        train: Train | Stateful | ExampleGradients | ExampleSums,
        scheme: SecureSum,
        on_client_error: OnClientError = "raise",
    ) -> None:
        check_choice("on_client_error", on_client_error, ("raise", "drop"))
        self.train, self.scheme, self.drops = train, scheme, on_client_error == "drop"
        self._plan: RoundPlan | None = None

    def __call__(
        self,
        model: Vector,
        clients: Chunk,
        order: bytes,
        *,
        states: Sequence[bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> ChunkAnswer:
        """The contributions of a chunk; see `privfl.fl.client.Work`."""
        plan = self.planned(order)
        if plan.chunking.kind == "batched":
            return BatchedWork(self.train, self.scheme, self.drops)(model, clients, plan, states, counted)
        answer = one_by_one(self.with_state, model, clients, order, states, drops=self.drops)
        return answer if counted is None else answer.sum(plan.task(self.scheme), counted)

    def planned(self, order: bytes, plan: RoundPlan | None = None) -> RoundPlan:
        """The plan of these bytes, which is read once.

        Args:
            order: The bytes of the round's plan.
            plan: The plan itself, where the caller has it.
        """
        if plan is not None:
            self._plan = plan
        if self._plan is None or self._plan.to_bytes() != order:
            self._plan = RoundPlan.from_bytes(order)
        return self._plan

    def with_state(self, model: Vector, client: ClientId, order: bytes, state: bytes = b"") -> tuple[Ints, bytes]:
        """One client's contribution and its new state, which counts once the client has survived the round.

        Args:
            model: The global model, float `[d]`, and what the server shares after it; it is not changed.
            client: Whose contribution this is.
            order: The bytes of the round's plan.
            state: The client's state, as `privfl.fl.client_state.pack_state` gives it; b"" for none.

        Returns:
            The contribution, int64 `[plan.encoding.total_length]`, and the new state. An update that does not count
            leaves the state as it is.
        """
        plan = self.planned(order)
        rng = client_rng(plan.seed, plan.round, client)
        if plan.encoding.examples is not None:  # 2 and 3 in one: each example is clipped by itself
            vector, after = example_sum(self.train, plan, model, client), state
        else:
            update, after = self._trained(model, client, plan, rng, state)  # 2: train
            vector = plan.encoding.encode(weighed(plan, client, update), rng)  # 3: clip and encode
        return plan.add_noise(self.scheme, client, vector), after  # 4: noise contribution

    @property
    def stateful(self) -> bool:
        """True if the training keeps a state at each client."""
        return isinstance(self.train, Stateful)

    def _trained(
        self, model: Vector, client: ClientId, plan: RoundPlan, rng: np.random.Generator, state: bytes
    ) -> tuple[ClientUpdate, bytes]:
        if not isinstance(self.train, Stateful):
            return checked_update(cast("Train", self.train)(model, client, plan.round, rng)), b""
        update, after = self.train(model, client, plan.round, rng, unpack_state(state))
        return checked_update(update), pack_state(after) if plan.encoding.accepts(update) else state


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
        self.plan, self.me, self.savable = plan, me, saves_sessions(scheme)
        task = policy.check(plan, scheme)
        opening = {"opening": plan.opening(scheme)} if scheme.opener == "client" else {}
        self._session: ClientSession = scheme.client(
            task, me, vector, credentials=credentials, policy=policy.sum, entropy=entropy, **opening
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
        keeper: SiteState | None = None,
        entropy: Entropy = os.urandom,
    ) -> Self:
        """Judge a plan that arrived as bytes, and train on the model that came with it.

        Args:
            order: The plan's bytes, as they arrived.
            model: The global model, float `[d]`, and what the server shares after it, as they arrived.
            me: This client.
            contribution: The client's training function and sum.
            credentials: The client's credentials.
            policy: What this client insists on; checked before it trains.
            keeper: Where a client of `Stateful` training keeps its state between rounds.
            entropy: Where the sum's secrets come from.

        Raises:
            WireError: If the bytes are not a plan.
            PlanRejected: If the policy refuses the plan, or the plan trains many clients at once.
            ConfigError: If the model is not the plan's, the plan does not ask this client, or a `Stateful` training has
                no keeper.
            StateError: If the keeper does not hold the state that the plan names.
            ClientFailed: If the training raised an error, and the contribution lets such clients drop out.
        """
        plan = RoundPlan.from_bytes(order)
        policy.check(plan, contribution.scheme)
        plan.check_model(model, me)
        return cls.accepted(
            plan,
            model,
            me,
            contribution=contribution,
            credentials=credentials,
            policy=policy,
            keeper=keeper,
            entropy=entropy,
        )

    @classmethod
    def accepted(
        cls,
        plan: RoundPlan,
        model: Vector,
        me: ClientId,
        *,
        contribution: Contribution,
        credentials: Any = None,
        policy: ClientPolicy = _OPEN_TO_ALL,
        keeper: SiteState | None = None,
        entropy: Entropy = os.urandom,
    ) -> Self:
        """Train under a plan that this client has accepted, on a model that was compared with its hash.

        Args:
            plan: The plan.
            model: The global model, float `[d]`, and what the server shares after it.
            me: This client.
            contribution: See `trained`, like all further arguments.
            credentials: See `trained`.
            policy: See `trained`.
            keeper: See `trained`.
            entropy: See `trained`.

        Raises:
            PlanRejected: If the policy refuses the plan, or the plan trains many clients at once.
            ConfigError: If the plan does not ask this client, or a `Stateful` training has no keeper.
            StateError: If the keeper does not hold the state that the plan names.
            ClientFailed: If the training raised an error, and the contribution lets such clients drop out.
        """
        if plan.chunking.kind == "batched":
            raise PlanRejected(
                "the plan trains many clients at once, and this one trains alone: set cohort.training = 'single'"
            )
        if me not in plan.cohort:
            raise ConfigError(f"client {me} is not in the cohort of round {plan.round}")
        if contribution.stateful != (keeper is not None):
            raise ConfigError("`Stateful` training keeps its state in a SiteState: give `keeper`, and only then")
        before = b"" if keeper is None else keeper.begin(plan)
        contribution.planned(plan.to_bytes(), plan)
        try:
            vector, after = contribution.with_state(model, me, plan.to_bytes(), before)
        except Exception as error:
            if not contribution.drops:
                raise
            raise ClientFailed(me, kind_of(error)) from error
        if keeper is not None:
            keeper.propose(plan, after)
        return cls(
            plan, me, vector, scheme=contribution.scheme, credentials=credentials, policy=policy, entropy=entropy
        )

    @classmethod
    def restore(
        cls,
        state: bytes,
        me: ClientId,
        *,
        scheme: SecureSum,
        credentials: Any = None,
        policy: ClientPolicy = _OPEN_TO_ALL,
        entropy: Entropy = os.urandom,
    ) -> Self:
        """The half that `to_bytes` saved, in another process perhaps; each state is restored at most once.

        Args:
            state: The saved bytes.
            me: This client.
            scheme: The client's own sum.
            credentials: The client's credentials, which the bytes do not hold.
            policy: What this client insists on; the plan is judged again.
            entropy: Where the rest of the sum's secrets come from.

        Raises:
            StateError: If the bytes were altered, or were restored before.
            PlanRejected: If the policy refuses the plan.
            ConfigError: If the plan names another sum, or the sum's sessions cannot be restored.
        """
        saved = SavedParty.from_bytes(_CLIENT, state)
        half = cls.__new__(cls)
        half.plan, half.me, half.savable = saved.plan, me, True
        task = policy.check(half.plan, scheme)
        half._session = client_restorer(scheme).resume_client(
            task,
            me,
            bytes(saved.session),
            credentials=credentials,
            policy=policy.sum,
            opening=half.plan.opening(scheme) if scheme.opener == "client" else identity,
            entropy=entropy,
        )
        return half

    @staticmethod
    def plan_of(state: bytes) -> RoundPlan:
        """The plan in saved bytes, for a site that makes its sum from it; raises `StateError` for other bytes."""
        return SavedParty.from_bytes(_CLIENT, state).plan

    def to_bytes(self, *, repeats: bool = True) -> bytes:
        """Everything that `restore` needs, without the client's long-term keys; as secret as the contribution.

        Save it after each call of `start` and `receive`, before the answer is sent. `privfl.sums.store.SessionStore`
        keeps such bytes.

        Args:
            repeats: True holds the last answer, too, which a restored half sends again for the same message. False
                leaves it out, for a caller that keeps it with the state.
        """
        session = client_bytes(self._session, repeats=repeats)
        return SavedParty(self.plan.to_bytes(), session, b"").to_bytes(_CLIENT)

    @property
    def finished(self) -> bool:
        """True once the last message of the round has been sent."""
        return self._session.finished

    def start(self) -> bytes:
        """The first message to the server."""
        return self._session.start()

    def receive(self, message: bytes) -> bytes | None:
        """The answer to one message of the server; None where no answer is due."""
        return self._session.receive(message)
