"""Rounds of many trials over arrays: the clients' real work and encoding, and the plan's own noise, without sessions.

A secure sum returns the exact sum of the survivors' integers, so what the server sees is a sum of contributions and of
noise. `check_rounds` runs trials through the parties too, and compares what the server sees to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.errors import PrivacyError
from privfl.experiment.attack.cases import Case
from privfl.experiment.attack.dealing import Deck, Indices, dealt_train
from privfl.experiment.audit.noise import KeyedNoise, NoiseSource, group_noise
from privfl.experiment.audit.parties import Trials
from privfl.experiment.audit.subject import CANARY
from privfl.experiment.audit.vectorized import trial_groups
from privfl.fl.client import ClientUpdate, Train, client_rng
from privfl.fl.optimizers import stepped
from privfl.fl.plan import RoundPlan
from privfl.fl.state import ServerState
from privfl.ring import Ints
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """The view of the server in one round of one trial.

    Attributes:
        trial: The trial.
        round: The round.
        plan: The plan of the round.
        model: The global model before the round, float `[d]`.
        vector: What the server sees, int64 `[total_length]`.
        clients: The number of contributions in it.
    """

    trial: int
    round: int
    plan: RoundPlan
    model: Vector = field(repr=False)
    vector: Ints = field(repr=False)
    clients: int


class Hands:
    """Deals the examples of one trial at a time, and keeps the updates of its first round for all cases.

    Args:
        deck: The deck.
        target_rows: The target's examples in each trial.
        candidates: The position of each trial's candidate in the pool.
        seeds: The seed of each trial.
    """

    def __init__(
        self, deck: Deck, target_rows: list[Indices], candidates: npt.NDArray[np.intp], seeds: npt.NDArray[np.int64]
    ) -> None:
        self.deck, self.target_rows, self.candidates, self.seeds = deck, target_rows, candidates, seeds
        self._trial = -1
        self._first: dict[ClientId, tuple[ClientUpdate, Any]] = {}

    def take(self, trial: int) -> None:
        """Deal the examples of a trial.

        Args:
            trial: The trial.
        """
        if trial != self._trial:
            self._trial, self._first = trial, {}
            rng = np.random.default_rng([int(self.seeds[trial]), 1])
            self.deck.deal(CANARY, self.target_rows[trial], rng, candidate=int(self.candidates[trial]))

    def update(
        self, train: Train, model: Vector, client: ClientId, round: int
    ) -> tuple[ClientUpdate, np.random.Generator]:
        """The update of a client in the trial at hand, and its randomness after the training.

        Args:
            train: The run's training over the deck's data.
            model: The global model, float `[d]`.
            client: The client.
            round: The round.
        """
        rng = client_rng(int(self.seeds[self._trial]), round, client)
        if round == 1 and client in self._first:
            update, state = self._first[client]
            rng.bit_generator.state = state
            return update, rng
        update = train(model, client, round, rng)
        if round == 1:
            self._first[client] = update, rng.bit_generator.state
        return update, rng


def array_rounds(
    case: Case, hands: Hands, trials: npt.NDArray[np.intp], source: Callable[[npt.NDArray[np.int64]], NoiseSource]
) -> Iterator[Sight]:
    """The views of the server in each round of some trials; a round that does not open is left out.

    Args:
        case: The case.
        hands: The examples of the trials.
        trials: The trials.
        source: Makes the source of noise from the seeds of the trials.
    """
    subject, train = case.subject.seeded, dealt_train(case.parts, hands.deck)
    seeds = hands.seeds[trials]
    noise, presence = source(seeds), np.ones((len(trials), 1), np.int8)
    clip = subject.encoding.clip.clip_norm if subject.adaptive else None
    states = [ServerState(case.parts.method.initial, {}, clip)] * len(trials)
    for round in range(1, subject.rounds + 1):
        last = round == subject.rounds
        for base, group, cohorts in trial_groups(subject, seeds, presence, round):
            stay = [frozenset(cohort) for cohort in cohorts]
            noised = group_noise(subject, base, group, cohorts=cohorts, survivors=stay, source=noise)
            for at, i in enumerate(group):
                hands.take(int(trials[i]))
                state, cohort = states[i], cohorts[at]
                plan = dataclasses.replace(base, encoding=subject.encoding.in_round(state.clip_norm), cohort=cohort)
                seen = _contributions(case, hands, train, plan, model=state.model, last=last)
                if subject.view == "vectors":
                    vector, clients = seen.target + noised.canary[at], 1
                else:
                    vector, clients = seen.hidden + noised.shares[at] - noised.known[at], len(stay[at] - subject.known)
                    vector = vector + (noised.opened[at] if subject.view == "release" else 0)
                yield Sight(
                    trial=int(trials[i]), round=round, plan=plan, model=state.model, vector=vector, clients=clients
                )
                if not last:
                    decoded = plan.decode(seen.total + noised.shares[at] + noised.opened[at], len(cohort))
                    model, moments = stepped(case.parts.optimizer, state.model, decoded.mean, state.moments)
                    states[i] = ServerState(model, moments, decoded.next_clip_norm)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Contributions before noise: of the target, of all clients that the server does not know, and of all."""

    target: Ints
    hidden: Ints
    total: Ints


def _contributions(case: Case, hands: Hands, train: Train, plan: RoundPlan, *, model: Vector, last: bool) -> _Sums:
    known, alone = case.subject.known, case.subject.view == "vectors" and last
    target, hidden, total = (np.zeros(plan.encoding.total_length, np.int64) for _ in range(3))
    for client in (CANARY,) if alone else plan.cohort:
        update, rng = hands.update(train, model, client, plan.round)
        vector = plan.encoding.encode(update, rng)
        total += vector
        if client == CANARY:
            target = vector
        if client not in known:
            hidden += vector
    return _Sums(target, hidden, total)


def check_rounds(case: Case, hands: Hands, trials: npt.NDArray[np.intp]) -> int:
    """Run trials through the parties too, and compare what the server sees to the last bit.

    Args:
        case: The case.
        hands: The examples of the trials.
        trials: The trials.

    Returns:
        The number of rounds that were compared.

    Raises:
        PrivacyError: If they differ.
    """
    subject = case.subject.seeded
    columns = np.arange(subject.encoding.total_length)
    arrays: dict[tuple[int, int], Ints] = {
        (sight.trial, sight.round): sight.vector
        for sight in array_rounds(case, hands, trials, lambda seeds: KeyedNoise(subject, seeds, columns))
    }
    parties = Trials(subject, train=dealt_train(case.parts, hands.deck), optimizer=case.parts.optimizer)
    compared = 0
    for trial in trials:
        hands.take(int(trial))
        seen: list[Ints] = []
        parties.run(
            int(hands.seeds[trial]),
            {CANARY: 1},
            initial=case.parts.method.initial,
            look=lambda _, vector, seen=seen: seen.append(vector),  # type: ignore[misc]
        )
        for round, vector in enumerate(seen, 1):
            expected = arrays.get((int(trial), round))
            if expected is not None and not np.array_equal(expected, vector):
                raise PrivacyError(
                    f"{case.name}: round {round} over arrays differs from that of the parties, so another pipeline is "
                    "attacked. This is a fault of privfl: please report it with the configuration"
                )
            compared += expected is not None
    return compared
