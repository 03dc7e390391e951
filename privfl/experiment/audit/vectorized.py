"""All trials of an audit at once: the plan's own encoding, noise and clip over arrays, without sessions.

A secure sum returns the exact sum of the survivors' integers, so a round is a sum of contributions, noise shares and
the opener's noise. Noise comes from the plan's own `RoundNoise`. It is sampled for many trials in one call, or, to
compare a trial with the parties bit by bit, with the keys that the parties use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from privfl.experiment.audit.canaries import Role, contribution
from privfl.experiment.audit.noise import NoiseSource, group_noise
from privfl.experiment.audit.parties import roles_in
from privfl.experiment.audit.subject import Subject
from privfl.fl.client import client_rng
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.plan import RoundPlan
from privfl.fl.sampling import EveryoneSampler
from privfl.ring import Ints
from privfl.wire import ClientId

Presence = npt.NDArray[np.int8]
"""+1 or -1 for each canary that contributes in a trial, 0 for one that does not: int8 `[trials, canaries]`."""

_BULK: Final = 1 << 22
"""Noise samples of one call."""


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
        for plan, group, cohorts in trial_groups(subject, seeds, presence, round):
            survivors = [subject.survivors(cohort) for cohort in cohorts]
            total = _contributions(
                subject, seeds, presence, round=round, group=group, survivors=survivors, clips=clips
            )[:, columns]
            noised = group_noise(subject, plan, group, cohorts=cohorts, survivors=survivors, source=noise)
            released = total + noised.shares + noised.opened
            if subject.adaptive:
                _follow(subject, plan, clips, group=group, released=released, columns=columns)
            if subject.view == "vectors":
                looks[group] = total + noised.canary
            else:
                looks[group] = (total + noised.shares if subject.view == "sum" else released) - noised.known
        yield looks


def trial_groups(
    subject: Subject, seeds: npt.NDArray[np.int64], presence: Presence, round: int
) -> Iterator[tuple[RoundPlan, npt.NDArray[np.intp], list[tuple[ClientId, ...]]]]:
    """The trials whose cohorts look alike to the noise, with a plan that holds for all, and their cohorts.

    Args:
        subject: What is audited.
        seeds: The seed of each trial.
        presence: Which canaries contribute in which trial.
        round: The round.
    """
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
