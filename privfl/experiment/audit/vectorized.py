"""All trials of an audit at once: the plan's own encoding, noise and clip over arrays, without sessions.

A secure sum returns the exact sum of the survivors' integers, so a round is a sum of contributions, noise shares and
the opener's noise. Noise comes from the plan's own `RoundNoise`. It is sampled for many trials in one call, or, to
compare a trial with the parties bit by bit, with the keys that the parties use.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from privfl.dp import CorrelatedNoise, RoundNoise, Slot
from privfl.dp.correlated import simulated_secret, streams_of
from privfl.dp.noise.sampler import seeded_entropy
from privfl.dp.noise.skellam import skellam
from privfl.dp.noise.toeplitz import ToeplitzNoise
from privfl.experiment.audit.canaries import Role, contribution
from privfl.experiment.audit.parties import roles_in
from privfl.experiment.audit.subject import CANARY, Subject
from privfl.fl.client import NOISE_STREAM, client_rng
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan
from privfl.fl.sampling import EveryoneSampler
from privfl.ring import Ints
from privfl.wire import ClientId

Presence = npt.NDArray[np.int8]
"""+1 or -1 for each canary that contributes in a trial, 0 for one that does not: int8 `[trials, canaries]`."""

_BULK: Final = 1 << 22
"""Noise samples of one call."""


class NoiseSource(Protocol):
    """The source of a round's noise, for several trials with cohorts of one size."""

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
    """

    def __init__(self, subject: Subject, seeds: npt.NDArray[np.int64], columns: npt.NDArray[np.intp]) -> None:
        self._subject, self._seeds, self._columns = subject, seeds, columns
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
            dataclasses.replace(plan, seed=int(self._seeds[i])).add_noise(scheme, client, zeros)[self._columns]
            for i, client in zip(trials, clients, strict=True)
        ]
        return np.array(made, np.int64).reshape(len(trials), len(self._columns))

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
            made.append(dataclasses.replace(plan, seed=seed).opening(scheme, noise)(zeros, stay)[self._columns])
        return np.array(made, np.int64).reshape(len(trials), len(self._columns))

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
        found = np.zeros((3, len(trials), len(self._columns)), np.int64)
        for at, (i, roster, stay) in enumerate(zip(trials, rosters, survivors, strict=True)):
            noise = dataclasses.replace(plan, seed=int(self._seeds[i])).noise(self._subject.scheme).mesh
            assert noise is not None  # noqa: S101 - such a cohort opens
            for me in stay:
                others = [other for other in roster if other != me]
                for other, part in noise.parts(me, others, length, own=os.urandom, pair=lambda _: os.urandom):
                    found[0, at] += part[self._columns]
                    found[1, at] += part[self._columns] * (me in known or other in known)
            filled = noise.fill(np.zeros(length, np.int64), len(roster), len(stay))
            found[2, at] = filled[self._columns]
        return found[0], found[1], found[2]


class BulkNoise:
    """The noise of all trials in few calls of the same samplers, from a seeded stream.

    Args:
        subject: What is audited.
        seed: The seed of the audit, with words that distinguish its parts.
        columns: The number of columns of the vector that are sampled.
        trials: The number of trials.
    """

    def __init__(self, subject: Subject, seed: tuple[int, ...], columns: int, trials: int) -> None:
        self._subject, self._seed, self._columns, self._calls = subject, seed, columns, 0
        self._toeplitz = ToeplitzNoise(trials * columns, streams_of(simulated_secret(*seed)))
        self._in_round = 0, np.zeros((0, columns), np.int64)

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
                self._in_round = plan.round, self._toeplitz.sample(stddev, plan.round).reshape(-1, self._columns)
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

        Args:
            plan: The plan of the round.
            trials: The trials.
            rosters: The clients that start the sum of each trial, equally many in all.
            survivors: The survivors of each trial, equally many in all.
        """
        noise, known = plan.noise(self._subject.scheme).mesh, self._subject.known
        assert noise is not None  # noqa: S101 - such a cohort opens
        size, present = len(rosters[0]), len(survivors[0])
        honest, inside = len(set(rosters[0]) - known), len(survivors[0] - known)
        total = noise.total_variance(size, present)
        hidden = inside * (noise.own_variance(size) + (honest - inside) * noise.pair_variance(size))

        def sample(variance: float) -> Ints:
            shape, entropy = (len(trials), self._columns), seeded_entropy(*self._key(plan.round))
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
        wide = dataclasses.replace(noise, slots=(Slot("all", count * self._columns, noise.norm_bound, 1.0),))
        return sample(wide, np.zeros(count * self._columns, np.int64)).reshape(count, self._columns)


def touched_columns(subject: Subject) -> npt.NDArray[np.intp]:
    """The columns that some canary's contribution touches, and all outside of the update.

    The noise is independent in every column, so the others hold nothing.
    """
    columns = set(subject.side_columns().tolist())
    rng = np.random.default_rng(0)
    for client in range(subject.canaries):
        for axis in range(subject.axes):
            vector = contribution(subject.encoding, Role(client + axis, 1), rng)
            columns |= set(np.flatnonzero(vector).tolist())
    return np.array(sorted(columns), np.intp)


def vectorized_looks(
    subject: Subject,
    seeds: npt.NDArray[np.int64],
    presence: Presence,
    noise: NoiseSource,
    columns: npt.NDArray[np.intp],
) -> Iterator[Ints]:
    """Yield what the observer sees in each round of each trial, int64 `[trials, columns]`.

    Args:
        subject: What is audited, with seeded noise.
        seeds: The seed of each trial.
        presence: Which canaries contribute in which trial.
        noise: Where the noise comes from.
        columns: The columns of the vector that are kept.
    """
    trials = len(seeds)
    clips = [subject.encoding.clip.clip_norm if subject.adaptive else None] * trials
    for round in range(1, subject.rounds + 1):
        looks = np.zeros((trials, len(columns)), np.int64)
        for plan, group, cohorts in _groups(subject, seeds, presence, round):
            survivors = [subject.survivors(cohort) for cohort in cohorts]
            total = _contributions(
                subject, seeds, presence, round=round, group=group, survivors=survivors, clips=clips
            )[:, columns]
            canary = total + 0 if subject.view == "vectors" else None
            known = np.zeros_like(total)
            ranked = [_ranked(subject, stay) for stay in survivors]
            for place in range(len(ranked[0])):
                clients = [rank[place] for rank in ranked]
                share = noise.client(plan, group, clients)
                total += share
                if clients[0] in subject.known:
                    known += share
                if canary is not None and clients[0] == CANARY:
                    canary += share
            if subject.mechanism.placement == "mesh":
                started = cohorts if subject.drop_step else [tuple(sorted(stay)) for stay in survivors]
                added, heard, filled = noise.mesh(plan, group, started, survivors)
                total, known = total + added, known + heard
                released = total + filled
            else:
                released = total + noise.opener(plan, group, survivors)
            if subject.adaptive:
                _follow(subject, plan, clips, group=group, released=released, columns=columns)
            if canary is not None:
                looks[group] = canary
            else:
                looks[group] = (total if subject.view == "sum" else released) - known
        yield looks


def _groups(
    subject: Subject, seeds: npt.NDArray[np.int64], presence: Presence, round: int
) -> Iterator[tuple[RoundPlan, npt.NDArray[np.intp], list[tuple[ClientId, ...]]]]:
    """The trials whose cohorts look alike to the noise, with a plan that holds for all, and their cohorts."""
    shapes: dict[tuple[int, int, int], list[int]] = {}
    cohorts: list[tuple[ClientId, ...]] = []
    memory: dict[bytes, tuple[ClientId, ...]] = {}
    everyone = isinstance(subject.sampler, EveryoneSampler)
    known = subject.known
    for i, seed in enumerate(seeds):
        there = presence[i].tobytes()
        cohort = memory.get(there) if everyone else None
        if cohort is None:
            present = frozenset(int(c) for c in np.flatnonzero(presence[i]))
            cohort = memory[there] = subject.cohort(int(seed), round, present)
        cohorts.append(cohort)
        if subject.opens(len(cohort)):
            shape = (len(cohort), sum(c < subject.canaries for c in cohort), len(known.intersection(cohort)))
            shapes.setdefault(shape, []).append(i)
    width = max(1, _BULK // subject.encoding.total_length)
    for members in shapes.values():
        plan = subject.plan(cohorts[members[0]], round=round, seed=0)
        for start in range(0, len(members), width):
            group = np.array(members[start : start + width], np.intp)
            yield plan, group, [cohorts[i] for i in group]


def _ranked(subject: Subject, survivors: frozenset[ClientId]) -> list[ClientId]:
    """The survivors whose noise is sampled: canaries, then known clients, then others; nobody without own noise."""
    if subject.mechanism.placement in ("central", "mesh"):
        return []
    known = subject.known
    return sorted(survivors, key=lambda client: (client >= subject.canaries, client not in known, client))


def _contributions(
    subject: Subject,
    seeds: npt.NDArray[np.int64],
    presence: Presence,
    *,
    round: int,
    group: npt.NDArray[np.intp],
    survivors: list[frozenset[ClientId]],
    clips: list[float | None],
) -> Ints:
    """The sum of the canaries' contributions in each trial, int64 `[trials, total_length]`."""
    single = subject.adaptive or subject.encoding.rounding == "stochastic"
    memory: dict[Role, Ints] = {}
    out = np.zeros((len(group), subject.encoding.total_length), np.int64)
    for at, (i, stay) in enumerate(zip(group, survivors, strict=True)):
        signs = {int(c): int(presence[i, c]) for c in np.flatnonzero(presence[i]) if int(c) in stay}
        encoding = subject.encoding.in_round(clips[i]) if signs else subject.encoding
        for client, role in roles_in(subject, round, signs).items():
            if single or role not in memory:
                rng = client_rng(int(seeds[i]), round, client)
                memory[role] = contribution(encoding, role, rng)
            out[at] += memory[role]
    return out


def _follow(
    subject: Subject,
    plan: RoundPlan,
    clips: list[float | None],
    *,
    group: npt.NDArray[np.intp],
    released: Ints,
    columns: npt.NDArray[np.intp],
) -> None:
    """Move each trial's clip norm on by its released indicator."""
    denominator, whole = plan.denominator, np.zeros(plan.encoding.total_length, np.int64)
    assert denominator is not None  # noqa: S101 - a plan that claims privacy has a public denominator
    for i, row in zip(group, released, strict=True):
        encoding: UpdateEncoding = subject.encoding.in_round(clips[i])
        whole[columns] = row
        clips[i] = encoding.next_clip_norm(whole, denominator)
