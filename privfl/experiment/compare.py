"""The same task trained several ways: without a federation, with one, and with privacy placed here or there.

Hyper-parameters are fixed beforehand and the same for every arm; only what an arm is about differs. Epsilon is that
of one run: looking at several runs, or tuning on them, would cost more, and is not counted.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.data import Dataset, FederatedData, public_standardize, standardize
from privfl.dp import Everyone, calibrate
from privfl.engine.pool import do_pieces, usable_cores
from privfl.errors import ConfigError, StateError
from privfl.experiment import baselines
from privfl.experiment.arms import Arm, ArmSummary, Cell, json_record, read_cell
from privfl.experiment.config import Config, from_mapping, to_mapping
from privfl.experiment.experiment import Experiment
from privfl.experiment.federation import build_federation, load, schema_of, with_named_clients, with_public_test
from privfl.experiment.folder import LOCK
from privfl.experiment.presets import HEADLINES, PRESETS, REGRESSIONS, SCALED, tuned_on
from privfl.experiment.schemes import SCHEMES, describe
from privfl.experiment.workers import single_threaded
from privfl.files import atomic_write, canonical_json, existing_folder, read_json
from privfl.lock import sole_writer

RESULTS: Final = "cells.jsonl"
SCRATCH: Final = ".runs-"
DELTA: Final = 1e-5
_INSIDE: Final = ("distributed", "mesh")
WARNING: Final = (
    "Hyper-parameters were fixed beforehand and are equal in all arms. Epsilon is of one run, against an outsider, "
    "and excludes tuning and other seeds."
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison's settings; raises `ConfigError` for an unknown data set or sum, or settings that rule out an arm.

    Attributes:
        data: The data set, a key of `PRESETS`.
        clients: The number of clients, unless the partition is natural.
        partition: The split of the examples among clients, as in `data.partition`.
        rounds: The rounds of each run.
        epsilons: The targets of central noise, above 0. Every other placement gets noise of the same multipliers.
        seeds: The runs of each arm, at least 1, except that an arm of a sum has one; their seeds count from 0.
        sums: The names of the sums to measure, keys of `SCHEMES`.
        folder: The folder of the data set's files; None takes the default.
        metric: The metric that is compared; empty for the first of `HEADLINES` that the task has.
        base: The settings of a configuration file that takes the place of the preset, by section; see `of`.
    """

    data: str = "digits"
    clients: int = 32
    partition: str = "dirichlet:1"
    rounds: int = 10
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seeds: int = 3
    sums: tuple[str, ...] = tuple(SCHEMES)
    folder: str | None = None
    metric: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, **settings: Any) -> Comparison:
        """The comparison of a configuration: its data, model, training and clip norm, in every arm.

        Its sum and its noise give way to those of the arms.

        Args:
            config: The configuration.
            settings: The attributes `epsilons`, `seeds`, `sums` and `metric`, where they are not the defaults.

        Raises:
            ConfigError: The configuration samples cohorts, or standardizes without noise.
        """
        config = with_named_clients(config)
        data = config.data
        if data.standardize in ("exact", "local"):
            raise ConfigError(
                f"data.standardize = {data.standardize!r} has no noise, and some arms have: set 'public' or 'none'"
            )
        if config.cohort.sampling != "everyone":
            raise ConfigError(
                f"cohort.sampling = {config.cohort.sampling!r}, and compare sizes its noise for rounds of all clients: "
                "set 'everyone'"
            )
        base = to_mapping(config)
        clip = base.pop("privacy", {}).get("clip_norm")
        kept = {key: value for key, value in base.items() if key not in ("sum", "name", "seed")}
        if clip is not None:
            kept["privacy"] = {"clip_norm": clip}
        return cls(
            data=Path(data.table).stem if data.table else data.name, clients=data.clients, partition=data.dealing,
            rounds=config.rounds, folder=data.folder, base=kept, **settings,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.base and self.data not in PRESETS:
            raise ConfigError(
                f"compare knows the data sets {', '.join(PRESETS)}, not {self.data!r}: for data of your own, give a "
                "configuration file"
            )
        unknown = [name for name in self.sums if name not in SCHEMES]
        if unknown or not self.sums:
            raise ConfigError(f"sums are of {', '.join(SCHEMES)}, not {unknown[0] if unknown else 'none'!r}")
        if self.seeds < 1 or not self.epsilons or min(self.epsilons) <= 0:
            raise ConfigError("compare needs at least one seed, and positive epsilons")

    @property
    def tuning(self) -> str:
        """The statement of which settings were tuned, on which data, and for which arms."""
        return tuned_on(None if self.base else self.data)

    def arms(self) -> list[Arm]:
        """All arms, the cheap ones first."""
        noise = {epsilon: self._multiplier(epsilon) for epsilon in self.epsilons}
        arms = [Arm("pooled", "pooled"), Arm("local only", "local"), Arm("FedAvg", "federated")]
        for epsilon, multiplier in sorted(noise.items()):
            arms.append(Arm(f"central DP {epsilon:g}", "central", self._private("central", multiplier), epsilon))
        for epsilon, multiplier in sorted(noise.items()):
            arms.append(Arm(f"local DP, noise of {epsilon:g}", "local DP", self._private("local", multiplier), epsilon))
        masked = {"cohort.min_survivor_fraction": 0.9, "sum.scheme": "masked"}
        for placement in _INSIDE:
            for epsilon, multiplier in sorted(noise.items()):
                inside = self._private(placement, multiplier) | masked
                arms.append(Arm(f"{placement} DP, noise of {epsilon:g}", placement, inside, epsilon))
        arms += [Arm(f"{name} sum", "sum", {"sum.scheme": name}) for name in self.sums]
        return arms

    def cells(self) -> list[tuple[Arm, int]]:
        """The runs: sums give the same model to the last bit, so one seed shows the cost of each sum."""
        return [(arm, seed) for arm in self.arms() for seed in range(1 if arm.kind == "sum" else self.seeds)]

    def config(self, arm: Arm, seed: int) -> Config:
        """The configuration of one cell.

        Args:
            arm: The way of training.
            seed: The seed of the partition and the run.
        """
        name = f"{arm.name}-{seed}".replace(" ", "-").replace(",", "")
        if self.base:
            public = {"data.test": "public", "server.weighting": "uniform"}
            return from_mapping({**self.base, "name": name, "seed": seed}).with_overrides({**public, **arm.overrides})
        settings: dict[str, Any] = {
            "data.name": self.data,
            "data.folder": self.folder,
            "data.clients": self.clients,
            "data.partition": self.partition,
            "data.test": "public",
            "data.min_examples": 5,
            "client.steps": 20,
            "client.batch_size": 10,
            "server.weighting": "uniform",
            **PRESETS[self.data],
            **arm.overrides,
        }
        return Config(name=name, seed=seed, rounds=self.rounds).with_overrides(settings)

    @property
    def metric_name(self) -> str:
        """The metric that is compared: the one asked for, or the first of `HEADLINES` that the task has."""
        if self.metric:
            return self.metric
        if not self.base:
            return HEADLINES[self.data in REGRESSIONS]
        settings = self.config(Arm("pooled", "pooled"), 0).data
        task = schema_of(settings).task if settings.table else load(settings).task
        return HEADLINES[task == "regression"]

    def figure(self, metrics: Mapping[str, float]) -> float:
        """The compared metric among those of an evaluation; raises `ConfigError` where it is absent."""
        for name in (self.metric,) if self.metric else HEADLINES:
            if name in metrics:
                return metrics[name]
        known = ", ".join(sorted(metrics)) or "none"
        raise ConfigError(f"there is no metric {self.metric or HEADLINES[0]} here: choose among {known}")

    def _private(self, placement: str, multiplier: float) -> dict[str, Any]:
        preset = {} if self.base else PRESETS[self.data]
        clip = self.base.get("privacy", preset).get("clip_norm", preset.get("privacy.clip_norm", 1.0))
        noise = {"privacy.placement": placement, "privacy.noise_multiplier": multiplier}
        return noise | {"privacy.clip_norm": clip, "privacy.delta": DELTA}

    def _multiplier(self, epsilon: float) -> float:
        return calibrate(epsilon=epsilon, delta=DELTA, sampling=Everyone(), rounds=self.rounds).noise_multiplier


def run_comparison(
    comparison: Comparison, folder: Path | str, *, resume: bool = False, workers: int | None = None
) -> Iterator[Cell]:
    """Yield every cell as it is ready, those that `folder` holds already first; each is on the disk before.

    Sums are measured after all other cells, one at a time, so their seconds are those of an otherwise idle machine.

    Args:
        comparison: What is compared.
        folder: Where the cells are kept; it has one writer at a time. It is made with the folder around it.
        resume: Go on where the folder holds this comparison.
        workers: The number of processes that run arms at the same time; None takes as many as there are cores.

    Raises:
        ConfigError: Where a comparison is there and `resume` is not asked for.
        StateError: Where it is another comparison, or another process is writing it.
    """
    dataset = load(
        comparison.config(comparison.arms()[0], 0).data
    )  # once: workers share it; first, as it may not be there
    folder = existing_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder / LOCK):
        yield from _write_cells(comparison, dataset, folder, resume=resume, workers=workers)


def _write_cells(
    comparison: Comparison, dataset: Dataset, folder: Path, *, resume: bool, workers: int | None
) -> Iterator[Cell]:
    path = folder / RESULTS
    header = {"comparison": hashlib.sha256(canonical_json(asdict(comparison))).hexdigest()}
    found = _read(path, header) if path.exists() else []
    if found and not resume:
        raise ConfigError(f"{folder} holds a comparison already: resume it, or choose another folder")
    done = {(cell.arm, cell.seed) for cell in found}
    yield from found
    cells = [(arm, seed) for arm, seed in comparison.cells() if (arm.name, seed) not in done]
    if not cells:
        return
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # of one that was killed
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:

        def work(number: int) -> Any:
            arm, seed = cells[number]
            return json_record(_run(comparison, arm, seed, dataset, Path(scratch)))

        together = [at for at, (arm, _) in enumerate(cells) if arm.kind != "sum"]
        together.sort(key=lambda at: cells[at][0].kind not in _INSIDE)  # the longest first, so none starts last
        alone = [at for at, (arm, _) in enumerate(cells) if arm.kind == "sum"]
        for numbers, processes in ((together, usable_cores() if workers is None else workers), (alone, 1)):
            for _, record in do_pieces(work, numbers, processes, initializer=single_threaded):
                found.append(read_cell(record))
                lines = [header, *map(json_record, found)]
                atomic_write(path, b"".join(canonical_json(line) + b"\n" for line in lines), shared=True)
                yield found[-1]


def _read(path: Path, header: Mapping[str, Any]) -> list[Cell]:
    try:
        first, *lines = (read_json(line) for line in path.read_text(encoding="utf-8").splitlines())
        cells = [read_cell(line) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path} does not hold a comparison: {error}") from error
    if first != header:
        raise StateError(f"{path} holds a comparison with other settings: give another folder (--to FOLDER)")
    return cells


def _run(comparison: Comparison, arm: Arm, seed: int, dataset: Dataset, runs: Path) -> Cell:
    # A folder of its own: a piece that failed in a worker is done again.
    config = comparison.config(arm, seed)
    federation = _federation(config, dataset, scaled=not comparison.base and comparison.data in SCALED)
    experiment = Experiment(config, data=federation, runs=tempfile.mkdtemp(dir=runs))
    clients = len(experiment.federation.clients)
    if arm.kind in ("pooled", "local"):
        metrics = baselines.pooled(experiment) if arm.kind == "pooled" else baselines.local(experiment)
        return Cell(arm.name, seed, comparison.figure(metrics), (), None, None, 0.0, 0.0, "", clients)
    reports = experiment.run().reports
    outsider, server = experiment.epsilon(), experiment.epsilon("server")
    curve = tuple(comparison.figure(report.evaluation) for report in reports if report.evaluation)
    return Cell(
        arm=arm.name,
        seed=seed,
        value=curve[-1],
        curve=curve,
        epsilon=None if outsider is None else outsider.epsilon,
        server_epsilon=None if server is None else server.epsilon,
        bytes_up=float(np.mean([report.bytes_up for report in reports])),
        seconds=float(np.mean([report.seconds for report in reports])),
        model=reports[-1].model,
        clients=clients,
    )


def _federation(config: Config, dataset: Dataset, *, scaled: bool) -> FederatedData:
    """The clients of a cell. Test examples are public even where the partition is natural and they have an owner."""
    federation = with_public_test(build_federation(config, dataset))
    if not scaled:
        return federation
    public = federation.dataset.features[federation.test].astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column that is missing throughout has no mean: 0 and 1
        mean, stddev = np.nanmean(public, axis=0), np.nanstd(public, axis=0)
    scaling = public_standardize(np.nan_to_num(mean), np.where(stddev > 0, stddev, 1.0))
    return standardize(federation, scaling)


def summarize(comparison: Comparison, cells: Sequence[Cell]) -> list[ArmSummary]:
    """One row an arm, in the arms' order; epsilon is the largest over the seeds.

    Args:
        comparison: The settings.
        cells: Its cells, in any order; an arm without a cell has no row.
    """
    rows = []
    for arm in comparison.arms():
        own = sorted((cell for cell in cells if cell.arm == arm.name), key=lambda cell: cell.seed)
        if not own:
            continue
        values = [cell.value for cell in own]
        rows.append(
            ArmSummary(
                arm=arm.name,
                seeds=len(own),
                value=float(np.mean(values)),
                stddev=float(np.std(values, ddof=1)) if len(own) > 1 else 0.0,
                epsilon=_max_known([cell.epsilon for cell in own]),
                server_epsilon=_max_known([cell.server_epsilon for cell in own]),
                bytes_up=float(np.mean([cell.bytes_up for cell in own])),
                seconds=float(np.mean([cell.seconds for cell in own])),
                sees=_sees(arm),
                clients=own[0].clients,
            )
        )
    return rows


def _max_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _sees(arm: Arm) -> str:
    scheme = arm.overrides.get("sum.scheme", "plain")
    if arm.kind == "pooled":
        return "one place sees all examples"
    if arm.kind == "local":
        return "nobody sees anything"
    if arm.kind == "local DP":
        return "the server sees every update, each with its own noise"
    if arm.kind in _INSIDE:
        return "the server sees the sum, with the clients' noise in it"
    return describe(str(scheme)).sentence


def who_sees(rows: Sequence[ArmSummary]) -> list[tuple[str, str]]:
    """(arms, what they show to whom): arms that show the same in one line, those that differ in epsilon as one."""
    seen: dict[str, list[str]] = {}
    for row in rows:
        name = "central DP" if row.arm.startswith("central DP") else row.arm.partition(", noise")[0]
        names = seen.setdefault(row.sees, [])
        if name not in names:
            names.append(name)
    return [(", ".join(names), what) for what, names in seen.items()]


def as_record(comparison: Comparison, rows: Sequence[ArmSummary]) -> dict[str, Any]:
    """The comparison as a JSON object.

    Args:
        comparison: The settings.
        rows: The rows of its table, as `summarize` makes them.
    """
    return {
        "settings": asdict(comparison),
        "base": to_mapping(comparison.config(Arm("FedAvg", "federated"), 0)),
        "metric": comparison.metric_name,
        "warning": WARNING,
        "tuning": comparison.tuning,
        "rows": [json_record(row) for row in rows],
    }
