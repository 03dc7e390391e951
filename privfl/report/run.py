"""The facts of a report: read from the run's folder, with epsilons computed from its ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from privfl.dp import EpsilonReport, Observer
from privfl.errors import ConfigError
from privfl.experiment import Config
from privfl.experiment.answers import Answers
from privfl.experiment.folder import RunFolder
from privfl.experiment.given import describe_parts
from privfl.experiment.versions import Origin
from privfl.fl.receipts import MODES, Mode
from privfl.fl.report import RoundReport
from privfl.wire import ClientId


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All data that the report of one run shows.

    Attributes:
        folder: Its folder.
        config: Its configuration.
        toml: The configuration as text.
        reports: The reports of its rounds.
        lineage: Round, hash and parent's hash of each model.
        parameters: The number of entries of a model.
        clients: The number of clients.
        epsilons: The statement against each observer; empty without noise.
        ledger: The hash of the ledger's last line; None without noise.
        origins: The versions that rounds were made with.
        objects: The names of the objects that a program gave, by argument of `Experiment`.
        sites: The modes that each site of a federation has signed; empty for a run in one process.
        answers: The noisy answers that came before the first round; None where none were asked for.
    """

    folder: Path
    config: Config
    toml: str = field(repr=False)
    reports: tuple[RoundReport, ...] = field(repr=False)
    lineage: tuple[tuple[int, str, str], ...] = field(repr=False)
    parameters: int
    clients: int
    epsilons: dict[Observer, EpsilonReport]
    ledger: str | None
    origins: tuple[Origin, ...]
    objects: dict[str, str] = field(default_factory=dict)
    sites: dict[ClientId, tuple[Mode, ...]] = field(default_factory=dict)
    answers: Answers | None = None


def read_run(files: RunFolder | Path) -> RunRecord:
    """Read a run's folder.

    Raises:
        ConfigError: For a run without a finished round.
        StateError: For a run that was altered.
    """
    files = files if isinstance(files, RunFolder) else RunFolder(files)
    reports = tuple(files.reports())
    versions, latest = list(files.store.history()), files.store.latest()
    if latest is None or not reports:
        raise ConfigError(f"the run {files.name!r} has no finished round to report on: run it first")
    ledger = files.ledger
    return RunRecord(
        folder=files.path,
        config=files.config,
        toml=files.toml,
        reports=reports,
        lineage=tuple((version.round, version.hash, version.parent) for version in versions),
        parameters=len(latest.model),
        clients=files.identity.clients,
        epsilons=files.epsilons(),
        ledger=None if ledger is None else ledger.head,
        origins=files.origins,
        objects=describe_parts(files.identity.parts),
        sites=files.sites,
        answers=files.answers(files.config),
    )


def modes_in_words(sites: Mapping[ClientId, tuple[Mode, ...]]) -> str:
    """A text such as "agent: 3 of 5 sites; in-app: 2 of 5 sites (12, 14)", which names the sites in in-app mode.

    Args:
        sites: The modes of each site, as its receipts state them.
    """
    words = []
    for mode in MODES:
        named = [str(client) for client, modes in sites.items() if mode in modes]
        if named:
            words.append(f"{mode}: {len(named)} of {len(sites)} sites" + (f" ({', '.join(named)})" * (mode != "agent")))
    return "; ".join(words)
