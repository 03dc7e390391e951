"""Many rounds: choosing cohorts, paying for them, storing what came out, and going on after a crash.

A round has happened when its model is on the disk; see `store`. Its cost was reserved in the ledger before that, so a
crash in between leaves a charge that stands, and a round that is run again is charged again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from privfl.codec import Vector
from privfl.dp import Accountant, Budget, Draw, Ledger, Token
from privfl.dp.accounting.history import History
from privfl.dp.contract import check_denominator, check_metrics, check_weighting
from privfl.dp.unit import Everyone
from privfl.errors import ConfigError, PrivacyError, StateError, TooFewSurvivors
from privfl.fl.draws import DrawNotes, round_shortfall
from privfl.fl.dropout import Dropouts, nobody
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Contribution, Outcome, Parts, run_round
from privfl.fl.sampling import CohortSampler, Uniforms, seeded_uniforms
from privfl.fl.store import ModelStore, Version
from privfl.observers import Views
from privfl.sums import Tap, ignore
from privfl.wire import ClientId

IF_SECURE: Final = "epsilon_if_the_noise_were_secure"

CLIP: Final = "clip_norm"
"""The name under which an adaptive clip is stored beside the optimizer's moments."""

TELLING: Final = frozenset(
    {"attempts", "cohort", "survivors", "dropouts", "bytes_up", "bytes_down", "seconds", "caveats"}
)
"""What a report must not tell those against whom amplification by sampling is claimed: it depends on the cohort."""

Evaluate = Callable[[Vector], Mapping[str, float]]
"""Model -> metrics, computed on public data or through a secure sum."""


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round came to. `status` "skipped": too few survived, or nobody was drawn, and the model is unchanged.

    `bytes_up` and `bytes_down` count all messages of all clients; `seconds` is the wall time without evaluation.
    `epsilon` is what was spent so far against an outsider, None without a claim; unless the noise is `secure` it is
    only what that would be if it were, and its record says so in the key. `clip_norm` is what an adaptive clip was at
    in this round.
    """

    round: int
    status: Literal["trained", "skipped"]
    attempts: int
    cohort: int
    survivors: int
    dropouts: tuple[ClientId, ...]
    model: str
    parent: str
    update_norm: float
    bytes_up: int
    bytes_down: int
    seconds: float
    epsilon: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    secure: bool = True
    clip_norm: float | None = None

    def record(self) -> dict[str, Any]:
        """The report as a JSON object; without secure noise it has no key `epsilon`."""
        values = asdict(self)
        if not values.pop("secure"):
            values[IF_SECURE] = values.pop("epsilon")
        return values

    def published(self) -> dict[str, Any]:
        """The report as it may stand beside an outsider's epsilon: without what tells who, or how many, took part."""
        return {name: value for name, value in self.record().items() if name not in TELLING}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> RoundReport:
        """The report from its JSON object."""
        values = dict(record)
        if IF_SECURE in values:
            values |= {"epsilon": values.pop(IF_SECURE), "secure": False}
        for name in ("dropouts", "caveats"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Payment:
    """Where rounds are charged: the ledger, its accountant, what each observer sees, and perhaps a budget."""

    ledger: Ledger
    accountant: Accountant
    views: Views
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class FederatedRun:
    """A federation and its rules, the same in every round.

    `survivor_share` of a cohort must survive (rounded up), and `least_survivors` in any case. A round with too few is
    skipped, or tried again with the *same* cohort up to `retries` times. `uniforms` draws the coins of a round's
    cohort. `dropout` is the declared probability, at most, that a client drops out of a round, independently of all
    others; None: not declared, so sampling is not counted where a round can be skipped. `denominator` is the fixed,
    public one of a private mean; None: the survivors are counted.
    """

    population: int
    parts: Parts
    sampler: CohortSampler
    store: ModelStore
    seed: int
    survivor_share: float = 0.5
    least_survivors: int = 1
    retries: int = 0
    denominator: float | None = None
    payment: Payment | None = None
    dropouts: Dropouts = nobody
    dropout: float | None = None
    evaluate: Evaluate | None = None
    evaluate_every: int = 1
    terms: Mapping[str, object] = field(default_factory=dict)
    uniforms: Callable[[int, int], Uniforms] = seeded_uniforms
    tap: Tap = ignore

    def __post_init__(self) -> None:
        if self.population < 1:
            raise ConfigError(f"population must be at least 1, not {self.population}")
        if not 0 < self.survivor_share <= 1:
            raise ConfigError(f"survivor_share must be in (0, 1], not {self.survivor_share!r}")
        noise = self.parts.work.noise
        if noise is None or self.payment is None:
            return
        if noise.mechanism.placement != "none":
            check_denominator(self.denominator)
            check_weighting(self.parts.work.update.weighting, None)
            check_metrics([metric.name for metric in self.parts.work.update.metrics], noise.slots)
        if noise.mechanism.source == "simulation":
            return
        if self.uniforms is seeded_uniforms and not isinstance(self.sampler.declare(self.population), Everyone):
            raise PrivacyError(
                "the cohorts are drawn from the seed, which is no secret, and an epsilon that counts on sampling would "
                "rest on them: give `uniforms` drawn from a secret, such as `secret_uniforms`"
            )

    def run(self, initial: Vector, rounds: int) -> Iterator[RoundReport]:
        """Yield a report after each round, from where the store ends up to `rounds`.

        Raises `BudgetExceeded` before the first round that could cost too much; the model of the last paid round is
        in the store.
        """
        latest = self.store.latest() or self.store.save(0, initial, {}, parent="", report={})
        self._check_start(latest, initial)
        self._settle_stored(latest)
        notes = self._notes()
        for round in range(latest.round + 1, rounds + 1):
            latest, report = self._round(latest, round, notes, last=round == rounds)
            yield report

    def _check_start(self, latest: Version, initial: Vector) -> None:
        """Refuse another run's store, and, before a client is asked, releases that the accountant could not judge."""
        if latest.model.shape != initial.shape or latest.model.dtype != initial.dtype:
            raise StateError(
                f"the stored model is {latest.model.dtype} {latest.model.shape}, this run's {initial.dtype} "
                f"{initial.shape}"
            )
        if self.store.load(0).hash != model_hash(initial):
            raise StateError(f"the run in {self.store.folder} started from another model than this one")
        noise = self.parts.work.noise
        if noise is not None and self.payment is not None:
            check_charged(self.store, self.payment.ledger)
            worst = noise.worst_case(
                round=0, sampling=self.sampler.declare(self.population), views=self.payment.views, cohort=()
            )
            draw = Draw(0, worst.sampling, 0.0)
            self.payment.accountant.spent(History(self.payment.ledger.unit).after(draw, worst))

    def _round(
        self, latest: Version, round: int, notes: DrawNotes | None, *, last: bool
    ) -> tuple[Version, RoundReport]:
        started, traffic = time.perf_counter(), _Traffic(self.tap)
        self._draw(round, notes)
        cohort = self.sampler.sample(self.population, self.uniforms(self.seed, round))
        outcome, attempts, token = self._attempt(latest, round, cohort, traffic)
        seconds = time.perf_counter() - started
        survivors = outcome.sum.survivors if outcome else frozenset()
        model, moments = (outcome.model, outcome.moments) if outcome else (latest.model, latest.moments)
        if outcome is not None and outcome.next_clip is not None:
            moments = {**moments, CLIP: np.array([outcome.next_clip])}
        report = RoundReport(
            round=round,
            status="trained" if outcome else "skipped",
            attempts=attempts,
            cohort=len(cohort),
            survivors=len(survivors),
            dropouts=tuple(client for client in cohort if client not in survivors),
            model=model_hash(model),
            parent=latest.hash,
            update_norm=outcome.update_norm if outcome else 0.0,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            seconds=seconds,
            epsilon=self._spent(),
            metrics=dict(outcome.metrics) if outcome else {},
            evaluation=self._measure(model, round, last=last),
            caveats=outcome.sum.caveats if outcome else (),
            secure=self.parts.work.noise is None or self.parts.work.noise.mechanism.source == "secure",
            clip_norm=self._clip_norm(latest),
        )
        version = self.store.save(round, model, moments, parent=latest.hash, report=report.record())
        if token is not None:
            self._settle(token, report.dropouts)
        if notes is not None:
            notes.tally(skipped=outcome is None, cohort=len(cohort))
        return version, report

    def _notes(self) -> DrawNotes | None:
        """The draws of a run that keeps a ledger, after the rounds that are stored."""
        if self.payment is None or self.parts.work.noise is None:
            return None
        sampling, unit = self.sampler.declare(self.population), self.payment.ledger.unit
        shortfall = round_shortfall(
            self.parts.scheme,
            dropout=self.dropout,
            min_survivors=self.least_survivors,
            min_survivor_fraction=self.survivor_share,
            central=self.parts.work.noise.mechanism.placement == "central",
        )
        notes = DrawNotes(sampling, self.population, shortfall, self.retries + 1, unit.adjacency)
        for version in self.store.lineage():
            if version.report:
                notes.tally(skipped=version.report["status"] == "skipped", cohort=version.report["cohort"])
        return notes

    def _draw(self, round: int, notes: DrawNotes | None) -> None:
        """Check the budget, then note the draw durably, before the round's cohort is sampled."""
        noise, payment = self.parts.work.noise, self.payment
        if noise is None or payment is None or notes is None:
            return
        draw = payment.ledger.drawn(round) or notes.next(round)
        if payment.budget is not None:
            worst = noise.worst_case(round=round, sampling=draw.sampling, views=payment.views, cohort=())
            if not payment.ledger.charged(worst):
                payment.budget.check(payment.ledger, draw, worst)
        if payment.ledger.drawn(round) is None:
            payment.ledger.draw(round, draw.sampling, draw.turn, void=draw.void)

    def _min_survivors(self, cohort: int) -> int:
        return max(self.least_survivors, math.ceil(self.survivor_share * cohort))

    def _attempt(
        self, latest: Version, round: int, cohort: tuple[ClientId, ...], tap: Tap
    ) -> tuple[Outcome | None, int, Token | None]:
        """Try a round until enough clients survive; a cohort is never drawn anew."""
        work = self.parts.work.in_round(len(cohort), self._clip_norm(latest))
        parts = self.parts if work is self.parts.work else dataclasses.replace(self.parts, work=work)
        moments = {name: value for name, value in latest.moments.items() if name != CLIP}
        for attempt in range(self.retries + 1):
            plan = self._plan(latest, round, attempt, cohort, work)
            token = self._reserve(plan)
            try:
                drop = self.dropouts(round, attempt)
                outcome = run_round(latest.model, moments, plan, parts, drop=drop, tap=tap)
            except TooFewSurvivors as error:
                self._refund(token, error)
                continue
            return outcome, attempt + 1, token
        return None, self.retries + 1, None

    def _clip_norm(self, latest: Version) -> float | None:
        """Where an adaptive clip stands: it is stored with the model, and so goes on to the last bit."""
        adaptive = self.parts.work.update.adaptive
        if adaptive is None:
            return None
        return float(latest.moments[CLIP][0]) if CLIP in latest.moments else adaptive.clip_norm

    def _plan(
        self, latest: Version, round: int, attempt: int, cohort: tuple[ClientId, ...], work: Contribution
    ) -> RoundPlan:
        update, noise = work.update, work.noise
        return RoundPlan(
            round=round,
            attempt=attempt,
            model_hash=latest.hash,
            cohort=cohort,
            min_survivors=self._min_survivors(len(cohort)),
            update=update,
            scheme=self.parts.scheme.name,
            seed=self.seed,
            denominator=self.denominator,
            noise_stddev=noise.noise_stddev / update.codec.scale if noise else 0.0,
            noise_room=noise.noise_reach if noise else 0,
            terms=self.terms,
        )

    @property
    def _ledger(self) -> Ledger:
        if self.payment is None:
            raise ConfigError("this run keeps no ledger")
        return self.payment.ledger

    def _reserve(self, plan: RoundPlan) -> Token | None:
        """Check the budget, then charge the worst case durably, before a client is asked."""
        noise, payment = self.parts.work.noise, self.payment
        if noise is None or payment is None:
            return None
        worst = noise.worst_case(
            round=plan.round,
            attempt=plan.attempt,
            sampling=self.sampler.declare(self.population),
            views=payment.views,
            cohort=plan.cohort,
        )
        interrupted = payment.ledger.pending(worst)
        if interrupted is not None and noise.mechanism.source == "simulation":
            return interrupted  # seeded noise repeats to the last bit, so that this is the same release
        while payment.ledger.charged(worst):
            worst = dataclasses.replace(worst, attempt=worst.attempt + 1)  # fresh noise: a further release
        if payment.budget is not None:
            payment.budget.check(payment.ledger, payment.ledger.drawn(worst.round), worst)
        return payment.ledger.reserve(worst)

    def _refund(self, token: Token | None, error: TooFewSurvivors) -> None:
        """Give the reservation of a sum back that raised before it opened anything: the proof the ledger asks for.

        Where the server sees single vectors, it has seen those of the survivors, and the charge stands.
        """
        if token is None or self.payment is None or (self.payment.views["server"] == "vectors" and error.survivors):
            return
        self.payment.ledger.refund(token, "too_few_survivors")

    def _settle(self, token: Token, dropouts: tuple[ClientId, ...]) -> None:
        """Replace the worst case by what happened."""
        ledger, noise = self._ledger, self.parts.work.noise
        worst = ledger.reserved(token)
        if noise is None or worst.participants is None:
            raise StateError(f"the reservation of round {worst.round} is not one of this run")
        release = noise.for_cohort(len(worst.participants)).release(
            round=worst.round,
            attempt=worst.attempt,
            sampling=worst.sampling,
            views=worst.views,
            survivors=set(worst.participants) - set(dropouts),
        )
        ledger.settle(token, release)

    def _settle_stored(self, latest: Version) -> None:
        """Settle the round that was stored, but not yet settled, when the run was killed."""
        if self.payment is None or not latest.report:
            return
        report, ledger = RoundReport.read(latest.report), self.payment.ledger
        # Of several charges of one round the newest is that of the try which was stored; older ones are of tries that
        # were killed, whose sums may have been opened over other survivors: they stay as they were reserved.
        newest = max((r.attempt for r in ledger.releases if r.round == latest.round), default=0)
        for token in ledger.unsettled:
            worst = ledger.reserved(token)
            if (worst.round, worst.attempt) == (latest.round, newest) and report.status == "trained":
                self._settle(token, report.dropouts)

    def _spent(self) -> float | None:
        if self.payment is None or self.parts.work.noise is None:
            return None
        return self.payment.accountant.spent(self.payment.ledger)

    def _measure(self, model: Vector, round: int, *, last: bool) -> dict[str, float]:
        due = last or (self.evaluate_every > 0 and round % self.evaluate_every == 0)
        return dict(self.evaluate(model)) if self.evaluate is not None and due else {}


def check_charged(store: ModelStore, ledger: Ledger) -> None:
    """Raise `StateError` unless each round whose model is stored is charged in the ledger.

    A ledger that was lost or cut short has a sound chain, and would give a figure that is too small.
    """
    charged = {release.round for release in ledger.releases}
    for round in store.rounds():
        if round not in charged and store.load(round).report.get("status") == "trained":
            raise StateError(f"round {round} was trained and is not in the ledger, which was lost or cut short")


class _Traffic:
    """A tap that counts bytes, in front of another tap."""

    def __init__(self, behind: Tap) -> None:
        self.up = self.down = 0
        self._behind = behind

    def __call__(self, direction: Literal["up", "down"], client: ClientId, message: bytes) -> None:
        if direction == "up":
            self.up += len(message)
        else:
            self.down += len(message)
        self._behind(direction, client, message)
