"""The work of a batched chunk: its clients are trained at once, and their updates encoded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from privfl.codec import Vector
from privfl.errors import ClientFailed, ConfigError, reason_of
from privfl.fl.bases import weighed
from privfl.fl.chunks import Chunk, ChunkAnswer, joined
from privfl.fl.client import ClientUpdate, checked_update, client_rng
from privfl.fl.client_state import Stateful, pack_state, unpack_state
from privfl.fl.encode_all import add_all, blocks, encode_all
from privfl.fl.faults import kind_of
from privfl.fl.plan import RoundPlan
from privfl.sums import SecureSum
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class BatchedWork:
    """The work of any batched chunk of a run.

    Attributes:
        train: The local training, a `CohortTrain`, or a `Stateful` one with such a training.
        scheme: The sum.
        drops: True if a client whose work raises an error drops out, with its state unchanged.
    """

    train: object
    scheme: SecureSum
    drops: bool

    def __call__(
        self,
        model: Vector,
        clients: Chunk,
        plan: RoundPlan,
        states: Sequence[bytes] | None,
        counted: frozenset[ClientId] | None,
    ) -> ChunkAnswer:
        """Train a chunk at once. If that fails, the clients are tried one by one to name those whose fault it is.

        Args:
            model: The global model, float `[d]`, and what the server shares after it.
            clients: The chunk.
            plan: The round's plan.
            states: The state of each client; None for clients without states.
            counted: The clients whose contributions are added up; None keeps each by itself.

        Raises:
            ClientFailed: If the work of a client raised an error and `drops` is false, or of all of them only together.
        """
        before, faults = dict(zip(clients, states or [b""] * len(clients), strict=True)), dict[ClientId, str]()
        try:
            return self._answer(model, before, plan, counted)
        except Exception as error:
            for client in clients:
                try:
                    self._answer(model, {client: before[client]}, plan, counted)
                except Exception as own:
                    if not self.drops:
                        raise ClientFailed(client, reason_of(own)) from own
                    faults[client] = kind_of(own)
            if not faults:
                raise ClientFailed(
                    clients[0], f"each client of the chunk {clients} trains, and all at once raise {reason_of(error)}"
                ) from error
        others = {client: state for client, state in before.items() if client not in faults}
        answer = self._answer(model, others, plan, counted)
        if states is None:
            return replace(answer, faults=faults)
        after = before | dict(zip(others, answer.states, strict=True))  # those at fault keep theirs
        return replace(answer, faults=faults, states=tuple(after.values()))

    def _answer(
        self,
        model: Vector,
        before: Mapping[ClientId, bytes],
        plan: RoundPlan,
        counted: frozenset[ClientId] | None,
    ) -> ChunkAnswer:
        clients, encoding = tuple(before), plan.encoding
        rngs = [client_rng(plan.seed, plan.round, client) for client in clients]
        updates, states = self._trained(model, before, plan, rngs)
        weighted = [weighed(plan, client, update) for client, update in zip(clients, updates, strict=True)]
        noisy = plan.mechanism.placement in ("distributed", "local")
        if counted is not None and not noisy:
            places = [place for place, client in enumerate(clients) if client in counted]
            total = add_all(encoding, [weighted[place] for place in places])
            if total is not None:
                return ChunkAnswer(tuple(clients[p] for p in places), total[np.newaxis], states, added=True)

        def encoded(some: slice) -> ChunkAnswer:
            rows = encode_all(encoding, weighted[some], rngs[some])
            if noisy:
                for place, client in enumerate(clients[some]):
                    rows[place] = plan.add_noise(self.scheme, client, rows[place])
            return ChunkAnswer(clients[some], rows)

        if counted is None:
            return replace(encoded(slice(None)), states=states)
        task = plan.task(self.scheme)
        parts = (encoded(some).sum(task, counted) for some in blocks(encoding, len(clients)))
        return replace(joined(parts), states=states)

    def _trained(
        self, model: Vector, before: Mapping[ClientId, bytes], plan: RoundPlan, rngs: Sequence[np.random.Generator]
    ) -> tuple[Sequence[ClientUpdate], tuple[bytes, ...]]:
        """The updates of a chunk, and the new states of clients that keep one; an update that does not count keeps the
        state as it is.
        """
        if not before:
            return [], ()
        clients, stateful, train = tuple(before), isinstance(self.train, Stateful), check_cohort_train(self.train)
        further = ([unpack_state(state) for state in before.values()],) if stateful else ()
        answers = train.train_cohort(model, clients, plan.round, rngs, *further)
        if not isinstance(answers, Sequence):
            raise ConfigError(f"train_cohort returns a list with a ClientUpdate for each client, not {_a(answers)}")
        if len(answers) != len(clients):
            raise ConfigError(f"train_cohort must return an update for each of {len(clients)} clients")
        if not stateful:
            return [checked_update(answer) for answer in answers], ()
        if wrong := [answer for answer in answers if not (isinstance(answer, tuple) and len(answer) == 2)]:
            raise ConfigError(
                f"train_cohort of a `Stateful` returns a pair (ClientUpdate, state) for each client, not {_a(wrong[0])}"
            )
        updates, after = zip(*answers, strict=True)
        updates = tuple(map(checked_update, updates))
        kept = [
            pack_state(new) if plan.encoding.accepts(update) else old
            for update, new, old in zip(updates, after, before.values(), strict=True)
        ]
        return updates, tuple(kept)


def _a(value: object) -> str:
    return f"a {type(value).__name__}"


def check_cohort_train(train: object) -> Any:
    """Return the training of many clients at once that `train` is, or that is in a `Stateful` one.

    Raises:
        ConfigError: If it cannot train many clients at once.
    """
    together: Any = train.train if isinstance(train, Stateful) else train
    if not (callable(getattr(together, "train_cohort", None)) and callable(getattr(together, "check_cohort", None))):
        raise ConfigError(
            "cohort.training = 'batched' needs a training with `train_cohort` and `check_cohort`. Built-in models "
            "have it under fedavg, fedprox, scaffold and fednova: set cohort.training = 'single'"
        )
    together.check_cohort()
    return together
