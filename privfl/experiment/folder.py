"""The folder of a run: the only truth about it, which every program that opens the run reads from it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from privfl.dp import CorrelatedNoise, EpsilonReport, Ledger, Mechanism, Observer, default_delta, epsilon
from privfl.dp.accounting.report import delta_caveat
from privfl.errors import ConfigError, PrivflError, StateError
from privfl.experiment import build
from privfl.experiment.answers import FILE as ANSWERS
from privfl.experiment.answers import Answers, check_answers, read_answers
from privfl.experiment.config import Config, Engine, from_mapping, read_toml, to_mapping, to_toml, toml_text
from privfl.experiment.examples import delta_units
from privfl.experiment.given import described_part
from privfl.experiment.versions import VERSIONS, Origin, note_origin, read_origins
from privfl.files import atomic_write, canonical_json, existing_parent, read_json, sweep, user_path
from privfl.fl.payment import check_charged
from privfl.fl.plan import RUN_NONCE_BYTES
from privfl.fl.receipts import Mode, ReceiptBook
from privfl.fl.report import RoundReport
from privfl.fl.store import ModelStore
from privfl.lock import sole_writer
from privfl.observers import OBSERVERS
from privfl.wire import ClientId

CONFIG: Final = "config.toml"
IDENTITY: Final = "run.json"
METRICS: Final = "metrics.jsonl"
LEDGER: Final = "ledger.jsonl"
MODELS: Final = "models"
COHORT_KEY: Final = "cohorts.key"
NOISE: Final = "noise.jsonl"
LOCK: Final = "lock"
RECEIPTS: Final = "receipts.jsonl"
CHARTER: Final = "charter.privfl"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a run, next to its configuration.

    Attributes:
        data: The SHA-256 of the examples and of who holds which, 64 hex digits.
        clients: The number of clients.
        parts: The name and fingerprint of each object that a program gave, by argument of `Experiment`.
        nonce: 16 random bytes, made with the folder: two runs of one configuration are two runs.
        settings: The SHA-256 of the settings that the run was started with and keeps, 64 hex digits.
    """

    data: str
    clients: int
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nonce: bytes = field(default=b"", compare=False)
    settings: str = field(default="", compare=False)


class RunFolder:
    """The folder of one run: configuration, identity, models, reports, ledger, keys, versions and lock.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = user_path(path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """True if the folder holds a run."""
        return (self.path / CONFIG).is_file()

    @property
    def toml(self) -> str:
        """The text of the configuration as it stands in the folder; `config` checks it."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    @property
    def config(self) -> Config:
        """The configuration of the run.

        Raises:
            ConfigError: The file is no configuration.
            StateError: A setting that the run keeps was edited after the run was started, or the record is lost.
        """
        tree = read_toml(self.path / CONFIG)
        config = from_mapping(tree)
        if _settings_digest(config, tree) != self.identity.settings:
            raise StateError(
                f"{self.path / CONFIG} was edited after the run was started: put back the file as it was, or start a "
                "run of the new settings under another name"
            )
        return config

    @property
    def identity(self) -> Identity:
        """The data and objects that the run was started with; raises `StateError` where the record is lost."""
        path = self.path / IDENTITY
        try:
            record = read_json(path.read_text(encoding="utf-8"))
            identity = Identity(
                str(record["data"]),
                int(record["clients"]),
                dict(record["parts"]),
                bytes.fromhex(record["nonce"]),
                str(record["settings"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path} is lost or altered: start the run again under another name") from error
        if len(identity.nonce) != RUN_NONCE_BYTES:
            raise StateError(f"{path}: the nonce has {len(identity.nonce)} bytes, {RUN_NONCE_BYTES} were expected")
        return identity

    @property
    def nonce(self) -> bytes:
        """16 random bytes that distinguish this run from every other."""
        return self.identity.nonce

    @property
    def store(self) -> ModelStore:
        """The versions of the global model."""
        return ModelStore(self.path / MODELS)

    @property
    def ledger_path(self) -> Path:
        """The path of the ledger, in a run that adds noise."""
        return self.path / LEDGER

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, checked against the stored models; None for a run without noise."""
        if self.config.privacy.placement == "none":
            if self.ledger_path.exists():
                raise StateError(
                    f"this run adds no noise, and {self.ledger_path} is there: move that ledger back to the run that "
                    "it belongs to"
                )
            return None
        if not self.ledger_path.exists():
            ledger = Ledger(build.privacy_unit(self.config))
        else:
            ledger = Ledger.read(self.ledger_path)
        check_charged(self.store, ledger)
        rounds = max(self.store.rounds(), default=0)
        check_answers(self.path, ledger, rounds=rounds, noisy=self.config.data.standardize == "noisy")
        return ledger

    def answers(self, config: Config) -> Answers | None:
        """The noisy answers of the run in this folder, if `config` has its settings; None before they were asked."""
        same = self.exists and essence(self.config) == essence(config)
        return read_answers(self.path) if same else None

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The versions of the libraries that rounds were made with, oldest first."""
        return read_origins(self.path)

    @property
    def sites(self) -> dict[ClientId, tuple[Mode, ...]]:
        """The mode that each site has signed in its receipts, in the order of their first use; empty without sites.

        Raises:
            StateError: The file of the receipts was altered.
        """
        return ReceiptBook(self.path / RECEIPTS).modes

    def reports(self) -> list[RoundReport]:
        """The reports of all rounds, oldest first, as they are sealed with the models.

        Raises:
            StateError: A stored report was altered, or lacks a key.
        """
        return [RoundReport.read(report, path) for path, report in self.store.reports()]

    def verified_reports(self) -> list[RoundReport]:
        """The same reports, after every model that was kept is read and checked; raises `StateError` as `reports`."""
        store = self.store
        return [RoundReport.read(kept.report, store.path(kept.round)) for kept in store.history() if kept.report]

    def write_reports(self, reports: Sequence[RoundReport]) -> None:
        """Replace the copy of the reports that other programs read; privfl reads those next to the models."""
        atomic_write(self.path / METRICS, b"".join(canonical_json(report.record()) + b"\n" for report in reports))

    def epsilon(self, observer: Observer = "outsider", *, delta: float | None = None) -> EpsilonReport | None:
        """The epsilon of the rounds so far, from the ledger; no setting of the caller plays a part.

        Args:
            observer: The observer against which epsilon is stated.
            delta: The delta of the statement; the run's own by default.

        Returns:
            The statement; None for a run without noise.

        Raises:
            StateError: When the ledger is altered, or does not hold a round whose model is stored.
        """
        ledger, config = self.ledger, self.config
        if ledger is None:
            return None
        units = delta_units(config, self.identity.clients)
        own, why = default_delta(units)
        asked = delta if delta is not None else config.privacy.delta if config.privacy.delta is not None else own
        assume = config.privacy.noise == "simulation"
        group = config.privacy.sites_per_person
        report = epsilon(ledger, asked, observer=observer, assume_secure_noise=assume, group=group)
        about = why if report.delta == own else delta_caveat(report.delta, units)
        return dataclasses.replace(report, caveats=(*report.caveats, about)) if about else report

    def epsilons(self) -> dict[Observer, EpsilonReport]:
        """The epsilon against every observer that this run's sum has; empty without noise."""
        ledger, found = self.ledger, {}
        releases = () if ledger is None else ledger.releases
        named = {observer for release in releases for observer in release.views} or {"outsider"}
        for observer in OBSERVERS:
            report = self.epsilon(observer) if observer in named else None
            if report is not None:
                found[observer] = report
        return found

    def key(self, name: str = COHORT_KEY) -> bytes:
        """A secret of this run, 32 bytes, made when it is first asked for and readable by its owner only."""
        path = self.path / name
        if not path.exists():
            atomic_write(path, os.urandom(_KEY_BYTES))
        secret = path.read_bytes()
        if len(secret) != _KEY_BYTES:
            raise StateError(f"{path} holds {len(secret)} bytes, {_KEY_BYTES} were expected: start another run")
        return secret

    def noise(self, mechanism: Mechanism, seed: int) -> CorrelatedNoise | None:
        """The opener's noise of this run where it is correlated across rounds, else None.

        Args:
            mechanism: The noise of the run.
            seed: Keys simulation noise.
        """
        if mechanism.correlation == "none":
            return None
        return CorrelatedNoise(self.path / NOISE, key=None if mechanism.source == "secure" else (seed,))

    def check_same(self, config: Config, identity: Identity) -> None:
        """Check that the run was started with these settings, data and objects.

        Args:
            config: The settings, which must agree in their `essence`.
            identity: The data, the number of clients and the fingerprints of the objects.

        Raises:
            StateError: If settings, data or an object differ.
        """
        if essence(self.config) != essence(config):
            raise StateError(
                f"{self.path} was started with other settings (see {self.path / CONFIG}): they cannot be mixed; use "
                f"those settings, or another name"
            )
        stored = self.identity
        if (stored.data, stored.clients) != (identity.data, identity.clients):
            raise StateError(
                f"{self.path} was started with other data, or with other clients: give the same data, or another name"
            )
        for part in sorted(stored.parts.keys() | identity.parts.keys()):
            before, now = stored.parts.get(part), identity.parts.get(part)
            if before != now:
                raise StateError(
                    f"{self.path} was started with {described_part(part, before)}, not with "
                    f"{described_part(part, now)}: give the same object, or another name"
                )

    def calibrated_noise(self, config: Config) -> float | None:
        """The noise multiplier of the run in this folder, if `config` aims at the same epsilon; None without a run."""
        if not self.exists:
            return None
        stored, asked = self.config.privacy, config.privacy
        same = (stored.epsilon, stored.placement) == (asked.epsilon, asked.placement)
        return stored.noise_multiplier if same else None

    @contextlib.contextmanager
    def writing(self, config: Config, identity: Identity, *, resume: bool) -> Iterator[None]:
        """Be the folder's only writer while the block runs; the folder is made if it holds no run.

        A block that raises an error of privfl before anything has happened leaves no run behind: no round, no charge,
        and no charter, which sites may have approved.

        Args:
            config: The configuration, which a run that goes on must share in all that matters.
            identity: The data and the objects, which it must share too.
            resume: Whether a run that is there may go on.

        Raises:
            ConfigError: When there is a run and `resume` is false, or the folder of runs would lie in one that does not
                exist.
            StateError: When another process is writing, or the run there is another one.
        """
        existing_parent(self.path.parent)
        self.path.mkdir(parents=True, exist_ok=True)
        with sole_writer(self.path / LOCK):
            fresh = not self.exists
            if fresh:
                self._start(config, identity)
            else:
                self._go_on(config, identity, resume=resume)
            try:
                note_origin(self.path, max(self.store.rounds(), default=0) + 1)
                yield
            except PrivflError:
                if fresh and not self._is_used():
                    self._discard()
                raise

    def _is_used(self) -> bool:
        """True once a round is stored, the ledger has more than its first line, or sites may have a charter."""
        charged = self.ledger_path.exists() and self.ledger_path.read_bytes().count(b"\n") > 1
        return charged or any(self.store.rounds()) or (self.path / CHARTER).exists()

    def _start(self, config: Config, identity: Identity) -> None:
        if self.ledger_path.exists() or self.store.rounds():
            raise StateError(f"{self.path} holds a run without its {CONFIG}: put that file back, or use another name")
        settings = _settings_digest(config, to_mapping(config))
        record = asdict(identity) | {"nonce": os.urandom(RUN_NONCE_BYTES).hex(), "settings": settings}
        atomic_write(self.path / IDENTITY, canonical_json(record) + b"\n")  # first: a configuration has an identity
        atomic_write(self.path / CONFIG, to_toml(config).encode())

    def _go_on(self, config: Config, identity: Identity, *, resume: bool) -> None:
        if not resume:
            raise ConfigError(f"{self.path} holds a run already: resume it, or choose another name")
        self.check_same(config, identity)
        sweep(self.path)
        sweep(self.path / MODELS)
        stored, now = read_toml(self.path / CONFIG), to_mapping(config)
        # All that may differ, and the data's folder.
        tree = {**stored, "rounds": now["rounds"], "engine": now["engine"]}
        tree["data"] = {key: value for key, value in stored.get("data", {}).items() if key != "folder"}
        tree["data"] |= {key: value for key, value in now["data"].items() if key == "folder"}
        atomic_write(self.path / CONFIG, toml_text(tree).encode())

    def _discard(self) -> None:
        """Remove what a run consists of, and the folder if nothing else is in it."""
        shutil.rmtree(self.path / MODELS, ignore_errors=True)
        for name in (CONFIG, IDENTITY, METRICS, LEDGER, COHORT_KEY, NOISE, ANSWERS, VERSIONS, LOCK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def find_runs(runs: Path | str) -> list[RunFolder]:
    """All runs in the folder `runs`, by name; none where there is no such folder."""
    folder = user_path(runs)
    return [RunFolder(path.parent) for path in sorted(folder.glob(f"*/{CONFIG}"))] if folder.is_dir() else []


def find_run(runs: Path | str, name: str) -> RunFolder:
    """The run of a name.

    Args:
        runs: The folder of runs.
        name: The name of a run in `runs`, or the path of a run's folder.

    Raises:
        ConfigError: If there is no such run.
    """
    for path in (user_path(runs) / name, user_path(name)):
        if RunFolder(path).exists:
            return RunFolder(path)
    known = ", ".join(run.name for run in find_runs(runs)) or "none"
    raise ConfigError(f"there is no run {name!r} in {runs}; there are: {known}")


def essence(config: Config) -> Config:
    """The settings that a resumed run shares with the stored one: all but its length and where it is computed."""
    data = dataclasses.replace(config.data, folder=None)
    return dataclasses.replace(config, rounds=1, data=data, engine=Engine())


def _settings_digest(config: Config, tree: Mapping[str, Any]) -> str:
    """The hash of a configuration's `essence`, of those keys that its file holds: defaults added later change nothing.

    Two files that differ in layout or comments alone, or in `1` for `1.0`, have one digest.
    """
    values = {
        key: {name: item for name, item in value.items() if name in tree[key]} if isinstance(value, dict) else value
        for key, value in to_mapping(essence(config)).items()
        if key in tree
    }
    return hashlib.sha256(canonical_json(values)).hexdigest()
