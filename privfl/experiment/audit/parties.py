"""One trial through the parties: real plans, sessions, sums and openings, seen with an observer's eyes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np

from privfl.codec import Vector
from privfl.dp import CorrelatedNoise
from privfl.dp.mesh import MeshNoise
from privfl.engine import LoopExecutor
from privfl.errors import TooFewSurvivors
from privfl.experiment.audit.canaries import Role, RoleTrain, role_in
from privfl.experiment.audit.subject import CANARY, Subject
from privfl.experiment.schemes import SCHEMES
from privfl.experiment.view import Watcher
from privfl.fl.chunks import Chunk, ChunkAnswer
from privfl.fl.client import Train, Work
from privfl.fl.optimizers import ServerOptimizer, ServerSGD
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.observers import Views
from privfl.ring import Ints
from privfl.sums import (
    Drop,
    Entropy,
    Opening,
    SecureSum,
    ServerSession,
    SumTask,
)
from privfl.sums.base import KeyedOpening, identity
from privfl.wire import ClientId

Look = Callable[[RoundPlan, Ints], None]
"""Takes a round's plan and what the observer saw in it, int64 `[encoding.total_length]`."""


class WatchedSum:
    """A sum that keeps what its opener sees: the total before the opening. Everything else is the sum itself.

    Args:
        scheme: The sum.
    """

    def __init__(self, scheme: SecureSum) -> None:
        self._scheme = scheme
        self.opened = np.zeros(0, np.int64)
        self.known: frozenset[ClientId] = frozenset()
        self.heard: dict[ClientId, Ints] = {}
        self.members: frozenset[ClientId] = frozenset()

    @property
    def name(self) -> str:
        """See `SecureSum.name`."""
        return self._scheme.name

    @property
    def opener(self) -> Literal["server", "client"]:
        """See `SecureSum.opener`."""
        return self._scheme.opener

    @property
    def views(self) -> Views:
        """See `SecureSum.views`."""
        return self._scheme.views

    @property
    def parameters(self) -> Mapping[str, str | int | float | bool]:
        """See `SecureSum.parameters`."""
        return self._scheme.parameters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def client(self, task: SumTask, me: ClientId, vector: Ints, *, opening: Opening = identity, **more: Any) -> Any:
        """See `SecureSum.client`.

        Args:
            task: The task.
            me: The client.
            vector: Its contribution.
            opening: Runs where the sum is opened, after its total was kept.
            more: The other arguments.
        """
        watched = self._watch(opening) if self._scheme.opener == "client" else opening
        return self._scheme.client(self._overheard(task), me, vector, opening=watched, **more)

    def _overheard(self, task: SumTask) -> SumTask:
        """The task with its roster noise, of which the parts that `known` clients know are kept."""
        return task if task.noise is None else replace(task, noise=_Overheard(cast("MeshNoise", task.noise), self))

    def server(self, task: SumTask, *, opening: Opening = identity) -> ServerSession:
        """See `SecureSum.server`.

        Args:
            task: The task.
            opening: Runs where the sum is opened, after its total was kept.
        """
        watched = self._watch(opening) if self._scheme.opener == "server" and task.noise is None else opening
        return self._scheme.server(self._overheard(task), opening=watched)

    def _watch(self, opening: Opening) -> Opening:
        def keep(inner: Opening) -> Opening:
            def run(total: Ints, survivors: frozenset[ClientId]) -> Ints:
                self.opened = total.copy()
                return inner(total, survivors)

            return run

        if isinstance(opening, KeyedOpening):
            made = opening.make

            def make(entropy: Entropy) -> Opening:
                return keep(made(entropy))

            return KeyedOpening(make)
        return keep(opening)


@dataclass(frozen=True, eq=False)
class _Overheard:
    """Roster noise that keeps what a coalition knows of it, and the opened sum before the server adds to it."""

    inner: MeshNoise
    watched: WatchedSum

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def sample(self, me: ClientId, others: Sequence[ClientId], length: int, **streams: Any) -> Ints:
        self.watched.members = frozenset((me, *others))
        known, total, heard = self.watched.known, np.zeros(length, np.int64), np.zeros(length, np.int64)
        for other, part in self.inner.parts(me, others, length, **streams):
            total += part
            if me in known or other in known:
                heard += part
        self.watched.heard[me] = heard
        return total

    def fill(self, total: Ints, members: int, present: int) -> Ints:
        self.watched.opened = total.copy()
        return self.inner.fill(total, members, present)


@dataclass(slots=True)
class _Recorder:
    """An executor that adds up the contributions of the clients that an observer knows and that survive."""

    known: frozenset[ClientId] = frozenset()
    total: Any = 0
    inner: LoopExecutor = field(default_factory=LoopExecutor)

    def run(
        self,
        work: Work,
        model: Vector,
        chunks: Iterable[Chunk],
        *,
        order: bytes,
        states: MutableMapping[ClientId, bytes] | None = None,
        counted: frozenset[ClientId] | None = None,
    ) -> Iterator[ChunkAnswer]:
        for answer in self.inner.run(work, model, chunks, order=order, states=states):
            for client, vector in zip(answer.clients, answer.rows, strict=True):
                if client in self.known:
                    self.total = self.total + vector
            yield answer

    def close(self) -> None:
        self.inner.close()


class Trials:
    """Trials of one subject through the parties.

    Args:
        subject: What is audited.
        train: The training of all clients; by default every client but the canaries contributes zeros.
        optimizer: The server optimizer.
    """

    def __init__(
        self, subject: Subject, *, train: Train | None = None, optimizer: ServerOptimizer | None = None
    ) -> None:
        self.subject = subject
        self._watched = WatchedSum(subject.scheme)
        self._roles = RoleTrain(subject.encoding)
        self._executor = _Recorder()
        self._parts = Parts(
            self._roles if train is None else train,
            cast("SecureSum", self._watched),
            self._executor,
            ServerSGD() if optimizer is None else optimizer,
            credentials=cast("Mapping[ClientId, Any] | None", subject.credentials),
        )

    def run(
        self,
        seed: int,
        signs: Mapping[ClientId, int],
        *,
        initial: Vector | None = None,
        look: Look,
        before: Callable[[RoundPlan, ServerState], None] | None = None,
    ) -> ServerState:
        """Run one trial.

        Args:
            seed: The seed of the trial, in [0, 2^63).
            signs: +1 or -1 for each canary that contributes; the others are not in the run, or contribute zeros.
            initial: The first model; zeros by default.
            look: Called after each round with what the observer saw: zeros after a round that did not open.
            before: Called before each round.

        Returns:
            The server's state after the last round.
        """
        subject = self.subject
        model = np.zeros(subject.encoding.length) if initial is None else initial
        clip = subject.encoding.clip.clip_norm if subject.adaptive else None
        state = ServerState(model, {}, clip)
        if (mechanism := subject.mechanism).correlation != "none":
            key = None if mechanism.source == "secure" else (seed,)
            self._parts = replace(self._parts, noise=CorrelatedNoise(key=key))
        for round in range(1, subject.rounds + 1):
            encoding = subject.encoding.in_round(state.clip_norm)
            cohort = subject.cohort(seed, round, frozenset(signs))
            plan = subject.plan(cohort, round=round, seed=seed, encoding=encoding, model_hash=model_hash(state.model))
            self._roles.encoding = encoding
            self._roles.roles = roles_in(subject, round, signs)
            if before is not None:
                before(plan, state)
            survivors = subject.survivors(cohort)
            seen, state = self._round(plan, state, survivors)
            look(plan, seen)
        return state

    @property
    def members(self) -> frozenset[ClientId]:
        """The members of mesh noise in the last round; none under other noise."""
        return self._watched.members

    def _round(self, plan: RoundPlan, state: ServerState, survivors: frozenset[ClientId]) -> tuple[Ints, ServerState]:
        subject, watched = self.subject, self._watched
        self._executor.total = np.zeros(plan.encoding.total_length, np.int64)
        self._executor.known = subject.known & survivors
        watched.known, watched.heard, watched.members = subject.known, {}, frozenset()
        watcher = Watcher(CANARY, SCHEMES["plain"])
        try:
            server = run_round(state, plan, self._parts, drop=self._drop(survivors), tap=watcher)
        except TooFewSurvivors:
            return np.zeros(plan.encoding.total_length, np.int64), state
        self._executor.total += sum(part for me, part in watched.heard.items() if me in survivors)
        if subject.view == "vectors":
            there = CANARY in survivors
            seen = watcher.sighting(plan.encoding).values if there else np.zeros(plan.encoding.total_length, np.int64)
        elif subject.view == "sum":
            seen = watched.opened - self._executor.total
        else:
            result = server.result
            assert result is not None  # noqa: S101 - the round opened
            seen = result.total - self._executor.total
        return seen, server.outcome.state

    def _drop(self, survivors: frozenset[ClientId]) -> Drop:
        first = self.subject.drop_step

        def drop(client: ClientId, step: int) -> bool:
            return client not in survivors and step >= first

        return drop


def roles_in(subject: Subject, round: int, signs: Mapping[ClientId, int]) -> dict[ClientId, Role]:
    """The roles of a round: one canary takes its directions in turn, several have one direction each.

    Args:
        subject: What is audited.
        round: The round.
        signs: +1 or -1 for each canary that contributes.
    """
    axes = subject.axes
    return {client: role_in(round, axes, sign, first=client) for client, sign in signs.items()}
