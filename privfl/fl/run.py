"""Many rounds: choosing cohorts, paying for them, storing the outcome, and going on after a crash.

A round has happened when its model is on the disk; see `store`. Its cost was reserved in the ledger before that, so a
crash in between leaves a charge that stands, and a round that is run again is charged again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, cast

from privfl.codec import Vector
from privfl.dp import AdaptiveClip, ElementClip, Everyone, Mechanism
from privfl.errors import ConfigError, OpenedBefore, PrivacyError, RemoteProtocolError, StateError, TooFewSurvivors
from privfl.fl.bases import Base
from privfl.fl.buffered import Arrived, BaseModels, check_asynchronous, max_cohort
from privfl.fl.chunks import EACH_ALONE, Chunking
from privfl.fl.draws import DrawNotes
from privfl.fl.dropout import Dropouts, nobody, pattern_of
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.faults import caveat, count_errors
from privfl.fl.metrics import Evaluation
from privfl.fl.payment import Payment, check_charged, check_noise, is_asked, settle_stored
from privfl.fl.plan import NO_NOISE, RoundPlan, model_hash
from privfl.fl.progress import Evaluate, Progress, nothing_interrupted
from privfl.fl.range import RangeRule
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts, RoundDriver, run_round
from privfl.fl.sampling import CohortSampler, Uniforms, declared, in_round, sampled, seeded_uniforms
from privfl.fl.server_round import ServerRound
from privfl.fl.state import ServerState
from privfl.fl.state_store import CohortStates
from privfl.fl.store import ModelStore, Start, Version
from privfl.fl.survivors import SurvivorRule, check_some_open, nominal_cohort
from privfl.fl.traffic import Traffic, without
from privfl.sums import Tap
from privfl.sums.driver import ignore
from privfl.wire import ClientId

_MAX_REPEATS: Final = 2
"""A round is repeated for its range, and again if what the first attempt could not show is still missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedRun:
    """A federation and its rules, the same in every round.

    Attributes:
        population: The number of clients that exist.
        parts: Training, sum, executor, optimizer, credentials and policy.
        encoding: How an update becomes integers; an adaptive clip starts at its norm.
        range_rule: How range and precision of the encoding follow the updates; None keeps the encoding.
        mechanism: The noise; by default none.
        sampler: Who takes part in a round.
        store: The folder of the run's models.
        seed: Keys training, cohorts of a simulation and simulation noise.
        chunking: In which chunks a cohort is trained, and if at once.
        nonce: The run's nonce, 16 random bytes; None keeps one in the store.
        survivor_rule: The fewest survivors that a round asks for, by the size of its cohort.
        retries: How often a round whose sum does not open is tried again, with the same cohort.
        payment: Where rounds are charged; needed for noise that claims anything.
        dropouts: Simulated dropouts by (round, try).
        evaluate: How a model is evaluated.
        evaluate_every: The model is evaluated every so many rounds; 0 evaluates it only after the last.
        uniforms: The coins of a round's cohort, by (seed, round).
        tap: Sees every message.
        driver: Carries the messages of one round: in this process, or over a network.
        interrupted: Returns the plan of a round that the driver was stopped in and can go on with; None if there is
            none.
    """

    population: int
    parts: Parts
    encoding: UpdateEncoding
    sampler: CohortSampler
    store: ModelStore
    seed: int
    chunking: Chunking = EACH_ALONE
    nonce: bytes | None = None
    range_rule: RangeRule | None = None
    mechanism: Mechanism = NO_NOISE
    survivor_rule: SurvivorRule = SurvivorRule()
    retries: int = 0
    payment: Payment | None = None
    dropouts: Dropouts = nobody
    evaluate: Evaluate | None = None
    evaluate_every: int = 1
    uniforms: Callable[[int, int], Uniforms] = seeded_uniforms
    tap: Tap = ignore
    driver: RoundDriver = run_round
    interrupted: Callable[[int], RoundPlan | None] = nothing_interrupted

    def __post_init__(self) -> None:
        if self.population < 1:
            raise ConfigError(f"population must be at least 1, not {self.population}")
        if self.mechanism.claims and self.range_rule is not None:
            raise ConfigError(
                "the range of a run with noise is fixed, because it would reveal the updates: no range_rule"
            )
        unit = self.payment.ledger.unit if self.payment is not None and self.mechanism.claims else None
        check_asynchronous(self.sampler, self.encoding, unit, stateful=self.parts.contribution.stateful)
        if unit is None or self.mechanism.source == "simulation":
            return
        if self.uniforms is seeded_uniforms and not isinstance(declared(self.sampler, self.population), Everyone):
            raise PrivacyError(
                "the cohorts are sampled from the seed, which is no secret, and an epsilon that counts on sampling "
                "would rest on them: give `uniforms` from a secret, such as `secret_uniforms`"
            )

    def run(self, initial: Vector, rounds: int) -> Iterator[RoundReport]:
        """Yield a report after each round, from where the store ends up to `rounds`.

        Args:
            initial: The model of a new run, flat; a stored run must have started from an equal one.
            rounds: The number of the last round, from 1; the rounds that are stored count.

        Raises:
            StateError: If the store holds another run.
            BudgetExceeded: Before the first round that could cost too much; the model of the last paid round is
                stored.
        """
        progress = self.begin(initial)
        for round in range(progress.latest.round + 1, rounds + 1):
            yield self.next(progress, last=round == rounds)

    def begin(self, initial: Vector) -> Progress:
        """Start the run, or resume it where its store ends; `run` calls this.

        Args:
            initial: The model of a new run, flat; a stored run must have started from an equal one.

        Raises:
            StateError: If the store holds another run.
        """
        latest = self.store.latest() or self.store.save(0, self._initial_state(initial), parent="", report={})
        self._check_start(latest, initial)
        start = self.store.begin(latest.round + 1, tries=self.retries + 1 + _MAX_REPEATS, nonce=self.nonce)
        if self.payment is not None and latest.report and self.mechanism.claims:

            def stored(attempt: int, cohort: tuple[ClientId, ...]) -> RoundPlan:
                return self.plan(self.store.load(latest.round - 1).state, start, latest.round, attempt, cohort)

            settle_stored(self.payment, self.parts.scheme, latest, self.store.path(latest.round), stored)
        draws = self._draws()
        repeated = self.mechanism.source == "simulation" and not self.parts.credentials  # to the last bit
        if draws is not None and self.payment is not None and not repeated:
            draws.note_interrupted(self.payment.ledger, latest.round + 1)
        memory = self.store.states(latest) if self.parts.contribution.stateful else None
        if memory is not None:
            memory.sweep()
        return Progress(latest, start, draws, memory, BaseModels(self.store))

    def next(self, progress: Progress, *, last: bool) -> RoundReport:
        """Run one round after the latest that is stored, and return its report.

        Args:
            progress: The state from `begin`; its latest version is replaced.
            last: Whether no round follows: the model is then evaluated, and epsilon is computed.

        Raises:
            BudgetExceeded: If the round could cost too much; no client was asked.
        """
        progress.latest, report = self._round(progress, progress.latest.round + 1, last=last)
        return report

    def plan(
        self,
        state: ServerState,
        start: Start,
        round: int,
        attempt: int,
        cohort: tuple[ClientId, ...],
        *,
        state_rounds: tuple[int, ...] = (),
        bases: tuple[Base, ...] = (),
    ) -> RoundPlan:
        """The plan of one attempt of a round.

        Args:
            state: The server's state before the round.
            start: The start of the run, which holds its nonce.
            round: The round, from 1.
            attempt: The attempt of the round, from 0.
            cohort: The clients that are asked, increasing.
            state_rounds: The round of each client's state; empty where clients keep no states.
            bases: The base of each client of an asynchronous round; empty in a synchronous one.
        """
        return RoundPlan(
            run=start.nonce,
            round=round,
            attempt=attempt,
            model_hash=model_hash(state.sent),
            cohort=cohort,
            state_rounds=state_rounds,
            population=self.population,
            sampling=declared(self.sampler, self.population),
            survivor_rule=self.survivor_rule,
            encoding=self._encoding(state, len(cohort)),
            mechanism=self.mechanism,
            scheme=self.parts.scheme.name,
            parameters=self.parts.scheme.parameters,
            seed=self.seed,
            chunking=self.chunking,
            bases=bases,
        )

    @property
    def _max_cohort(self) -> int:
        """The most clients that a round asks."""
        return max_cohort(self.sampler, self.population)

    def _encoding(self, state: ServerState, cohort: int) -> UpdateEncoding:
        if self.range_rule is None:
            return self.encoding.in_round(state.clip_norm)
        return self.range_rule.encoding(self.encoding, state.range, cohort)

    def _initial_state(self, initial: Vector) -> ServerState:
        norm = clip.clip_norm if isinstance(clip := self.encoding.clip, AdaptiveClip) else None
        return ServerState(initial, {}, norm, shared=self.parts.aggregation.start())

    def _check_start(self, latest: Version, initial: Vector) -> None:
        """Refuse another run's store, and releases that the accountant could not judge, before a client is asked."""
        model = latest.state.model
        if model.shape != initial.shape or model.dtype != initial.dtype:
            raise StateError(
                f"the stored model is {model.dtype} {model.shape}, this run's {initial.dtype} {initial.shape}"
            )
        if self.store.sealed(0).hash != model_hash(initial):
            raise StateError(f"the run in {self.store.folder} started from another model than this one")
        sampling = declared(self.sampler, self.population)
        check_some_open(self.survivor_rule, self.parts.scheme, sampling, self._max_cohort)
        if self.payment is not None and self.mechanism.claims:
            check_charged(self.store, self.payment.ledger)
            check_noise(self.store, self.mechanism, self.parts.noise)

    def _round(self, progress: Progress, round: int, *, last: bool) -> tuple[Version, RoundReport]:
        latest, start, draws = progress.latest, progress.start, progress.draws
        started, traffic = time.perf_counter(), Traffic(self.tap)
        if draws is not None:
            self._draw(latest.state, start, draws, round)
        sampler, at = in_round(self.sampler, round)
        cohort = sampled(sampler, self.population, self.uniforms(self.seed, at), private=draws is not None)
        states = CohortStates(progress.memory, cohort)
        arrived = progress.bases.arrived(sampler, latest)
        server, attempts, state, said, failed = self._attempt(
            latest.state, start, round, states, arrived=arrived, tap=traffic
        )
        outcome = server.outcome if server else None
        seconds = time.perf_counter() - started
        if draws is not None and self.payment is not None:
            draws.finish(self.payment.ledger, round, skipped=server is None, cohort=cohort)
        survivors = outcome.survivors if outcome else frozenset[ClientId]()
        encoding = server.plan.encoding if server else self._encoding(state, len(cohort))
        states.settle(survivors if outcome and outcome.trained else frozenset())
        evaluation = self._measure(state.model, states.read, round, last=last)
        report = RoundReport(
            round=round,
            status="trained" if outcome and outcome.trained else "skipped",
            attempts=attempts,
            cohort=len(cohort),
            survivors=len(survivors),
            dropouts=tuple(client for client in cohort if client not in survivors),
            model=model_hash(state.model),
            parent=latest.hash,
            update_norm=outcome.update_norm if outcome else 0.0,
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            seconds=seconds,
            epsilon=self._spent() if last or is_asked(round) else None,
            metrics=dict(outcome.metrics) if outcome else {},
            evaluation=dict(evaluation.metrics),
            round_caveats=(*(outcome.caveats if outcome else ()), *said),
            evaluation_caveats=evaluation.caveats,
            confusion=evaluation.confusion,
            client_errors=failed,
            secure=self.mechanism.source == "secure",
            clip_norm=latest.state.clip_norm,
            ledger=self.payment.ledger.head if self.payment is not None and self.mechanism.claims else None,
            rejected_updates=outcome.counts.rejected if outcome and outcome.counts else None,
            bits=encoding.codec.ring.bits,
            entry_bound=encoding.clip.max_abs if isinstance(encoding.clip, ElementClip) else None,
            virtual_time=arrived.time,
            ages=arrived.ages,
        )
        live = states.write(round)
        version = self.store.save(
            round, state, parent=latest.hash, report=report.record(), live=live, oldest=arrived.oldest
        )
        states.commit(live)
        if server is not None:
            server.settle()
        return version, report

    def _attempt(
        self, state: ServerState, start: Start, round: int, states: CohortStates, *, arrived: Arrived, tap: Tap
    ) -> tuple[ServerRound | None, int, ServerState, tuple[str, ...], dict[str, int]]:
        """Try a round until its sum opens, and repeat it where its range was too small; a cohort is sampled once.

        No share or message of one client can end the run. The charge of a sum that did not open stands, and a client
        that is proven to be at fault is not heard in the attempts that follow. Returned are the last attempt that
        opened, the number of attempts, the state after the round, caveats, and the errors of the last attempt by type.
        """
        named, cohort, server = set[ClientId](), states.cohort, cast("ServerRound | None", None)
        failures, repeats, number, after = 0, 0, 0, state
        said, errors = list[str](), dict[str, int]()
        while failures <= self.retries:
            attempt = self._next_attempt(start, round, number)
            plan = (None if number else self.interrupted(round)) or self.plan(
                state, start, round, attempt, cohort, state_rounds=states.rounds, bases=arrived.bases
            )
            drop, number = without(named, pattern_of(self.dropouts, round, number)), number + 1
            failed, began = dict[ClientId, str](), states.begin()
            try:
                server = self.driver(
                    state, plan, self.parts, payment=self.payment, states=began, drop=drop, tap=tap, failed=failed,
                    bases=arrived.models,
                )  # fmt: skip
                states.opened()
            except OpenedBefore as error:  # before a kill, over other contributions
                said.append(str(error))
                break
            except (TooFewSurvivors, RemoteProtocolError) as error:
                errors = count_errors(failed.values())
                said += caveat(errors)
                refused = isinstance(error, RemoteProtocolError)
                if refused:
                    said.append(f"attempt {number} of round {round} was not opened: {error}")
                roomier = self.range_rule and self.range_rule.roomier(plan.encoding, state.range, len(cohort))
                if roomier and repeats < _MAX_REPEATS and (refused or getattr(error, "opened", False)):
                    state, repeats = dataclasses.replace(state, range=roomier), repeats + 1  # perhaps nobody's fault
                    continue
                if isinstance(error, RemoteProtocolError) and error.sender is not None:
                    named.add(error.sender)
                failures += 1
                continue
            outcome, errors = server.outcome, count_errors(failed.values())
            after, said = outcome.state, [*said, *caveat(errors)]
            if self.range_rule is None or outcome.counts is None:
                break
            wanted, why = self.range_rule.after(
                plan.encoding, state.range, outcome.counts, largest=outcome.largest, floor=outcome.floor
            )
            after = dataclasses.replace(after, range=wanted)
            if not why or repeats == _MAX_REPEATS:
                break
            state = dataclasses.replace(state, range=wanted)
            said.append(why)
            repeats += 1
        return server, number, after, tuple(dict.fromkeys(said)), errors

    def _next_attempt(self, start: Start, round: int, number: int) -> int:
        """The number of the next attempt of a round, which no attempt before had, not even one that was killed.

        Simulation noise repeats to the last bit. Where no client remembers its tasks, an attempt that is run again with
        it is the same attempt; clients with credentials refuse to enter one task twice.
        """
        if self.payment is None or not self.mechanism.claims:
            return start.first_attempt(round) + number
        if self.mechanism.source == "simulation" and not self.parts.credentials:
            return number
        return self.payment.ledger.next_attempt(round)

    def _draws(self) -> DrawNotes | None:
        """The draws of a run that keeps a ledger of clients, after the rounds that are stored."""
        if self.payment is None or not self.mechanism.claims or self.payment.ledger.unit.level == "example":
            return None
        rule, scheme, dropout = self.survivor_rule, self.parts.scheme, getattr(self.dropouts, "probability", None)
        mechanism = self.mechanism

        def shortfall(size: int) -> float | None:
            return rule.shortfall(scheme, size, dropout, mechanism)

        sampling, adjacency = declared(self.sampler, self.population), self.payment.ledger.unit.adjacency
        draws = DrawNotes(sampling, self._max_cohort, shortfall, self.retries + 1, adjacency)
        for version in self.store.history():
            if version.report:
                skipped, size = version.report["status"] == "skipped", version.report["cohort"]
                draws.tally(skipped=skipped, cohort=size, clients=self.payment.ledger.participants(version.round))
        return draws

    def _draw(self, state: ServerState, start: Start, draws: DrawNotes, round: int) -> None:
        """Check the budget, then record the draw durably, before the cohort of the round is sampled."""
        if self.payment is None or self.payment.ledger.draw_of(round) is not None:
            return
        draw = draws.next(round)
        nominal = self.plan(state, start, round, 0, nominal_cohort(draw.sampling, self._max_cohort))
        self.payment.check(nominal.worst_case(self.parts.scheme), draw)
        self.payment.ledger.draw(round, draw.sampling, draw.turn, void=draw.void)

    def _spent(self) -> float | None:
        paid = self.payment if self.mechanism.claims else None
        return None if paid is None else paid.accountant.spent(paid.ledger)

    def _measure(self, model: Vector, states: Callable[[ClientId], bytes], round: int, *, last: bool) -> Evaluation:
        due = last or (self.evaluate_every > 0 and round % self.evaluate_every == 0)
        return self.evaluate(model, states) if self.evaluate is not None and due else Evaluation()
