"""From a configuration, and the objects that a program gave, to the parts of a run: a pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from privfl.data import FederatedData, standardize
from privfl.dp import (
    Accountant,
    Budget,
    Draw,
    History,
    Mechanism,
    Observer,
    PrivacyUnit,
    Release,
    calibrate,
    default_delta,
)
from privfl.dp.accounting.history import DrawnRound
from privfl.dp.accounting.report import check_small_delta
from privfl.errors import BudgetExceeded, ConfigError
from privfl.experiment import build, schemes
from privfl.experiment.answers import AnswerRound, Answers, answer_round, planned_round
from privfl.experiment.config import Config
from privfl.experiment.encoding import build_encoding, build_mechanism, build_survivor_rule
from privfl.experiment.examples import (
    check_example_settings,
    check_gradients,
    example_rule,
    nominal_sites,
    unit_count,
)
from privfl.experiment.federation import build_federation, check_complete, prepare, with_named_columns
from privfl.experiment.fitting import (
    calibrated,
    check_noise,
    check_selection,
    check_tuning,
    checked_sampler,
    is_taken,
    weighted,
    without_data,
)
from privfl.experiment.given import Given
from privfl.experiment.placement import with_placement
from privfl.fl.algorithms import Method
from privfl.fl.buffered import max_cohort
from privfl.fl.chunks import Chunking
from privfl.fl.client import Train
from privfl.fl.client_state import Stateful
from privfl.fl.draws import DrawNotes
from privfl.fl.dropout import Dropouts, RandomDropouts
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.keep import Keep
from privfl.fl.optimizers import ServerOptimizer
from privfl.fl.plan import RUN_NONCE_BYTES, RoundPlan
from privfl.fl.range import RangeRule
from privfl.fl.sampling import CohortSampler, declared
from privfl.fl.selection import Selection
from privfl.fl.survivors import SurvivorRule, nominal_cohort
from privfl.sums import SecureSum
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts of a run.

    Attributes:
        config: The configuration, with the delta and the noise multiplier that were chosen for it.
        objects: The objects that took the place of built-ins.
        federation: The clients and their examples, standardized; by public ranges before noisy answers are there.
        unprepared: The same clients before a noisy standardization.
        answer_round: The round that asks for noisy means and standard deviations; None where none are asked for.
        learner: The model, its training and its evaluation.
        method: The training under the run's algorithm, the model that is sent, and the server's aggregation.
        scheme: The secure sum.
        credentials: One per client; None for a sum without.
        sampler: The cohort sampler.
        optimizer: The server optimizer.
        dropouts: The simulated dropouts.
        encoding: How updates become integers.
        mechanism: The noise.
        survivor_rule: The fewest clients that must survive a round.
        range_rule: How range and precision of the encoding follow a run without noise; None with noise.
        selection: The choice of the final model.
        chunking: In which chunks a cohort is trained, and if at once.
        keep: Which models are kept.
    """

    config: Config
    objects: Given
    federation: FederatedData
    unprepared: FederatedData
    answer_round: AnswerRound | None
    learner: build.Learner
    method: Method
    scheme: SecureSum
    credentials: Mapping[ClientId, Any] | None
    sampler: CohortSampler
    optimizer: ServerOptimizer
    dropouts: Dropouts
    encoding: UpdateEncoding
    mechanism: Mechanism
    survivor_rule: SurvivorRule
    range_rule: RangeRule | None
    selection: Selection
    chunking: Chunking
    keep: Keep

    @property
    def clients(self) -> int:
        """The number of clients."""
        return len(self.federation.clients)

    @property
    def max_cohort(self) -> int:
        """The largest number of clients that a round can ask."""
        return max_cohort(self.sampler, self.clients)

    @property
    def private(self) -> bool:
        """True if noise is added."""
        return self.mechanism.claims

    @property
    def unit(self) -> PrivacyUnit:
        """The unit that the claims are about."""
        return build.privacy_unit(self.config)

    @property
    def delta(self) -> float:
        """The delta of this run's claims."""
        chosen = self.config.privacy.delta
        return default_delta(self.units)[0] if chosen is None else chosen

    @property
    def units(self) -> int:
        """The number of clients; of a sum over examples the number of examples that its constants stand for."""
        return unit_count(self.encoding.examples, self.clients)

    @property
    def retries(self) -> int:
        """The number of times that a round with too few survivors is tried again."""
        return self.config.cohort.retries if self.config.cohort.too_few == "retry" else 0

    def accountant(self, observer: Observer = "outsider", *, delta: float | None = None) -> Accountant:
        """The accountant of this run's claims.

        Args:
            observer: The observer against which epsilon is stated.
            delta: The delta of the statement; the run's own by default.
        """
        assume = self.config.privacy.noise == "simulation"
        return Accountant(
            self.delta if delta is None else delta,
            observer=observer,
            assume_secure_noise=assume,
            group=self.config.privacy.sites_per_person,
        )

    def budget(self) -> Budget | None:
        """The budget of the run, if it has one."""
        privacy = self.config.privacy
        if privacy.epsilon is None or not self.private:
            return None
        assume = privacy.noise == "simulation"
        return Budget(privacy.epsilon, self.delta, assume_secure_noise=assume, group=privacy.sites_per_person)

    def worst_case(self) -> tuple[Draw | None, Release]:
        """The draw of any round, None at level "example", and the worst that the round can release."""
        sampling, rule = declared(self.sampler, self.clients), self.survivor_rule
        dropout = getattr(self.dropouts, "probability", None)
        draws = DrawNotes(
            sampling,
            self.max_cohort,
            lambda size: rule.shortfall(self.scheme, size, dropout, self.mechanism),
            self.retries + 1,
            self.unit.adjacency,
        )
        plan = RoundPlan(
            run=bytes(RUN_NONCE_BYTES),
            round=1,
            model_hash="0" * 64,
            cohort=nominal_sites(self.encoding.examples, nominal_cohort(sampling, self.max_cohort)),
            population=self.clients,
            sampling=sampling,
            survivor_rule=rule,
            encoding=self.encoding,
            mechanism=self.mechanism,
            scheme=self.scheme.name,
            parameters=self.scheme.parameters,
            seed=self.config.seed,
        )
        draw = draws.next(1) if self.unit.level == "client" else None
        return draw, plan.worst_case(self.scheme)

    @property
    def max_attempts(self) -> int:
        """The most attempts of one round that can be charged: a failed one is, where the sum may have been seen."""
        never_fails = self.survivor_rule.of(self.max_cohort) == 0 or getattr(self.dropouts, "probability", None) == 0
        return 1 if never_fails else self.retries + 1

    def planned(self, rounds: int, attempts: int = 1) -> History:
        """The history of a run in which every round releases its worst case, and noisy answers before the first.

        Args:
            rounds: The number of rounds.
            attempts: The attempts of each round that are charged.
        """
        if not self.private:
            raise ConfigError("a run without noise has no epsilon: set privacy.placement")
        draw, worst = self.worst_case()
        if draw is None:  # every attempt samples its examples again
            return History(self.unit, ((DrawnRound(None, (worst,)), rounds * attempts),))
        releases = tuple(dataclasses.replace(worst, attempt=attempt) for attempt in range(attempts))
        asked = planned_round(self)
        before = () if asked is None else ((asked, 1),)
        return History(self.unit, (*before, (DrawnRound(draw, releases), rounds)))

    def prepared(self, answers: Answers) -> Assembly:
        """The same run with its features standardized by noisy answers."""
        federation = answers.apply(self.unprepared)
        learner, method = _trained(self.config, self.objects, federation)
        return dataclasses.replace(self, federation=federation, learner=learner, method=method)

    def planned_epsilon(self) -> float:
        """The epsilon of all planned rounds against an outsider, if every round releases its worst case."""
        return self.accountant().spent(self.planned(self.config.rounds, self.max_attempts))

    def check_claim(self) -> None:
        """Raise `PrivacyError` for a claim that no accountant can judge, or a budget that one round would exceed."""
        if not self.private:
            return
        spent, budget = self.accountant().spent(self.planned(1)), self.budget()
        if budget is not None and spent > budget.epsilon:
            raise BudgetExceeded(spent, budget.epsilon)


def assemble(config: Config, objects: Given, *, noise_multiplier: float | None = None) -> Assembly:
    """Build the parts of a run.

    Args:
        config: The configuration.
        objects: Objects that take the place of built-ins.
        noise_multiplier: What an earlier start of this run was calibrated to, for a configuration that has an epsilon
            and no multiplier; None calibrates.

    Returns:
        The parts.

    Raises:
        ConfigError: When settings contradict each other.
        PrivacyError: When they would make an epsilon untrue.
    """
    objects.check(config)
    config = with_named_columns(objects.applied(config))
    check_noise(config)
    check_example_settings(config)
    config, unprepared, scheme, credentials = _clients(config, objects)
    clients, first = len(unprepared.clients), answer_round(config, unprepared, 1.0)
    federation = unprepared if first is None else standardize(unprepared, first.public)
    if objects.train is None:
        check_complete(federation, private=config.privacy.placement != "none")
    learner, method = _trained(config, objects, federation)
    config = weighted(config, method)
    examples = example_rule(config, clients, federation.sizes.tolist())
    check_gradients(method.train, examples)
    if examples is not None:
        config = config.with_overrides({"privacy.denominator": examples.denominator})
    check_tuning(config, learner, method)
    selection = build.build_selection(config.server)
    check_selection(
        config, learner, selection, taken=objects.public_measure is None and is_taken(config, objects.data, federation)
    )
    chunking, keep = build.build_chunking(config, method.train), build.build_keep(config)
    sampler = checked_sampler(config, objects, method, clients)
    sampling, largest = declared(sampler, clients), max_cohort(sampler, clients)
    config = with_placement(config, scheme, sampling, largest, plans=objects.mechanism is None)
    privacy, units = config.privacy, unit_count(examples, clients)
    if privacy.placement != "none" and privacy.delta is None:
        config = config.with_overrides({"privacy.delta": default_delta(units)[0]})
    elif privacy.placement != "none" and not privacy.allow_large_delta:
        check_small_delta(privacy.delta or 0.0, units, setting="privacy.delta", flag="privacy.allow_large_delta = true")
    optimizer = objects.optimizer or build.build_optimizer(config.server)
    dropouts = objects.dropouts or RandomDropouts(config.cohort.dropout, config.seed, scheme.messages_per_client)
    if config.cohort.on_client_error == "drop":
        dropouts = _unbounded(dropouts)

    def parts(config: Config) -> Assembly:
        mechanism, rule = build_mechanism(config), build_survivor_rule(config, scheme, sampling, largest)
        encoding, range_rule = build_encoding(
            config,
            method.layers or learner.layers,
            aggregation=method.aggregation,
            scheme=scheme,
            sampling=sampling,
            population=largest,
            sizes=federation.sizes.tolist(),
            clip=objects.clip,
            examples=examples,
            metrics=getattr(learner.train, "metric_names", ()),
        )
        asked = answer_round(config, unprepared, sampling.expected_size(clients) / clients)
        return Assembly(
            config, objects, federation, unprepared, asked, learner, method, scheme, credentials, sampler, optimizer,
            dropouts, encoding, mechanism, rule, range_rule, selection, chunking, keep,
        )  # fmt: skip

    def with_noise(multiplier: float) -> Config:
        return config.with_overrides({"privacy.noise_multiplier": multiplier})

    if privacy.placement == "none" or privacy.noise_multiplier is not None or privacy.epsilon is None:
        assembly = parts(config)
    elif noise_multiplier is not None:
        assembly = parts(with_noise(noise_multiplier))
    else:
        start = calibrate(
            epsilon=privacy.epsilon,
            delta=config.privacy.delta or default_delta(units)[0],
            sampling=sampling if examples is None else examples.sampling,
            rounds=config.rounds,
            unit=build.privacy_unit(config),
            draw_known_to=None if examples is None else "site",
            group=privacy.sites_per_person,
        ).noise_multiplier
        assembly = calibrated(lambda z: parts(with_noise(z)), start, privacy.epsilon)
    if assembly.private:
        assembly.accountant()
        assembly.budget()
    return assembly


def _clients(config: Config, objects: Given) -> tuple[Config, FederatedData, SecureSum, Mapping[ClientId, Any] | None]:
    """The clients, their examples before a noisy standardization, their sum and credentials, and the settings."""
    own = objects.clients is not None
    federation = objects.stand_in() if own else build_federation(config, objects.data)
    if objects.clients is not None:
        if config.data.standardize == "noisy":
            raise ConfigError(
                "data.standardize = 'noisy' asks about examples that privfl holds, and this `train` has its own data: "
                "leave data.standardize out"
            )
        config = without_data(config, objects.clients)
    scheme, credentials = build_sum(config, objects, len(federation.clients))
    return config, prepare(federation, config, scheme, credentials), scheme, credentials


def build_sum(config: Config, objects: Given, clients: int) -> tuple[SecureSum, Mapping[ClientId, Any] | None]:
    """The secure sum and its clients' credentials: the program's own, or the built-in with fresh ones.

    Args:
        config: The settings, which name the built-in sum.
        objects: The objects that the program gave.
        clients: The number of clients.
    """
    return schemes.build_sum(config, clients) if objects.sum is None else (objects.sum, objects.credentials)


def _unbounded(dropouts: Dropouts) -> Dropouts:
    """The same dropouts without a probability: clients drop out by errors too, of which no probability is known."""
    return lambda round, number: dropouts(round, number)  # noqa: PLW0108 - the attribute is what has to go


def _trained(config: Config, objects: Given, federation: FederatedData) -> tuple[build.Learner, Method]:
    """The model over these examples, and its training under the run's algorithm."""
    learner = _learner(config, objects, federation)
    algorithm = objects.algorithm or build.build_algorithm(config.client)
    return learner, algorithm.method(cast("Train | Stateful", learner.train), learner.initial)


def _learner(config: Config, objects: Given, federation: FederatedData) -> build.Learner:
    if objects.train is None or objects.initial is None:
        learner = build.build_learner(config, federation)
        measure = objects.measure or learner.measure
        # A measure of one's own looks at the clients' examples: the built-in one over public examples makes way.
        public = objects.public_measure or (None if objects.measure else learner.public_measure)
        return dataclasses.replace(learner, measure=measure, public_measure=public)
    layers = build.layers_of(objects.train, len(objects.initial))
    return build.Learner(objects.initial, objects.train, objects.measure, objects.public_measure, layers)
