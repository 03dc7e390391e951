"""What a report says about a run: read from its folder, and judged anew from its ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from privfl.dp import Accountant, EpsilonReport, Ledger, Observer, default_delta
from privfl.errors import ConfigError
from privfl.experiment import Config, load_config
from privfl.experiment.archive import read_reports
from privfl.experiment.build import skip_chance
from privfl.experiment.experiment import CONFIG, LEDGER, MODELS
from privfl.experiment.schemes import describe
from privfl.experiment.versions import Origin, read_origins
from privfl.fl.run import RoundReport, check_charged
from privfl.fl.store import ModelStore


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `epsilons` is empty without noise; `ledger` is the hash of the ledger's last line."""

    folder: Path
    config: Config
    toml: str = field(repr=False)
    reports: tuple[RoundReport, ...] = field(repr=False)
    lineage: tuple[tuple[int, str, str], ...] = field(repr=False)
    parameters: int
    epsilons: dict[Observer, EpsilonReport]
    ledger: str | None
    origins: tuple[Origin, ...]


def read_run(folder: Path) -> RunRecord:
    """Read `folder`; raises `ConfigError` for a run without a model, and `StateError` for one that was altered."""
    config = load_config(folder / CONFIG)
    reports = tuple(read_reports(folder))
    versions = list(ModelStore(folder / MODELS).lineage())
    if not versions or not reports:
        raise ConfigError(f"the run {folder.name!r} has no finished round to report on")
    epsilons, head = _judge(folder, config)
    return RunRecord(
        folder=folder,
        config=config,
        toml=(folder / CONFIG).read_text(encoding="utf-8"),
        reports=reports,
        lineage=tuple((version.round, version.hash, version.parent) for version in versions),
        parameters=len(versions[-1].model),
        epsilons=epsilons,
        ledger=head,
        origins=read_origins(folder),
    )


def _judge(folder: Path, config: Config) -> tuple[dict[Observer, EpsilonReport], str | None]:
    if config.privacy.placement == "none":
        return {}, None
    ledger = Ledger.read(folder / LEDGER)
    check_charged(ModelStore(folder / MODELS), ledger)
    assume = config.privacy.noise == "simulation"
    delta = config.privacy.delta or default_delta(config.data.clients)[0]  # a run writes down the one it chose
    reports: dict[Observer, EpsilonReport] = {}
    for observer in describe(config.sum.scheme).views(config):
        # The clients of a natural partition are not in the configuration: there it stays an assumption, and is named.
        skips = 0.0 if config.data.partition.startswith("natural") else skip_chance(config, config.data.clients)
        accountant = Accountant(ledger.unit, delta, observer=observer, assume_secure_noise=assume, skips=skips)
        reports[observer] = accountant.report(ledger.releases)
    return reports, ledger.head
