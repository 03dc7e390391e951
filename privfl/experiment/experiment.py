"""`Experiment`: the Python API over which the command line and the notebooks stand."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from privfl.codec import Vector
from privfl.data import Dataset, FederatedData
from privfl.dp import Accountant, Budget, EpsilonReport, Ledger, Observer, PrivacyUnit, default_delta
from privfl.errors import ConfigError, PrivacyError, StateError
from privfl.experiment import build
from privfl.experiment.config import Config, Engine, load_config, to_mapping, to_toml
from privfl.experiment.federation import build_federation, prepare
from privfl.experiment.schemes import build_sum
from privfl.experiment.versions import note_origin
from privfl.files import atomic_write, canonical_json, sweep, user_path
from privfl.fl.client import Train
from privfl.fl.dropout import Dropouts, RandomDropouts
from privfl.fl.metrics import LARGEST_LOSS, Measure, MetricSums, evaluate, finish
from privfl.fl.plan import UpdatePlan, model_hash
from privfl.fl.round import Contribution, Parts
from privfl.fl.run import FederatedRun, Payment, RoundReport, check_charged
from privfl.fl.sampling import secret_uniforms, seeded_uniforms
from privfl.fl.store import ModelStore
from privfl.ring import Ring
from privfl.sums import Tap, ignore

CONFIG: Final = "config.toml"
DATA: Final = "data.sha256"
METRICS: Final = "metrics.jsonl"
LEDGER: Final = "ledger.jsonl"
MODELS: Final = "models"
COHORT_KEY: Final = "cohorts.key"
EVALUATION_RING: Final = Ring(40)
"""Wide enough that counts of millions of rows stay exact beside losses, and narrow enough for every scheme."""


class Experiment:
    """One federated training, from a configuration.

    `data` replaces the data set of the configuration, and `train` with `initial` (float `[d]`) the built-in models;
    `measure` then says how the model is evaluated at a client, and `public_measure` how on rows that nobody holds;
    without them it is not evaluated there. `runs` is the folder under which `runs/<name>` is kept; None keeps it in a
    temporary folder. Other keywords override the configuration: `rounds=5`, or `overrides={"sum.scheme": "masked"}`.
    Raises `ConfigError` where settings contradict each other, and `PrivacyError` where they would make an epsilon
    untrue.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        data: Dataset | FederatedData | None = None,
        train: Train | None = None,
        initial: Vector | None = None,
        measure: Measure | None = None,
        public_measure: Callable[[Vector], MetricSums] | None = None,
        dropouts: Dropouts | None = None,
        runs: Path | str | None = None,
        tap: Tap = ignore,
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.config = (config or Config()).with_overrides({**settings, **(overrides or {})})
        if (train is None) != (initial is None):
            raise ConfigError("give `train` and `initial` together: a model of your own needs its first vector")
        if train is None and (measure is not None or public_measure is not None):
            raise ConfigError("`measure` and `public_measure` go with a `train` of your own")
        privacy = self.config.privacy
        if not self.private and (privacy.epsilon, privacy.noise_multiplier) != (None, None):
            raise PrivacyError(
                "privacy.epsilon and privacy.noise_multiplier speak of noise, and privacy.placement is 'none': choose "
                "'central', 'distributed' or 'local'"
            )
        if runs is None:
            runs = tempfile.mkdtemp(prefix="privfl-")
            weakref.finalize(self, shutil.rmtree, runs, ignore_errors=True)
        self.folder = user_path(runs) / self.config.name
        self._own = (train, initial, measure, public_measure)
        federation = build_federation(self.config, data)
        self._given: dict[str, str] = {}
        if data is not None:
            self._given["data"] = f"{federation.dataset.name}, federated over {len(federation.clients)} clients"
        if train is not None:
            self._given["training"] = getattr(train, "__qualname__", type(train).__qualname__)
        self.scheme, self._credentials = build_sum(self.config, len(federation.clients))
        self.federation = prepare(federation, self.config, self.scheme, self._credentials)
        self.learner = self._learner()
        self._own_dropouts = dropouts is not None
        self._dropouts, self._tap = dropouts or self._simulated_dropouts(), tap
        self.sampler = build.build_sampler(self.config.cohort)
        self.sampler.declare(len(federation.clients))
        self.update, self._least = self._update()
        if self.private:  # what is wrong with the claim is told before a folder exists
            if privacy.delta is None:
                chosen, _ = default_delta(len(federation.clients))
                self.config = self.config.with_overrides({"privacy.delta": chosen})
            self._accountant(self.delta, "outsider")
            self._budget()
        self.reports: list[RoundReport] = []
        self._evaluations = itertools.count()

    @classmethod
    def from_file(cls, path: Path | str, **settings: Any) -> Experiment:
        """The experiment that a TOML file describes."""
        return cls(load_config(path), **settings)

    @property
    def private(self) -> bool:
        """Whether noise is added."""
        return self.config.privacy.placement != "none"

    @property
    def delta(self) -> float:
        """The delta of this run's claims: the configuration's, or by default the smaller of 1e-5 and 1/clients^1.1."""
        return default_delta(len(self.federation.clients))[0] if (d := self.config.privacy.delta) is None else d

    @property
    def own_train(self) -> bool:
        """Whether the model is the caller's own, given as `train`."""
        return self._own[0] is not None

    @property
    def store(self) -> ModelStore:
        """The versions of the global model."""
        return ModelStore(self.folder / MODELS)

    @property
    def model(self) -> Vector:
        """The latest global model, float `[d]`."""
        latest = self.store.latest()
        return self.learner.initial if latest is None else latest.model

    def run(self, *, resume: bool = False) -> Iterator[RoundReport]:
        """Yield a report after each round; with `resume` go on after the last stored one, to the last bit.

        Raises `ConfigError` when the folder holds a run and `resume` is not asked for, `StateError` when it holds
        another run, and `BudgetExceeded` before a round that could cost too much.
        """
        self._open_folder(resume=resume)
        note_origin(self.folder, max(self.store.rounds(), default=0) + 1, self._given)
        if resume:  # as after a restart: clients begin a round that was interrupted anew, with keys of a new session
            self.scheme, self._credentials = build_sum(self.config, len(self.federation.clients))
        executor = build.build_executor(self.config)
        try:
            run = self._federated_run(executor)
            self.reports = [RoundReport.read(v.report) for v in self.store.lineage() if v.report]
            self._write_metrics()
            for report in run.run(self.learner.initial, self.config.rounds):
                self.reports.append(report)
                self._write_metrics()
                yield report
        finally:
            executor.close()

    def evaluate(self, model: Vector) -> dict[str, float]:
        """Metrics of `model`: on the public test rows, or as sums over the clients' own through the secure sum.

        A run that claims privacy measures on public rows only; without any, nothing is measured.
        """
        if self.learner.public_measure is not None:
            return finish(self.learner.public_measure(model))
        measure = self.learner.measure
        rows = max(len(client.test) for client in self.federation.clients)
        if self.private or not rows or measure is None:
            return {}
        return evaluate(
            self.scheme,
            measure,
            model,
            tuple(range(len(self.federation.clients))),
            ring=EVALUATION_RING,
            bound=rows * self._row_bound(),
            # Counted, for the model may be the one before: no client enters one task twice.
            context=b"privfl/1 evaluate %d " % next(self._evaluations) + model_hash(model).encode(),
            credentials=self._credentials,
        )

    def epsilon(self, observer: Observer = "outsider", *, delta: float | None = None) -> EpsilonReport | None:
        """What the rounds so far are worth against `observer`; None for a run without noise.

        With simulation noise the report is labeled "epsilon if the noise were secure".
        """
        if not self.private:
            return None
        path = self.folder / LEDGER
        ledger = Ledger(self._unit, path if path.exists() else None)  # a question leaves no file behind
        check_charged(self.store, ledger)
        report = self._accountant(self.delta if delta is None else delta, observer).report(ledger.releases)
        default, why = default_delta(len(self.federation.clients))
        return dataclasses.replace(report, caveats=(*report.caveats, why)) if report.delta == default else report

    @property
    def _skips(self) -> float:
        """The chance that a client decides whether a round of this run is skipped, where it can be computed."""
        return 0.0 if self._own_dropouts else build.skip_chance(self.config, len(self.federation.clients))

    def _learner(self) -> build.Learner:
        train, initial, measure, public = self._own
        if train is None or initial is None:
            return build.build_learner(self.config, self.federation)
        return build.Learner(initial, train, measure, public, build.layers_of(train, len(initial)))

    def _update(self) -> tuple[UpdatePlan, int]:
        clients = len(self.federation.clients)
        cohort = self.sampler.largest_size(clients)
        expected = min(self.sampler.expected_size(clients), cohort)
        least = build.least_survivors(self.config, self.sampler, clients)
        weight, layers = int(self.federation.sizes.max()), self.learner.layers
        update = build.build_update(
            self.config, layers, cohort=cohort, expected=expected, least=least, max_weight=weight
        )
        return update, least

    def _federated_run(self, executor: Any) -> FederatedRun:
        config, clients = self.config, len(self.federation.clients)
        noise = build.build_noise(config, self.update, cohort=self.sampler.largest_size(clients), least=self._least)
        parts = Parts(
            Contribution(self.learner.train, self.update, noise, config.seed),
            self.scheme,
            executor,
            build.build_optimizer(config.server),
            self._credentials,
        )
        return FederatedRun(
            population=clients,
            parts=parts,
            sampler=self.sampler,
            store=self.store,
            seed=config.seed,
            survivor_share=config.cohort.min_survivors,
            least_survivors=self._least,
            retries=config.cohort.retries if config.cohort.too_few == "retry" else 0,
            denominator=self.sampler.expected_size(clients) if self.private else None,
            payment=self._payment(),
            dropouts=self._dropouts,
            evaluate=self.evaluate,
            evaluate_every=config.evaluate_every,
            terms={"privacy": to_mapping(config.privacy), "name": config.name},
            uniforms=self._uniforms,
            tap=self._tap,
        )

    def _payment(self) -> Payment | None:
        if not self.private:
            return None
        accountant = self._accountant(self.delta, "outsider")
        ledger = Ledger(self._unit, self.folder / LEDGER)
        return Payment(ledger, accountant, build.server_view(self.scheme), self._budget())

    def _budget(self) -> Budget | None:
        privacy = self.config.privacy
        if privacy.epsilon is None:
            return None
        assume = privacy.noise == "simulation"
        return Budget(privacy.epsilon, self.delta, self._unit, assume_secure_noise=assume, skips=self._skips)

    @property
    def _unit(self) -> PrivacyUnit:
        return PrivacyUnit("client", self.config.privacy.adjacency)

    def _accountant(self, delta: float, observer: Observer) -> Accountant:
        assume = self.config.privacy.noise == "simulation"
        return Accountant(self._unit, delta, observer=observer, assume_secure_noise=assume, skips=self._skips)

    def _uniforms(self, seed: int, round: int) -> Any:
        """A claim that rests on sampling draws cohorts from a secret of the run; all else from the seed."""
        if not self.private or self.config.privacy.noise == "simulation":
            return seeded_uniforms(seed, round)
        return secret_uniforms(self._secret(), round)

    def _secret(self) -> bytes:
        path = self.folder / COHORT_KEY
        if not path.exists():
            atomic_write(path, os.urandom(32))  # readable by the owner only, as all that atomic_write makes
        secret = path.read_bytes()
        if len(secret) != 32:
            raise StateError(f"{path} holds {len(secret)} bytes, 32 were expected")
        return secret

    def _simulated_dropouts(self) -> Dropouts:
        return RandomDropouts(self.config.cohort.dropout, self.config.seed, self.scheme.messages_per_client)

    def _open_folder(self, *, resume: bool) -> None:
        path, data = self.folder / CONFIG, self.federation.fingerprint()
        if not path.exists():
            if (self.folder / LEDGER).exists() or self.store.rounds():
                raise StateError(f"{self.folder} holds a run without its {CONFIG}: it cannot be told what it was")
            atomic_write(self.folder / DATA, data.encode())  # first: where there is a configuration, there is data
            atomic_write(path, to_toml(self.config).encode())
            return
        if not resume:
            raise ConfigError(f"{self.folder} holds a run already: resume it, or choose another name")
        if _essence(load_config(path)) != _essence(self.config):
            raise StateError(f"{self.folder} was started with other settings (see {path}): they cannot be mixed")
        if not (self.folder / DATA).exists() or (self.folder / DATA).read_text() != data:
            raise StateError(f"{self.folder} was started with other data, or with other clients: they cannot be mixed")
        sweep(self.folder)
        sweep(self.folder / MODELS)
        atomic_write(path, to_toml(self.config).encode())

    def _write_metrics(self) -> None:
        lines = [canonical_json(report.record()) + b"\n" for report in self.reports]
        atomic_write(self.folder / METRICS, b"".join(lines))

    def _row_bound(self) -> float:
        """The most that one test row can add to any sum; for a regression it is taken from all targets."""
        if self.federation.dataset.task == "regression":
            return float(max(1.0, abs(self.federation.dataset.targets).max()) ** 2) * 4
        return LARGEST_LOSS


def _essence(config: Config) -> Config:
    """What a resumed run must have in common with the stored one: all but its length and where it is computed."""
    data = dataclasses.replace(config.data, folder=None)
    return dataclasses.replace(config, rounds=1, data=data, engine=Engine())
