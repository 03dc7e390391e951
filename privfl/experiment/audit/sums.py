"""Audits of sums over examples: one example, or its copies at several sites, in steps with and without it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.dp import Accountant, EpsilonReport, History, Mechanism, RoundNoise
from privfl.dp.accounting.audit import Floats
from privfl.dp.accounting.scores import Discriminant, Scores, StatedCurve, lies_above, score_bounds
from privfl.dp.noise.sampler import rounded_gaussian
from privfl.dp.noise.skellam import skellam
from privfl.errors import ConfigError, PrivacyError
from privfl.experiment.audit.result import AuditResult
from privfl.fl.client_round import ClientRound, Contribution
from privfl.fl.examples import ExampleRule, clipped_sum, example_sum, sampled_people
from privfl.fl.plan import RUN_NONCE_BYTES, RoundPlan, model_hash
from privfl.fl.sampling import declared
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.survivors import nominal_cohort
from privfl.observers import Observer
from privfl.ring import Ints
from privfl.sums.driver import drive
from privfl.wire import ClientId

if TYPE_CHECKING:
    from privfl.experiment.assemble import Assembly
    from privfl.experiment.audit.measure import AuditPlan, ProgressCallback

_FAR: Final = 100.0
"""The canary's gradient in clip norms: the clip cuts it down."""


@dataclass(frozen=True, slots=True)
class CanaryExamples:
    """An `ExampleGradients` in which the canary is the one example of some sites, and nobody else has any.

    Attributes:
        gradient: The canary's gradient, float64 `[d]`.
        sites: The sites that hold a copy; none in the world without it.
    """

    gradient: Floats
    sites: frozenset[ClientId]

    def people(self, client: ClientId) -> int:
        """See `ExampleGradients.people`."""
        return int(client in self.sites)

    def gradients(self, model: Vector, client: ClientId, chosen: npt.NDArray[np.intp]) -> Iterator[Floats]:
        """See `ExampleGradients.gradients`.

        Args:
            model: Not used.
            client: The site.
            chosen: The numbers of the people.
        """
        yield np.tile(self.gradient, (len(chosen), 1))


def audit_sums(
    parts: Assembly,
    *,
    stated: EpsilonReport,
    history: History,
    observer: Observer,
    plan: AuditPlan,
    rounds: int,
    progress: ProgressCallback | None = None,
) -> AuditResult:
    """Measure a lower bound on the epsilon of one example in a sum over examples.

    The canary is one example whose clipped gradient lies in one entry of the model; a person at k sites
    (`privacy.sites_per_person`) is a copy at each. The observer sees that entry in every step, under the noise that the
    guarantee rests on: its own parts are taken out. Its test is the likelihood ratio of the steps.

    Args:
        parts: The parts of the experiment.
        stated: The stated epsilon.
        history: What was released.
        observer: Against whom the stated epsilon holds.
        plan: The number of trials, the trials that are compared with the parties, the confidence and the seed.
        rounds: The steps of one trial.
        progress: Called as the worlds are done.

    Raises:
        ConfigError: The canary is of another kind than "worst".
        PrivacyError: A round of the parties differs from the trials.
    """
    if plan.canary != "worst":
        raise ConfigError("in a sum over examples the canary is one example: give canary = 'worst'")
    started = time.perf_counter()
    subject = _Subject.of(parts)
    checked = subject.check(plan.check)
    worlds = []
    for world in (0, 1):
        worlds.append(subject.trials(bool(world), plan.trials, rounds))
        if progress is not None:
            progress(world + 1, 2)
    without, present = (subject.ratios(looks) for looks in worlds)
    half = plan.trials // 2
    fit = Discriminant.fit(without[:half], present[:half])
    training = Scores(without=fit(without[:half]), present=fit(present[:half]))
    test = Scores(without=fit(without[half:]), present=fit(present[half:]))
    alpha = plan.alpha / 2
    _, free = score_bounds(training, test, delta=stated.delta, alpha=alpha)
    accountant: Callable[[float], Accountant] = lambda delta: Accountant(  # noqa: E731
        delta, observer=observer, assume_secure_noise=True, group=stated.group
    )
    curve = StatedCurve.of(lambda delta: accountant(delta).spent(history, quick=True))
    return AuditResult(
        stated=stated,
        bounds=(free,),
        trials=plan.trials,
        rounds=rounds,
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


@dataclass(frozen=True, slots=True)
class _Subject:
    """The subject of an audit: a run's parts, the terms and the noise of a step, and the canary's integers."""

    parts: Assembly
    rule: ExampleRule
    noise: RoundNoise
    gradient: Floats
    units: int

    @classmethod
    def of(cls, parts: Assembly) -> _Subject:
        encoding = parts.encoding
        if encoding.examples is None:
            raise ConfigError("this run sums updates of clients: audit it as such")
        gradient = np.zeros(encoding.length)
        gradient[0] = _FAR * encoding.clip.clip_norm
        integers = clipped_sum([gradient[None]], encoding.codec, encoding.clip.clip_norm, encoding.length)
        plan = _plan(parts, parts.mechanism, parts.encoding.length, 1)
        return cls(parts, encoding.examples, plan.noise(parts.scheme), gradient, int(integers[0]))

    @property
    def copies(self) -> int:
        """The sites that hold the canary."""
        return self.parts.config.privacy.sites_per_person

    def trials(self, present: bool, count: int, rounds: int) -> Floats:
        """The canary's entry of the sum in every step of every trial, `[count, rounds]`."""
        seen = np.zeros(count * rounds)
        if present:
            for site in range(self.copies):
                seen[sampled_people(count * rounds, self.rule.probability(site), os.urandom)] += self.units
        stddev = self.noise.noise_stddev
        if self.noise.law == "skellam":
            seen += skellam(stddev**2, len(seen))
        else:
            seen += rounded_gaussian(stddev, len(seen))
        return seen.reshape(count, rounds)

    def ratios(self, looks: Floats) -> Floats:
        """The log-likelihood ratio of each trial's steps, `[count, 1]`."""
        z, q, k = self.noise.noise_stddev / self.units, self.rule.sampling.probability, self.copies
        x, terms = looks / self.units, []
        for j in range(k + 1):
            weight = math.comb(k, j) * q**j * (1 - q) ** (k - j)
            if weight > 0:
                terms.append(math.log(weight) + (2 * j * x - j * j) / (2 * z * z))
        ratios: Floats = np.logaddexp.reduce(terms).sum(axis=1)[:, None]
        return ratios

    def check(self, count: int) -> int:
        """Run steps through the parties in both worlds, with the coins and noise of a simulation, and compare the sums.

        They must differ by the canary's integers times the copies that were sampled, and in nothing else.
        """
        parts, mechanism = self.parts, replace(self.parts.mechanism, source="simulation")
        encoding = parts.encoding
        for round in range(1, count + 1):
            plan = _plan(parts, mechanism, encoding.length, round)
            sites = frozenset(plan.cohort[: self.copies])
            totals, own = list[Ints](), list[Ints]()
            for world in (frozenset[ClientId](), sites):
                contribution = Contribution(CanaryExamples(self.gradient, world), parts.scheme)
                totals.append(_released(parts, plan, contribution))
                own.append(sum((_encoded(contribution, plan, me) for me in plan.cohort), np.zeros(1, np.int64)))
            moved = own[1] - own[0]
            clean = not own[0].any() and not moved[1:].any() and -moved[0] in range(self.copies * self.units + 1)
            if not clean or moved[0] % self.units or not np.array_equal(totals[1] - totals[0], moved):
                raise PrivacyError(
                    f"step {round}: one example moved the opened sum by something else than its own clipped gradient, "
                    "so the trials audit another pipeline: report this as a fault of the sum in use"
                )
        return count


def _encoded(contribution: Contribution, plan: RoundPlan, me: ClientId) -> Ints:
    """One site's integers before its noise."""
    return example_sum(contribution.train, plan, np.zeros(plan.encoding.length), me)


def _released(parts: Assembly, plan: RoundPlan, contribution: Contribution) -> Ints:
    """The opened sum of one round of the parties."""
    model = np.zeros(plan.encoding.length)
    plan = replace(plan, run=os.urandom(RUN_NONCE_BYTES))  # a task is entered once; coins and noise stay the same
    server = ServerRound(ServerState(model), plan, scheme=parts.scheme, optimizer=parts.optimizer)
    keys: Any = parts.credentials or {}
    order = plan.to_bytes()
    clients = (
        (me, ClientRound.trained(order, model, me, contribution=contribution, credentials=keys.get(me)))
        for me in plan.cohort
    )
    drive(server, clients)
    if server.result is None:
        raise PrivacyError("a round of the parties opened nothing, and nobody dropped out")
    return server.result.total


def _plan(parts: Assembly, mechanism: Mechanism, length: int, round: int) -> RoundPlan:
    """The plan of one step of an audit, under a run of its own."""
    sampling = declared(parts.sampler, parts.clients)
    return RoundPlan(
        run=os.urandom(RUN_NONCE_BYTES),
        round=round,
        model_hash=model_hash(np.zeros(length)),
        cohort=nominal_cohort(sampling, parts.clients),
        population=parts.clients,
        sampling=sampling,
        survivor_rule=parts.survivor_rule,
        encoding=parts.encoding,
        mechanism=mechanism,
        scheme=parts.scheme.name,
        parameters=parts.scheme.parameters,
        seed=parts.config.seed,
    )
