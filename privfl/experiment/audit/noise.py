"""The noise of many trials at once: from the plan's own `RoundNoise`, with the parties' keys or in few calls."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from privfl.dp import CorrelatedNoise, RoundNoise, Slot
from privfl.dp.correlated import simulated_secret, streams_of
from privfl.dp.noise.sampler import seeded_entropy
from privfl.dp.noise.skellam import skellam
from privfl.dp.noise.toeplitz import ToeplitzNoise
from privfl.experiment.audit.subject import CANARY, Subject
from privfl.fl.client import NOISE_STREAM
from privfl.fl.plan import RoundPlan
from privfl.ring import Ints
from privfl.wire import ClientId


class NoiseSource(Protocol):
    """The source of a round's noise, for several trials with cohorts of one size."""

    @property
    def columns(self) -> npt.NDArray[np.intp]:
        """The columns of the vector that are kept."""
        ...

    def client(self, plan: RoundPlan, trials: npt.NDArray[np.intp], clients: list[ClientId]) -> Ints:
        """The noise of one client in each trial, int64 `[trials, columns]`.

        Args:
            plan: The plan of the round.
            trials: The trials.
            clients: The client in each trial.
        """
        ...

    def opener(self, plan: RoundPlan, trials: npt.NDArray[np.intp], survivors: list[frozenset[ClientId]]) -> Ints:
        """The noise that the opener adds in each trial, int64 `[trials, columns]`.

        Args:
            plan: The plan of the round.
            trials: The trials.
            survivors: The survivors of each trial.
        """
        ...

    def mesh(
        self,
        plan: RoundPlan,
        trials: npt.NDArray[np.intp],
        rosters: list[tuple[ClientId, ...]],
        survivors: list[frozenset[ClientId]],
    ) -> tuple[Ints, Ints, Ints]:
        """Mesh noise in each trial: all of it, the part that the observer knows, and what the server fills up.

        Args:
            plan: The plan of the round.
            trials: The trials.
            rosters: The clients that start the sum of each trial.
            survivors: The survivors of each trial.
        """
        ...


class KeyedNoise:
    """The noise of each trial with the keys that its parties use.

    Args:
        subject: What is audited.
        seeds: The seed of each trial.
        columns: The columns of the vector that are kept.
        members: The members of mesh noise by (trial, round), which the keys of a sum choose; all clients by default.
    """

    def __init__(
        self,
        subject: Subject,
        seeds: npt.NDArray[np.int64],
        columns: npt.NDArray[np.intp],
        members: Mapping[tuple[int, int], frozenset[ClientId]] | None = None,
    ) -> None:
        self._subject, self._seeds, self.columns = subject, seeds, columns
        self._members = members or {}
        self._correlated: dict[int, CorrelatedNoise] = {}

    def client(self, plan: RoundPlan, trials: npt.NDArray[np.intp], clients: list[ClientId]) -> Ints:
        """See `NoiseSource.client`.

        Args:
            plan: The plan of the round, with any seed.
            trials: The trials.
            clients: The client in each trial.
        """
        zeros, scheme = np.zeros(plan.encoding.total_length, np.int64), self._subject.scheme
        made = [
            dataclasses.replace(plan, seed=int(self._seeds[i])).add_noise(scheme, client, zeros)[self.columns]
            for i, client in zip(trials, clients, strict=True)
        ]
        return np.array(made, np.int64).reshape(len(trials), len(self.columns))

    def opener(self, plan: RoundPlan, trials: npt.NDArray[np.intp], survivors: list[frozenset[ClientId]]) -> Ints:
        """See `NoiseSource.opener`.

        Args:
            plan: The plan of the round, with any seed.
            trials: The trials.
            survivors: The survivors of each trial.
        """
        zeros, scheme = np.zeros(plan.encoding.total_length, np.int64), self._subject.scheme
        made = []
        for i, stay in zip(trials.tolist(), survivors, strict=True):
            seed = int(self._seeds[i])
            noise = None if plan.mechanism.correlation == "none" else CorrelatedNoise(key=(seed,))
            noise = self._correlated.setdefault(i, noise) if noise is not None else None
            made.append(dataclasses.replace(plan, seed=seed).opening(scheme, noise)(zeros, stay)[self.columns])
        return np.array(made, np.int64).reshape(len(trials), len(self.columns))

    def mesh(
        self,
        plan: RoundPlan,
        trials: npt.NDArray[np.intp],
        rosters: list[tuple[ClientId, ...]],
        survivors: list[frozenset[ClientId]],
    ) -> tuple[Ints, Ints, Ints]:
        """See `NoiseSource.mesh`.

        Args:
            plan: The plan of the round, with any seed.
            trials: The trials.
            rosters: The clients that start the sum of each trial.
            survivors: The survivors of each trial.
        """
        length, known = plan.encoding.total_length, self._subject.known
        found = np.zeros((3, len(trials), len(self.columns)), np.int64)
        for at, (i, roster, stay) in enumerate(zip(trials, rosters, survivors, strict=True)):
            noise = dataclasses.replace(plan, seed=int(self._seeds[i])).noise(self._subject.scheme).mesh
            assert noise is not None  # noqa: S101 - such a cohort opens
            members = self._members.get((int(i), plan.round), frozenset(roster))
            for me in sorted(stay & members):
                others = [other for other in roster if other != me and other in members]
                for other, part in noise.parts(me, others, length, own=os.urandom, pair=lambda _: os.urandom):
                    found[0, at] += part[self.columns]
                    found[1, at] += part[self.columns] * (me in known or other in known)
            filled = noise.fill(np.zeros(length, np.int64), len(members), len(stay & members))
            found[2, at] = filled[self.columns]
        return found[0], found[1], found[2]


class BulkNoise:
    """The noise of all trials in few calls of the same samplers, from a seeded stream.

    Args:
        subject: What is audited.
        seed: The seed of the audit, with words that distinguish its parts.
        columns: The columns of the vector that are kept.
        trials: The number of trials.
    """

    def __init__(self, subject: Subject, seed: tuple[int, ...], columns: npt.NDArray[np.intp], trials: int) -> None:
        self._subject, self._seed, self.columns, self._calls = subject, seed, columns, 0
        self._toeplitz = ToeplitzNoise(trials * len(columns), streams_of(simulated_secret(*seed)))
        self._in_round = 0, np.zeros((0, len(columns)), np.int64)

    def client(self, plan: RoundPlan, trials: npt.NDArray[np.intp], clients: list[ClientId]) -> Ints:
        """See `NoiseSource.client`.

        Args:
            plan: The plan of the round.
            trials: The trials.
            clients: Not used: the noise of every client follows one law.
        """
        return self._sample(plan, len(trials), lambda noise, zeros: noise.contribute(zeros, key=self._key(plan.round)))

    def opener(self, plan: RoundPlan, trials: npt.NDArray[np.intp], survivors: list[frozenset[ClientId]]) -> Ints:
        """See `NoiseSource.opener`.

        Args:
            plan: The plan of the round.
            trials: The trials.
            survivors: The survivors of each trial, equally many in all.
        """
        if plan.mechanism.correlation != "none":
            if self._in_round[0] != plan.round:  # of all trials at once: a trial's group may change from round to round
                stddev = plan.noise(self._subject.scheme).noise_stddev
                self._in_round = plan.round, self._toeplitz.sample(stddev, plan.round).reshape(-1, len(self.columns))
            return self._in_round[1][trials]
        return self._sample(
            plan,
            len(trials),
            lambda noise, zeros: noise.opening(key=self._key(plan.round))(zeros, survivors[0]),
        )

    def mesh(
        self,
        plan: RoundPlan,
        trials: npt.NDArray[np.intp],
        rosters: list[tuple[ClientId, ...]],
        survivors: list[frozenset[ClientId]],
    ) -> tuple[Ints, Ints, Ints]:
        """See `NoiseSource.mesh`. The part that the observer knows is independent of the rest, and has its own law.

        Where not all are members, those that the observer knows are, and those that drop out are: a lying server can
        choose the roster.

        Args:
            plan: The plan of the round.
            trials: The trials.
            rosters: The clients that start the sum of each trial, equally many in all.
            survivors: The survivors of each trial, equally many in all.
        """
        noise, known = plan.noise(self._subject.scheme).mesh, self._subject.known
        assert noise is not None  # noqa: S101 - such a cohort opens
        size = min(noise.members, len(rosters[0]))
        present = size - (len(rosters[0]) - len(survivors[0]))
        honest, inside = size - len(known.intersection(rosters[0])), present - len(known & survivors[0])
        total = noise.total_variance(size, present)
        hidden = inside * (noise.own_variance(size) + (honest - inside) * noise.pair_variance(size))

        def sample(variance: float) -> Ints:
            shape, entropy = (len(trials), len(self.columns)), seeded_entropy(*self._key(plan.round))
            if variance <= total * 2.0**-40:
                return np.zeros(shape, np.int64)
            return skellam(variance, shape[0] * shape[1], entropy=entropy).reshape(shape)

        heard = sample(total - hidden)
        return sample(hidden) + heard, heard, sample(noise.constant - total if noise.constant else 0.0)

    def _key(self, round: int) -> tuple[int, ...]:
        self._calls += 1
        return (*self._seed, round, self._calls, NOISE_STREAM)

    def _sample(self, plan: RoundPlan, count: int, sample: Callable[[RoundNoise, Ints], Ints]) -> Ints:
        noise = plan.noise(self._subject.scheme)
        wide = dataclasses.replace(noise, slots=(Slot("all", count * len(self.columns), noise.norm_bound, 1.0),))
        return sample(wide, np.zeros(count * len(self.columns), np.int64)).reshape(count, len(self.columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNoise:
    """The noise of one round in several trials, int64 `[trials, columns]` each.

    Attributes:
        shares: The noise of all clients, as the sum holds it.
        canary: The noise of the canary alone.
        known: The part of `shares` that the observer knows.
        opened: The noise that the opener adds.
    """

    shares: Ints
    canary: Ints
    known: Ints
    opened: Ints


def group_noise(
    subject: Subject,
    plan: RoundPlan,
    group: npt.NDArray[np.intp],
    *,
    cohorts: list[tuple[ClientId, ...]],
    survivors: list[frozenset[ClientId]],
    source: NoiseSource,
) -> GroupNoise:
    """The noise of a round in trials whose cohorts look alike to it.

    Args:
        subject: What is audited.
        plan: The plan of the round, for any of the trials.
        group: The trials.
        cohorts: The cohort of each trial.
        survivors: The survivors of each trial.
        source: Where the noise comes from.
    """
    shape = (len(group), len(source.columns))
    shares, canary, known = (np.zeros(shape, np.int64) for _ in range(3))
    ranked = [_ranked(subject, stay) for stay in survivors]
    for place in range(len(ranked[0])):
        clients = [rank[place] for rank in ranked]
        share = source.client(plan, group, clients)
        shares += share
        if clients[0] in subject.known:
            known += share
        if clients[0] == CANARY:
            canary += share
    if subject.mechanism.placement == "mesh":
        started = cohorts if subject.drop_step else [tuple(sorted(stay)) for stay in survivors]
        added, heard, opened = source.mesh(plan, group, started, survivors)
        shares, known = shares + added, known + heard
    else:
        opened = source.opener(plan, group, survivors)
    return GroupNoise(shares=shares, canary=canary, known=known, opened=opened)


def _ranked(subject: Subject, survivors: frozenset[ClientId]) -> list[ClientId]:
    """The survivors whose noise is sampled: canaries, then known clients, then others; nobody without own noise."""
    if subject.mechanism.placement in ("central", "mesh"):
        return []
    known = subject.known
    return sorted(survivors, key=lambda client: (client >= subject.canaries, client not in known, client))
