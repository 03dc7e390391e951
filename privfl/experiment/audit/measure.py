"""The audit of a run: trials in two worlds, a test that was trained on half of them, and bounds from the other half."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from privfl.checks import check_choice
from privfl.dp import Accountant, ElementClip, EpsilonReport, History, LayerClip, PrivacyUnit
from privfl.dp.accounting.audit import Floats, one_run_bound
from privfl.dp.accounting.scores import Discriminant, Scores, StatedCurve, lies_above, score_bounds
from privfl.dp.release import SHARED
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.answers import ROUND as ANSWERS
from privfl.experiment.audit.canaries import Role, contribution
from privfl.experiment.audit.features import Features
from privfl.experiment.audit.honest import HonestFeatures
from privfl.experiment.audit.noise import BulkNoise, KeyedNoise
from privfl.experiment.audit.parties import Trials
from privfl.experiment.audit.result import AuditResult
from privfl.experiment.audit.subject import CANARY, AuditedDropouts, Subject
from privfl.experiment.audit.sums import audit_sums
from privfl.experiment.audit.vectorized import Presence, touched_columns, vectorized_looks
from privfl.experiment.experiment import Experiment
from privfl.fl.plan import RoundPlan
from privfl.observers import Observer
from privfl.ring import Ints

CanaryKind = Literal["worst", "gradient", "data"]
CANARIES: Final[tuple[CanaryKind, ...]] = get_args(CanaryKind)

ProgressCallback = Callable[[int, int], None]
"""(steps that are done, all steps)."""

_ONE_RUN: Final = 4000
_GUESSES: Final = 0.1
_STREAM: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """The size and the kind of an audit.

    Attributes:
        trials: The pairs of trials; half of them train the test, the other half is counted.
        canary: "worst" contributes the clip norm in one direction and the bound of every other slot, next to clients
            that contribute zeros. "gradient" contributes the clip norm along a random direction, next to clients that
            train. "data" trains on its own examples, as all do.
        dropouts: "fewest" lets as many clients drop out as the sum survives, "none" lets nobody.
        parties: True runs every trial through the parties; "gradient" and "data" always do.
        check: The trials that are run in both ways and compared to the last bit.
        one_run: True adds the bound from many canaries in one training.
        alpha: The probability with which any of the bounds may fail.
        seed: The seed of the trials.

    Raises:
        ConfigError: If a number is out of range, or the kind of canary is unknown.
    """

    trials: int = 10_000
    canary: CanaryKind = "worst"
    dropouts: AuditedDropouts = "fewest"
    parties: bool = False
    check: int = 4
    one_run: bool = True
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("canary", self.canary, CANARIES)
        check_choice("dropouts", self.dropouts, ("fewest", "none"))
        if self.trials < 20:
            raise ConfigError(f"an audit needs at least 20 pairs of trials, not {self.trials}: raise --trials")
        if self.check < 0 or not 0 < self.alpha < 1:
            raise ConfigError(f"check is at least 0 and alpha in (0, 1), not {self.check} and {self.alpha!r}")


def audit(
    experiment: Experiment,
    *,
    observer: Observer = "outsider",
    plan: AuditPlan | None = None,
    history: History | None = None,
    rounds: int | None = None,
    delta: float | None = None,
    progress: ProgressCallback | None = None,
) -> AuditResult:
    """Measure a lower bound on the epsilon of an experiment, next to the stated one.

    Args:
        experiment: What is audited; it is not run, and nothing is charged to its ledger.
        observer: Against whom the stated epsilon holds.
        plan: The size and the kind of the audit; by default 10^4 pairs with the worst canary.
        history: What was released; by default what the planned rounds would release.
        rounds: The rounds of one trial; by default those in which one client can take part.
        delta: The delta of the statement; by default the experiment's.
        progress: Called as the trials go on.

    Returns:
        The stated figure and the lower bounds.

    Raises:
        ConfigError: If nothing is promised against the observer, or the settings allow no trial.
        PrivacyError: If the vectorized rounds differ from those of the parties.
    """
    plan = AuditPlan() if plan is None else plan
    parts = experiment.parts
    history = parts.planned(parts.config.rounds) if history is None else history
    chosen = parts.delta if delta is None else delta
    group = parts.config.privacy.sites_per_person
    stated = Accountant(chosen, observer=observer, assume_secure_noise=True, group=group).report(history)
    if math.isinf(stated.epsilon):
        raise ConfigError(f"there is no epsilon to audit. {stated.sentence}")
    if parts.unit.level == "example":
        steps = rounds or history.count
        return audit_sums(
            parts, stated=stated, history=history, observer=observer, plan=plan, rounds=steps, progress=progress
        )
    subject = Subject.of(parts, observer=observer, dropouts=plan.dropouts, rounds=rounds or _rounds(history, observer))
    return audit_subject(subject, stated=stated, history=history, plan=plan, experiment=experiment, progress=progress)


def audit_subject(
    subject: Subject,
    *,
    stated: EpsilonReport,
    history: History,
    plan: AuditPlan,
    experiment: Experiment | None = None,
    progress: ProgressCallback | None = None,
) -> AuditResult:
    """Audit parts that were put together by hand; see `audit`.

    Args:
        subject: The parts and the observer.
        stated: The stated epsilon.
        history: What was released.
        plan: The size and the kind of the audit.
        experiment: The training of the clients, for canaries next to clients that train.
        progress: Called as the trials go on.
    """
    if not subject.mechanism.claims:
        raise ConfigError("privacy.placement = 'none' states no epsilon to audit: set privacy.placement")
    started = time.perf_counter()
    steps = _Steps(progress, subject, plan)
    without, present = _both_worlds(subject, plan, steps, experiment)
    half = plan.trials // 2
    fit = Discriminant.fit(without[:half], present[:half])
    training = Scores(without=fit(without[:half]), present=fit(present[:half]))
    test = Scores(without=fit(without[half:]), present=fit(present[half:]))
    one_run = _wants_one_run(subject, plan)
    claims = 2 + (not subject.hidden) + one_run  # the distribution-free bound, the curve, and the others
    alpha = plan.alpha / claims
    gaussian, free = score_bounds(training, test, delta=stated.delta, alpha=alpha)
    bounds = [free] if subject.hidden else [gaussian, free]
    checked = 0 if plan.parties or plan.canary != "worst" else check_against_parties(subject, plan)
    if one_run:
        correct, guesses, canaries = _one_run(subject, plan, steps)
        bounds.append(one_run_bound(correct, guesses, canaries, delta=stated.delta, alpha=alpha))
    curve = StatedCurve.of(
        lambda delta: Accountant(delta, observer=subject.observer, assume_secure_noise=True).spent(history, quick=True)
    )
    return AuditResult(
        stated=stated,
        bounds=tuple(bounds),
        trials=plan.trials,
        rounds=subject.rounds,
        dropouts=plan.dropouts,
        canary=plan.canary,
        checked=checked,
        curve=tuple(curve.points()),
        points=tuple(test.curve()),
        above_curve=lies_above(curve, training, test, alpha=alpha),
        confidence=1 - plan.alpha,
        seconds=time.perf_counter() - started,
        seed=plan.seed,
    )


class _Steps:
    """Counts the steps of an audit for its progress."""

    def __init__(self, progress: ProgressCallback | None, subject: Subject, plan: AuditPlan) -> None:
        self._progress, self._done = progress, 0
        per_world = plan.trials if _through_parties(plan) else subject.rounds
        more = subject.rounds if _wants_one_run(subject, plan) else 0
        self._all = 2 * per_world + more

    def advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._all)


def _wants_one_run(subject: Subject, plan: AuditPlan) -> bool:
    return plan.one_run and plan.canary == "worst" and not subject.hidden


def _through_parties(plan: AuditPlan) -> bool:
    return plan.parties or plan.canary != "worst"


def _rounds(history: History, observer: Observer) -> int:
    """The rounds that train and in which one client can take part: all of them, or those of the client in most."""
    trained = ((drawn, times) for drawn, times in history.rounds if drawn.draw is None or drawn.draw.round != ANSWERS)
    history = History(history.unit, tuple(trained))
    once = any(drawn.once for drawn, _ in history.rounds)  # a client of the first round is in the noise of all others
    if observer == "outsider" or once or any(release.participants is None for release in history.releases):
        return max(1, history.count)
    counts: dict[int, int] = {}
    for drawn, times in history.rounds:
        for client in {c for release in drawn.releases for c in release.participants or ()}:
            counts[client] = counts.get(client, 0) + times
    return max([1, *counts.values()])


def _seeds(plan: AuditPlan, world: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([plan.seed, world, _STREAM]).integers(0, 2**63 - 1, count)


def _signs(subject: Subject, world: int) -> int:
    """The canary's sign in a world: absent or silent without it, except that `replace_one` has other data there."""
    return 1 if world else (-1 if subject.adjacency == "replace_one" else 0)


def _both_worlds(
    subject: Subject, plan: AuditPlan, steps: _Steps, experiment: Experiment | None
) -> tuple[Floats, Floats]:
    worlds = []
    for world in (0, 1):
        seeds, sign = _seeds(plan, world, plan.trials), _signs(subject, world)
        if plan.canary != "worst":
            worlds.append(_honest(subject, plan, seeds, sign, steps=steps, experiment=experiment))
        elif plan.parties:
            worlds.append(_parties(subject, seeds, sign, steps))
        else:
            worlds.append(_vectorized(subject.seeded, seeds, sign, steps=steps, key=(plan.seed, world)))
    return worlds[0], worlds[1]


def _vectorized(
    subject: Subject, seeds: npt.NDArray[np.int64], sign: int, *, steps: _Steps, key: tuple[int, ...]
) -> Floats:
    columns = touched_columns(subject)
    features = Features.of(subject, columns)
    presence = np.full((len(seeds), 1), sign, np.int8)
    noise = BulkNoise(subject, key, columns, len(seeds))
    rows = []
    for round, looks in enumerate(vectorized_looks(subject, seeds, presence, noise, columns), 1):
        rows.append(features.of_round(round, looks, seeds))
        steps.advance()
    return np.concatenate(rows, axis=1)


def _parties(subject: Subject, seeds: npt.NDArray[np.int64], sign: int, steps: _Steps) -> Floats:
    columns = touched_columns(subject)
    features, trials, rows = Features.of(subject, columns), Trials(subject), list[Floats]()
    for seed in seeds:
        looks = _looks(trials, int(seed), sign)
        one = np.array([seed])
        rounds = [features.of_round(n, look[None, columns], one)[0] for n, look in enumerate(looks, 1)]
        rows.append(np.concatenate(rounds))
        steps.advance()
    return np.array(rows)


def _looks(
    trials: Trials,
    seed: int,
    sign: int,
    *,
    members: dict[tuple[int, int], frozenset[int]] | None = None,
    trial: int = 0,
) -> list[Ints]:
    """The observer's view in each round of one trial; the members of mesh noise are noted by (trial, round)."""
    seen: list[Ints] = []

    def look(plan: RoundPlan, vector: Ints) -> None:
        seen.append(vector)
        if members is not None and trials.members:
            members[trial, plan.round] = trials.members

    trials.run(seed, {CANARY: sign} if sign else {}, look=look)
    return seen


def _honest(
    subject: Subject,
    plan: AuditPlan,
    seeds: npt.NDArray[np.int64],
    sign: int,
    *,
    steps: _Steps,
    experiment: Experiment | None,
) -> Floats:
    if experiment is None:
        raise ConfigError(f"a {plan.canary!r} canary stands next to clients that train: give the experiment")
    honest, rows = HonestFeatures(subject, experiment, plan.canary, seed=plan.seed), list[Floats]()
    for seed in seeds:
        rows.append(honest.trial(int(seed), sign))
        steps.advance()
    return np.array(rows)


def check_against_parties(subject: Subject, plan: AuditPlan) -> int:
    """Run trials through the parties and through arrays, and compare what the observer sees to the last bit.

    Args:
        subject: What is audited.
        plan: The audit: `check` and `seed`.

    Returns:
        The number of trials that were compared.

    Raises:
        PrivacyError: If they differ.
    """
    if not plan.check:
        return 0
    subject = subject.seeded
    seeds = _seeds(plan, 2, plan.check)
    presence: Presence = np.array([[_signs(subject, i % 2)] for i in range(plan.check)], np.int8)
    columns = np.arange(subject.encoding.total_length)
    trials, members, looked = Trials(subject), dict[tuple[int, int], frozenset[int]](), list[list[Ints]]()
    for i, seed in enumerate(seeds):
        looked.append(_looks(trials, int(seed), int(presence[i, 0]), members=members, trial=i))
    noise = KeyedNoise(subject, seeds, columns, members)
    arrays = list(vectorized_looks(subject, seeds, presence, noise, columns))
    for i, seen in enumerate(looked):
        if any(not np.array_equal(looks[i], look) for looks, look in zip(arrays, seen, strict=True)):
            raise PrivacyError(
                f"trial {i}: the vectorized rounds differ from the parties', so they audit another pipeline; run the "
                "trials through the parties (--parties)"
            )
    return plan.check


def _one_run(subject: Subject, plan: AuditPlan, steps: _Steps) -> tuple[int, int, int]:
    """The correct guesses, all guesses and all canaries of few trainings with many canaries, each with its direction.

    Canaries that are not included contribute zeros, or the other data of `replace_one`.
    """
    count = _canary_count(subject)
    unit = subject.unit if subject.unit.adjacency == "replace_one" else PrivacyUnit("client", "zero_out")
    many = dataclasses.replace(subject.seeded, canaries=count, steady=True, unit=unit)
    trainings = math.ceil(min(_ONE_RUN, plan.trials) / count)
    coins = np.random.default_rng([plan.seed, 3, _STREAM]).random((trainings, count)) < 0.5
    presence = np.where(coins, 1, _signs(many, 0)).astype(np.int8)
    columns, rng = touched_columns(many), np.random.default_rng(0)
    sides = np.isin(columns, many.side_columns())
    directions = np.array([contribution(many.encoding, Role(c, 1), rng)[columns] for c in range(count)], np.float64)
    directions[:, sides] = 0.0
    scores = np.zeros((trainings, count))
    seeds, noise = _seeds(plan, 3, trainings), BulkNoise(many, (plan.seed, 3), columns, trainings)
    for round, looks in enumerate(vectorized_looks(many, seeds, presence, noise, columns), 1):
        scores += many.weights[round - 1] * (looks @ directions.T)
        steps.advance()
    flat, included = scores.ravel(), coins.ravel()
    each = max(1, int(_GUESSES * len(flat) / 2))
    order = np.argsort(flat, kind="stable")
    correct = int(np.count_nonzero(included[order[-each:]]) + np.count_nonzero(~included[order[:each]]))
    return correct, 2 * each, len(flat)


def _canary_count(subject: Subject) -> int:
    """The canaries that fit one training: a direction and a place among the survivors for each."""
    if subject.view == "vectors":
        return 1
    clip, size = subject.encoding.clip, len(subject.cohort(0, 1, frozenset({CANARY})))
    directions = subject.encoding.length
    if isinstance(clip, LayerClip):
        directions = min(stop - start for start, stop in zip(clip.cuts, clip.cuts[1:], strict=False))
    elif isinstance(clip, ElementClip):
        directions = 1  # sign patterns are orthogonal for few lengths only
    fewest = subject.dropouts == "fewest" and subject.mechanism.placement in SHARED
    stay = subject.survivor_rule.opened(subject.scheme, size) if fewest else size
    others = 1 if subject.mechanism.placement == "local" else len(subject.known)
    return max(1, min(directions, stay - others))
