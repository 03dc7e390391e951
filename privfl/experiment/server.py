"""The server of a federation whose sites are elsewhere: an experiment's run folder, ledger and rounds, without data.

Its folder is that of an `Experiment`, which `privfl report`, `privfl epsilon` and `privfl runs` read. Its rounds go
through a `Transport` of an engine's adapter. Every exchange is saved before it leaves, so a restarted server goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from privfl.checks import check_positive
from privfl.codec import Vector
from privfl.crypto import SigningKey
from privfl.dp import Ledger
from privfl.engine import LoopExecutor
from privfl.errors import ConfigError, StateError
from privfl.experiment import schemes
from privfl.experiment.assemble import Assembly, assemble
from privfl.experiment.charging import payment_of, uniforms_of
from privfl.experiment.config import Config, Data
from privfl.experiment.examples import check_sites
from privfl.experiment.folder import CHARTER, RECEIPTS, Identity, RunFolder
from privfl.experiment.given import Given, first_vector
from privfl.experiment.sites import (
    REPEATS,
    CurrentKeys,
    SiteDirectory,
    SiteTraining,
    check_current,
    evaluate_at_sites,
    federated,
)
from privfl.fl.charter import Charter
from privfl.fl.client_state import Stateful
from privfl.fl.exchange import LIFETIME, FrameDriver, StepRecord, Transport
from privfl.fl.metrics import Evaluation
from privfl.fl.plan import EVALUATION, model_hash
from privfl.fl.progress import Progress
from privfl.fl.receipts import ReceiptBook
from privfl.fl.report import RoundReport
from privfl.fl.round import Parts
from privfl.fl.run import FederatedRun
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore
from privfl.sums import Tap
from privfl.sums.driver import ignore
from privfl.wire import ClientId

EXCHANGE: Final = "exchange.state"
STEPS: Final = "steps.jsonl"

_EPOCH: Final = 1_767_225_600  # 2026-01-01; the numbers of evaluations last until 2094


@dataclass(slots=True)
class _Open:
    """The state of a server while it is the only writer of its folder."""

    run: FederatedRun
    driver: FrameDriver
    progress: Progress
    reports: list[RoundReport] = field(default_factory=list)
    confirmed: bool = False
    evaluations: int = 0


class FederationServer:
    """The server of one run; a context manager, which is the folder's only writer while it is entered.

    The clients of the run are the sites of the directory. A folder that holds the run is resumed.

    Args:
        folder: The run's folder; the folder around it exists.
        config: The settings. `data`, `model`, `client` and `engine` play no part: sites have their own. With
            `privacy.unit = "example"` every round is one step over the sites' own examples, and values for each client
            are those of `directory.clients`, in this order.
        initial: The first model, float `[d]`.
        directory: The sites and their keys.
        key: The server's signing key, which sites pin in their policy.
        metrics: The training metrics that are summed in a run without noise, by their names in `ClientUpdate.metrics`.
        training: The digest of the training function that sites must have approved; empty lets each site choose.
        layout: The digest of the model's layout that sites must expect; empty pins none.
        min_interval: The least seconds between two rounds, which sites enforce.
        evaluate: Evaluates a model on public examples; None evaluates nothing.
        evaluation: The metrics that sites may sum over their own test examples in a run without noise.
        stateful: Whether each site keeps a state between rounds; its training is then a `Stateful` one.
        lifetime: The seconds in which a site may take a frame for the first time.
        clock: The time in seconds since 1970.
        tap: Sees every frame.

    Raises:
        ConfigError: When settings contradict each other.
        PrivacyError: When they would make an epsilon untrue.
    """

    def __init__(
        self,
        folder: Path | str,
        config: Config,
        *,
        initial: Vector,
        directory: SiteDirectory,
        key: SigningKey,
        metrics: tuple[str, ...] = ("loss",),
        training: str = "",
        layout: str = "",
        min_interval: float = 0.0,
        evaluate: Callable[[Vector], Evaluation] | None = None,
        evaluation: tuple[str, ...] = (),
        stateful: bool = False,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
        tap: Tap = ignore,
    ) -> None:
        check_sites(config, stateful=stateful)
        check_positive("lifetime", lifetime)
        self.files = RunFolder(folder)
        self._directory, self._key, self._tap, self._evaluate = directory, key, tap, evaluate
        self._evaluation, self._stateful, self._clock = evaluation, stateful, clock
        self._training, self._layout, self._interval, self._lifetime = training, layout, min_interval, lifetime
        config = dataclasses.replace(config, name=self.files.name, data=Data())
        if config.server.weighting is None and (config.privacy.placement, config.privacy.unit) == ("none", "client"):
            config = config.with_overrides({"server.weighting": "examples"})
        clients = len(directory.clients)
        given = Given(
            clients=clients,
            train=SiteTraining(training),
            initial=first_vector(initial),
            sum=schemes.describe(config.sum.scheme).build(config, CurrentKeys(directory, clock)),
            credentials={client: directory.verify_key(client) for client in directory.clients},
        )
        settings = config.with_overrides({"sum.scheme": "plain", "sum.key_sums": 1})  # the object says the same
        parts = assemble(settings, given, noise_multiplier=self.files.calibrated_noise(config))
        self.config = dataclasses.replace(parts.config, sum=config.sum)
        self.parts: Assembly = federated(parts, directory.clients, metrics)
        self._open: _Open | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.parts.check_claim()
        check_current(self._directory, self._clock())
        self._stack.enter_context(self.files.writing(self.config, self._identity(), resume=True))
        try:
            self._open = self._begin()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())  # the folder learns of the error, and keeps nothing of a refused run
            raise
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 - passed on as it came
        self._open = None
        self._stack.__exit__(*error)

    @property
    def charter(self) -> Charter:
        """The charter, which each site approves by its digest; `StateError` before the server was entered once."""
        return Charter.read(self.files.path / CHARTER)

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """The sites, in increasing order."""
        return self._directory.clients

    @property
    def names(self) -> Mapping[str, ClientId]:
        """The identity of each site, by its name."""
        return self._directory.names

    @property
    def round(self) -> int:
        """The last round that is stored; 0 before the first."""
        return self._entered.progress.latest.round

    @property
    def rounds(self) -> int:
        """The last round that the charter allows."""
        return self.config.rounds

    @property
    def model(self) -> Vector:
        """The latest global model, float `[d]`."""
        return self._entered.progress.latest.model

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """The reports of all rounds so far, oldest first."""
        return tuple(self._entered.reports)

    def train_round(self, transport: Transport, model: Vector | None = None) -> RoundReport:
        """Run the next round, or go on with the one that was interrupted.

        Args:
            transport: Carries the frames.
            model: The model to train on, where somebody else makes the next model from each mean, such as a strategy of
                an engine. None takes the latest stored one.

        Returns:
            The report of the round. In a skipped round the model stays as it was.

        Raises:
            BudgetExceeded: If the round could cost too much; the model of the last paid round is stored.
            StateError: If all rounds of the charter are done, a site's key has expired, or the first `model` after a
                start is not the stored one.
        """
        entered = self._entered
        if self.round >= self.rounds:
            raise StateError(f"all {self.rounds} rounds of this charter are done: set rounds, and start another run")
        check_current(self._directory, self._clock())
        if model is not None:
            self.adopt(model)
        entered.driver.transport = transport
        report = entered.run.next(entered.progress, last=self.round + 1 == self.rounds)
        entered.driver.forget()
        entered.reports.append(report)
        self.files.write_reports(entered.reports)
        entered.confirmed = True
        return report

    def adopt(self, model: Vector) -> None:
        """Store the model that somebody else made from the mean of the last round.

        Args:
            model: The model that the next round trains on, float `[d]`.

        Raises:
            ConfigError: If it has another length than the run's model.
            StateError: If no round was run since this start, and it is not the stored model.
        """
        entered = self._entered
        latest = entered.progress.latest
        if model.shape != latest.model.shape:
            raise ConfigError(f"the model has {model.shape} entries, and this run's has {latest.model.shape}")
        model = np.ascontiguousarray(model, latest.model.dtype)
        digest = model_hash(model)
        if digest == latest.hash:
            entered.confirmed = True
            return
        if not entered.confirmed:
            raise StateError(
                f"the first model of this start is not the stored one of round {latest.round}: start from the model "
                "of the run's folder"
            )
        self._replace(dataclasses.replace(latest.state, model=model), model=digest)

    def evaluate(self, transport: Transport, model: Vector | None = None) -> Evaluation:
        """Sum the metrics of a model over the sites' own test examples: a secure sum of its own, after a round.

        Args:
            transport: Carries the frames.
            model: The model that the strategy made from the mean of the last round; None takes the latest stored one.

        Returns:
            The means over all test examples, which the report of the round then holds.

        Raises:
            ConfigError: If this server was made without `evaluation`.
            StateError: Before the first round: no site would enter round 1 after an evaluation in its place.
        """
        if not self._evaluation:
            raise ConfigError("name the metrics that sites may evaluate: FederationServer(evaluation=('accuracy',))")
        if not self.round:
            raise StateError("sites evaluate after a round: run train_round first")
        if model is not None:
            self.adopt(model)
        entered = self._entered
        entered.driver.transport = transport
        # Numbers follow the clock, so a restarted server goes on above those of its earlier starts.
        entered.evaluations = max(entered.evaluations + REPEATS, EVALUATION + max(0, int(self._clock() - _EPOCH)))
        found = evaluate_at_sites(
            entered.run, entered.progress, self.clients, self._evaluation, first=entered.evaluations
        )
        entered.driver.forget()
        report = entered.reports[-1]
        self._replace(
            entered.progress.latest.state,
            evaluation={**report.evaluation, **found.metrics},
            evaluation_caveats=[*report.evaluation_caveats, *found.caveats],
        )
        return found

    def _replace(self, state: ServerState, **values: object) -> None:
        """Store the last round again with another state, or with more in its report."""
        entered = self._entered
        latest = entered.progress.latest
        report = dict(latest.report) | values if latest.report else {}
        entered.progress.latest = self.files.store.save(
            latest.round, state, parent=latest.parent, report=report, live=latest.live
        )
        entered.reports[-1:] = [RoundReport.read(report)] if report else []
        self.files.write_reports(entered.reports)

    @property
    def _entered(self) -> _Open:
        if self._open is None:
            raise StateError("enter the server first: `with FederationServer(...) as server:`")
        return self._open

    def _identity(self) -> Identity:
        note = {"name": "privfl.experiment.sites.SiteTraining", "fingerprint": self._training}
        sites = {"name": f"{len(self.clients)} sites", "fingerprint": self._directory.digest}
        return Identity(self.parts.federation.fingerprint(), self.parts.clients, {"train": note, "data": sites})

    def _begin(self) -> _Open:
        parts, payment, evaluate = self.parts, payment_of(self.parts, self.files), self._evaluate
        driver = FrameDriver(
            key=self._key,
            charter=b"",
            sites=CurrentKeys(self._directory, self._clock),
            saved=self.files.path / EXCHANGE,
            receipts=ReceiptBook(self.files.path / RECEIPTS),
            ledger=payment.ledger if payment else Ledger(parts.unit),
            lifetime=self._lifetime,
            clock=self._clock,
            log=self._log,
        )
        training = SiteTraining(self._training)
        work = Stateful(training) if self._stateful else training
        run = FederatedRun(
            population=parts.clients,
            parts=Parts(work, parts.scheme, LoopExecutor(), parts.optimizer, credentials=parts.credentials),
            encoding=parts.encoding,
            range_rule=parts.range_rule,
            mechanism=parts.mechanism,
            sampler=parts.sampler,
            store=ModelStore(self.files.store.folder, parts.keep),
            seed=self.config.seed,
            nonce=self.files.nonce,
            survivor_rule=parts.survivor_rule,
            retries=parts.retries,
            payment=payment,
            evaluate=None if evaluate is None else lambda model, states: evaluate(model),
            evaluate_every=self.config.evaluate_every,
            uniforms=uniforms_of(parts, self.files),
            tap=self._tap,
            driver=driver,
            interrupted=driver.interrupted,
        )
        progress = run.begin(parts.method.initial)
        driver.charter = self._charter(run, progress).digest()
        reports = self.files.verified_reports()
        self.files.write_reports(reports)
        return _Open(run, driver, progress, reports)

    def _charter(self, run: FederatedRun, progress: Progress) -> Charter:
        """The charter: written at the first start, and compared with these settings from then on."""
        rounds = (0,) * len(self.clients) if self._stateful else ()
        state = self.files.store.load(0).state
        plan = run.plan(state, progress.start, 0, 0, self.clients, state_rounds=rounds)
        charter = Charter(
            name=self.files.name,
            terms=Charter.terms_of(plan),
            rounds=self.rounds,
            members=self.clients,
            directory=self._directory.digest,
            server=self._key.public.public.hex(),
            layout=self._layout,
            training=self._training,
            min_interval=self._interval,
            evaluation=self._evaluation,
        )
        path = self.files.path / CHARTER
        if not path.exists():
            charter.write(path)
        elif Charter.read(path) != charter:
            raise StateError(
                f"{path} states other terms than these settings, and sites approved it: use the settings of the run, "
                "or start another run"
            )
        return charter

    def _log(self, record: StepRecord) -> None:
        line = json.dumps(dataclasses.asdict(record), separators=(",", ":"))
        with (self.files.path / STEPS).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
