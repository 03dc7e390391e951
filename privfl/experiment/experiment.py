"""`Experiment`: the Python API over which the command line and the notebooks stand."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from privfl.codec import Vector
from privfl.data import Dataset, FederatedData
from privfl.dp import ElementClip, EpsilonReport, FlatClip, History, LayerClip, Mechanism, Observer
from privfl.errors import ConfigError
from privfl.experiment import build
from privfl.experiment.answers import ask
from privfl.experiment.assemble import assemble, build_sum
from privfl.experiment.charging import payment_of, uniforms_of
from privfl.experiment.config import (
    Buffer,
    Client,
    Cohort,
    Config,
    Data,
    Engine,
    Model,
    Privacy,
    Server,
    Sum,
    load_config,
)
from privfl.experiment.evaluation import evaluation
from privfl.experiment.folder import Identity, RunFolder
from privfl.experiment.given import Given, first_vector, refuse_argument
from privfl.experiment.result import Result
from privfl.files import user_path
from privfl.fl.algorithms import Algorithm
from privfl.fl.arrivals import ClientTimes
from privfl.fl.client import Executor, Train
from privfl.fl.client_state import Stateful
from privfl.fl.dropout import Dropouts
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.metrics import Evaluation, Measure, MetricSums
from privfl.fl.optimizers import ServerOptimizer
from privfl.fl.plan import RUN_NONCE_BYTES
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import CohortSampler
from privfl.fl.store import ModelStore
from privfl.sums import SecureSum, Tap
from privfl.sums.driver import ignore
from privfl.wire import ClientId


class Experiment:
    """One federated training: a configuration and objects, assembled, and the folder that it is kept in.

    Args:
        config: The configuration that everything below changes; the default one if absent.
        name: The name of the run, and of its folder.
        seed: The seed of the data split, training and dropouts.
        rounds: The number of rounds.
        evaluate_every: The model is evaluated every so many rounds; 0 evaluates it after the last only.
        data: The `[data]` section; or a data set that is partitioned as that section says; or clients and their
            examples, which are taken as they are.
        model: The `[model]` section.
        client: The `[client]` section.
        cohort: The `[cohort]` section.
        buffer: The `[buffer]` section: asynchronous rounds.
        server: The `[server]` section.
        sum: The `[sum]` section; or a secure sum of your own, with the `credentials` of its clients.
        privacy: The `[privacy]` section.
        engine: The `[engine]` section.
        train: Your own local training, in place of the built-in models; it needs `initial`, and `data` or `clients`.
            A `privfl.fl.Stateful` one keeps a state at each client.
        initial: The first model of `train`, float `[d]`; integers and lists become float64.
        clients: The number of clients of a `train` that has its own data.
        measure: Your own sums over a client's test examples, in place of the built-in evaluation.
        public_measure: Your own sums over test examples that belong to nobody.
        algorithm: An algorithm of `privfl.fl.algorithms` or of your own, in place of `client.algorithm`.
        sampler: Your own cohort sampler.
        times: Your own times of clients on the virtual clock of asynchronous rounds.
        optimizer: Your own server optimizer.
        credentials: What the clients of your own `sum` need, by client.
        mechanism: The noise as an object, in place of the settings of `[privacy]`.
        clip: The clip as an object, in place of the settings of `[privacy]`.
        executor: What executes the clients; you close it.
        dropouts: Your own pattern of simulated dropouts.
        runs: The folder under which the folder `<name>` of the run is kept. Without it, the run is kept in a temporary
            folder, which goes with the experiment.
        tap: Sees every message of every sum.
        overrides: Settings by key, such as `{"sum.scheme": "masked"}`, applied last.

    Raises:
        ConfigError: When settings contradict each other.
        PrivacyError: When they would make an epsilon untrue.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        name: str | None = None,
        seed: int | None = None,
        rounds: int | None = None,
        evaluate_every: int | None = None,
        data: Data | Dataset | FederatedData | None = None,
        model: Model | None = None,
        client: Client | None = None,
        cohort: Cohort | None = None,
        buffer: Buffer | None = None,
        server: Server | None = None,
        sum: Sum | SecureSum | None = None,  # noqa: A002 - the section's name
        privacy: Privacy | None = None,
        engine: Engine | None = None,
        train: Train | Stateful | None = None,
        initial: Vector | None = None,
        clients: int | None = None,
        measure: Measure | None = None,
        public_measure: Callable[[Vector], MetricSums] | None = None,
        algorithm: Algorithm | None = None,
        sampler: CohortSampler | None = None,
        times: ClientTimes | None = None,
        optimizer: ServerOptimizer | None = None,
        credentials: Mapping[ClientId, Any] | None = None,
        mechanism: Mechanism | None = None,
        clip: FlatClip | LayerClip | ElementClip | None = None,
        executor: Executor | None = None,
        dropouts: Dropouts | None = None,
        runs: Path | str | None = None,
        tap: Tap = ignore,
        overrides: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            refuse_argument(next(iter(unknown)), Experiment, Experiment.__init__.__annotations__)
        config = Config() if config is None else config
        if not isinstance(config, Config):
            raise ConfigError(f"the first argument is a Config, not a {type(config).__name__}: name it, as in data=...")
        if not callable(tap):
            raise ConfigError(f"`tap` is called with every message: give a function, not a {type(tap).__name__}")
        own_sum = hasattr(sum, "server")
        settings: dict[str, Any] = {
            "name": name, "seed": seed, "rounds": rounds, "evaluate_every": evaluate_every, "model": model,
            "client": client, "cohort": cohort, "buffer": buffer, "server": server, "privacy": privacy,
            "engine": engine, "data": data if not isinstance(data, (Dataset, FederatedData)) else None,
            "sum": None if own_sum else sum,
        }  # fmt: skip
        changed = {key: value for key, value in settings.items() if value is not None}
        config = dataclasses.replace(config, **changed).with_overrides(overrides or {})
        given = Given(
            data=data if isinstance(data, (Dataset, FederatedData)) else None,
            clients=clients,
            train=train,
            initial=None if initial is None else first_vector(initial),
            measure=measure,
            public_measure=public_measure,
            algorithm=algorithm,
            sampler=sampler,
            times=times,
            optimizer=optimizer,
            sum=sum if own_sum else None,  # type: ignore[arg-type]
            credentials=credentials,
            mechanism=mechanism,
            clip=clip,
            executor=executor,
            dropouts=dropouts,
        )
        if runs is None:
            runs = tempfile.mkdtemp(prefix="privfl-")
            weakref.finalize(self, shutil.rmtree, runs, ignore_errors=True)
        self.files = RunFolder(user_path(runs) / config.name)
        self.parts = assemble(config, given, noise_multiplier=self.files.calibrated_noise(config))
        if (answers := self.files.answers(self.parts.config)) is not None:
            self.parts = self.parts.prepared(answers)
        self._tap = tap
        self._session, self._evaluations = os.urandom(RUN_NONCE_BYTES), itertools.count()
        self._notes = given.notes()  # now: a training of your own may change while it is used

    @functools.cached_property
    def _identity(self) -> Identity:
        return Identity(self.parts.unprepared.fingerprint(), self.parts.clients, self._notes)

    @classmethod
    def from_file(cls, path: Path | str, **settings: Any) -> Experiment:
        """The experiment that a TOML file describes.

        Args:
            path: The file.
            settings: Further arguments of `Experiment`.
        """
        return cls(load_config(path), **settings)

    @property
    def config(self) -> Config:
        """The configuration, with the delta and the noise multiplier that were chosen for it."""
        return self.parts.config

    @property
    def folder(self) -> Path:
        """The run's folder, which its first round makes."""
        return self.files.path

    @property
    def federation(self) -> FederatedData:
        """The clients and their examples, standardized; by public ranges before noisy answers are there."""
        return self.parts.federation

    @property
    def learner(self) -> build.Learner:
        """The model: its first vector, its training and its evaluation."""
        return self.parts.learner

    @property
    def scheme(self) -> SecureSum:
        """The secure sum."""
        return self.parts.scheme

    @property
    def encoding(self) -> UpdateEncoding:
        """The encoding of updates as integers."""
        return self.parts.encoding

    @property
    def private(self) -> bool:
        """True if noise is added."""
        return self.parts.private

    @property
    def delta(self) -> float:
        """The delta of this run's claims: the configuration's, or by default the smaller of 1e-5 and 1/clients^1.1."""
        return self.parts.delta

    @property
    def store(self) -> ModelStore:
        """The versions of the global model."""
        return self.files.store

    @property
    def model(self) -> Vector:
        """The latest global model, float `[d]`; raises `StateError` where the folder holds another run."""
        latest = self.store.latest() if self._is_started() else None
        return self.parts.method.initial if latest is None else latest.model

    @property
    def reports(self) -> list[RoundReport]:
        """The reports of all rounds so far, oldest first; raises `StateError` where the folder holds another run."""
        return self.files.reports() if self._is_started() else []

    def run(self, *, resume: bool = False) -> Result:
        """Train to the end.

        Args:
            resume: Go on after the last stored round, to the last bit, where the folder holds this run.

        Returns:
            The result: accuracy, epsilon, reports, model and folder.

        Raises:
            ConfigError: When the folder holds a run and `resume` is not asked for.
            StateError: When it holds another run, or another process is writing it.
            BudgetExceeded: Before a round that could cost too much; the rounds before it are kept.
        """
        for _ in self.each_round(resume=resume):
            pass
        return Result(self)

    def each_round(self, *, resume: bool = False) -> Iterator[RoundReport]:
        """Train, and yield a report after each round; nothing happens before the first is asked for.

        Args and errors are those of `run`.
        """
        parts = self.parts
        parts.check_claim()
        with self.files.writing(parts.config, self._identity, resume=resume):
            if resume:  # as after a restart: clients begin an interrupted round with keys of a new session
                scheme, credentials = build_sum(parts.config, parts.objects, parts.clients)
                self.parts = parts = dataclasses.replace(parts, scheme=scheme, credentials=credentials)
            payment = payment_of(self.parts, self.files)
            if parts.answer_round is not None and payment is not None:
                answers = ask(parts, payment, self.files.path, self.files.nonce, self._tap)
                self.parts = parts = parts.prepared(answers)
            own = parts.objects.executor
            executor = own or build.build_executor(parts.config)
            try:
                run = self._federated_run(executor)
                reports = self.files.verified_reports()
                self.files.write_reports(reports)
                if parts.selection.stops(reports):
                    return
                for report in run.run(parts.method.initial, parts.config.rounds):
                    reports.append(report)
                    self.files.write_reports(reports)
                    yield report
                    if parts.selection.stops(reports):
                        return
            finally:
                if own is None:
                    executor.close()

    def evaluate(self, model: Vector) -> dict[str, float]:
        """The metrics of a model, float `[d]`; see `evaluation`."""
        return dict(self.evaluation(model).metrics)

    def evaluation(self, model: Vector, states: Callable[[ClientId], bytes] | None = None) -> Evaluation:
        """The metrics of a model, with the reason for each that is absent.

        They come from public test examples, or through the secure sum from the clients' own. A run that claims privacy
        is evaluated on public examples only.

        Args:
            model: Float `[d]`.
            states: Reads a client's state, for clients that have a part of the model of their own; by default those
                after the last stored round.
        """
        # Never repeated, not even by another start of this run: no client enters one task twice.
        context = b"privfl/1 evaluate " + self._session + b" %d" % next(self._evaluations)
        return evaluation(self.parts, model, states or self.store.states().read, context=context)

    def epsilon(self, observer: Observer = "outsider", *, delta: float | None = None) -> EpsilonReport | None:
        """The epsilon of the rounds so far, from the run's folder.

        With simulation noise the report is labeled "epsilon if the noise were secure".

        Args:
            observer: The observer against which epsilon is stated.
            delta: The delta of the statement; the run's own by default.

        Returns:
            The statement; None for a run without noise.

        Raises:
            StateError: When the folder holds a run with other settings, data or objects.
        """
        if self._is_started():
            return self.files.epsilon(observer, delta=delta)
        if not self.private:
            return None
        return self.parts.accountant(observer, delta=delta).report(History(self.parts.unit))

    def _is_started(self) -> bool:
        """True if the folder holds this run; raises `StateError` where it holds another one."""
        if not self.files.exists:
            return False
        self.files.check_same(self.config, self._identity)
        return True

    def _federated_run(self, executor: Executor) -> FederatedRun:
        parts, config = self.parts, self.parts.config
        return FederatedRun(
            population=parts.clients,
            parts=Parts(
                parts.method.train,
                parts.scheme,
                executor,
                parts.optimizer,
                parts.method.aggregation,
                credentials=parts.credentials,
                on_client_error=parts.config.cohort.on_client_error,
                noise=self.files.noise(parts.mechanism, config.seed),
            ),
            encoding=parts.encoding,
            range_rule=parts.range_rule,
            mechanism=parts.mechanism,
            sampler=parts.sampler,
            store=ModelStore(self.store.folder, parts.keep),
            seed=config.seed,
            chunking=parts.chunking,
            nonce=self.files.nonce,
            survivor_rule=parts.survivor_rule,
            retries=parts.retries,
            payment=payment_of(parts, self.files),
            dropouts=parts.dropouts,
            evaluate=self.evaluation,
            evaluate_every=config.evaluate_every,
            uniforms=uniforms_of(parts, self.files),
            tap=self._tap,
        )
