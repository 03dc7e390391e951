"""One round in one process: a straight pipe from a state to the next, in which only the secure sum talks.

The ten steps, and where each is written:

     1 sample the cohort     the run, before the plan is made (`privfl/fl/run.py`)
     2 train                 `Contribution`
     3 clip and encode       `UpdateEncoding.encode`
     4 noise contribution    `RoundPlan.add_noise`
     5 session               `ClientRound`
     6 secure sum            `drive`
     7 settle                `ServerRound`, which reserved the cost before a client was asked
     8 noise on the sum      `RoundPlan.opening`, where the sum is opened
     9 decode, mean          `RoundPlan.decode`
    10 optimizer step        `ServerRound.outcome`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from privfl.codec import Vector
from privfl.dp import CorrelatedNoise
from privfl.errors import ClientFailed, ConfigError
from privfl.fl.aggregation import Aggregation, Mean
from privfl.fl.bases import jobs_of
from privfl.fl.chunks import ChunkAnswer
from privfl.fl.client import Executor, OnClientError, Train
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.client_state import Stateful
from privfl.fl.examples import ExampleGradients
from privfl.fl.faults import count_errors, in_words
from privfl.fl.optimizers import ServerOptimizer, ServerSGD
from privfl.fl.payment import Payment
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.policy import ClientPolicy
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.sums import Drop, SecureSum, Tap, drive
from privfl.sums.driver import ignore, never
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class Parts:
    """The code and the keys of a run, the same in every round. What the parties agree on is in the plan.

    Attributes:
        train: The local training of a client; a `Stateful` one keeps a state at each client.
        scheme: The sum.
        executor: How the clients' training is executed.
        optimizer: How the mean update changes the model.
        aggregation: How the round's means become the mean update of the optimizer; by default as they are.
        credentials: Each client's credentials; None for a plain sum.
        policy: What every client insists on.
        noise: The noise of the run, where it is correlated across rounds.
        on_client_error: What an error of a client's training does: it ends the round, or the client drops out of it.
    """

    train: Train | Stateful | ExampleGradients
    scheme: SecureSum
    executor: Executor
    optimizer: ServerOptimizer = field(default_factory=ServerSGD)
    aggregation: Aggregation = field(default_factory=Mean)
    credentials: Mapping[ClientId, Any] | None = None
    policy: ClientPolicy = field(default_factory=ClientPolicy)
    on_client_error: OnClientError = "raise"
    noise: CorrelatedNoise | None = None
    contribution: Contribution = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contribution", Contribution(self.train, self.scheme, self.on_client_error))


class RoundDriver(Protocol):
    """Carries the messages of one round between its two halves, as `run_round` does in one process."""

    def __call__(
        self,
        state: ServerState,
        plan: RoundPlan,
        parts: Parts,
        *,
        payment: Payment | None = None,
        states: MutableMapping[ClientId, bytes] | None = None,
        drop: Drop = never,
        tap: Tap = ignore,
        failed: dict[ClientId, str] | None = None,
        bases: Mapping[str, Vector] | None = None,
    ) -> ServerRound:
        """Run `plan` on `state`; see `run_round` for arguments, result and errors."""
        ...


def run_round(
    state: ServerState,
    plan: RoundPlan,
    parts: Parts,
    *,
    payment: Payment | None = None,
    states: MutableMapping[ClientId, bytes] | None = None,
    drop: Drop = never,
    tap: Tap = ignore,
    failed: dict[ClientId, str] | None = None,
    bases: Mapping[str, Vector] | None = None,
) -> ServerRound:
    """Run `plan` on `state`: one in-process driver of the two halves of a round.

    Args:
        state: The server's state before the round.
        plan: The round's plan.
        parts: Training, sum, executor, optimizer, credentials and policy.
        payment: Where the round is charged.
        states: The state of each client of the cohort, for `Stateful` training. New states replace them; those of the
            outcome's survivors count once the outcome is stored.
        drop: The simulated dropouts.
        tap: Sees every message.
        failed: Receives the type of the error of each client that drops out because its training raised one.
        bases: The models that the clients of an asynchronous round train from, by their hashes.

    Returns:
        The server's half, with its `outcome`; call `settle()` once the outcome is stored.

    Raises:
        TooFewSurvivors: If nothing can be opened.
        PlanRejected: If a client refuses the plan.
        BudgetExceeded: If the round could cost too much; no client was asked.
        ClientFailed: If a client's training raised, or every client's where such clients drop out.
        ConfigError: If the training is `Stateful` and there are no states, or the other way round; or a model or the
            sum is not the one that the plan names.
    """
    if parts.contribution.stateful != (states is not None):
        raise ConfigError("`Stateful` training takes the states of the cohort, and other training none: see `states`")
    scheme, policy, keys = parts.scheme, parts.policy, parts.credentials or {}
    plan.check_openable(scheme)
    if plan.cohort:
        policy.check(plan, scheme)  # before the round is charged
    server = ServerRound(
        state,
        plan,
        scheme=scheme,
        optimizer=parts.optimizer,
        aggregation=parts.aggregation,
        payment=payment,
        noise=parts.noise,
    )
    if plan.cohort:
        count = nothing if tap is ignore else getattr(tap, "count_up", None)
        direct = server.takes_answers and count is not None
        # In a plain sum a client has one message, so those that stay at its step take part in the sum.
        counted = frozenset(client for client in plan.cohort if not drop(client, 0)) if direct else None
        models = _models(plan, state, bases or {})
        answers = _answers(plan, parts, models, states=states, counted=counted, failed={} if failed is None else failed)
        if direct and count is not None:
            for answer in answers:
                count(server.take(answer))
            drive(server, (), drop=drop, tap=tap)
        else:
            clients = (
                (me, ClientRound(plan, me, row, scheme=scheme, credentials=keys.get(me), policy=policy))
                for answer in answers
                for me, row in zip(answer.clients, answer.rows, strict=True)
            )
            drive(server, clients, drop=drop, tap=tap)
    return server


def _models(plan: RoundPlan, state: ServerState, bases: Mapping[str, Vector]) -> dict[str, Vector]:
    """The model of each job, by the hash under which the plan names it."""
    models = {plan.model_hash: state.sent}
    for name, _ in jobs_of(plan):
        if name in models:
            continue
        if name not in bases or model_hash(bases[name]) != name:
            raise ConfigError(
                f"round {plan.round}: a client trains from the model {name[:8]}, and `bases` holds no model with this "
                "hash: give each model under its own model_hash"
            )
        models[name] = bases[name]
    return models


def _answers(
    plan: RoundPlan,
    parts: Parts,
    models: Mapping[str, Vector],
    *,
    states: MutableMapping[ClientId, bytes] | None,
    counted: frozenset[ClientId] | None,
    failed: dict[ClientId, str],
) -> Iterator[ChunkAnswer]:
    """The work of all clients, chunk by chunk; `failed` receives those whose training raised an error."""
    order, executor = plan.to_bytes(), parts.executor
    parts.contribution.planned(order, plan)
    for model, chunks in jobs_of(plan):
        for answer in executor.run(
            parts.contribution, models[model], chunks, order=order, states=states, counted=counted
        ):
            failed.update(answer.faults)
            yield answer
    if len(failed) == len(plan.cohort):
        errors = in_words(count_errors(failed.values()))
        raise ClientFailed(
            min(failed),
            f"the training of every client of round {plan.round} raised an error ({errors}). Set "
            "cohort.on_client_error = 'raise' to see where",
        )


def nothing(size: int) -> None:
    """Count no bytes."""
