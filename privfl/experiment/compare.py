"""The same task trained several ways: without a federation, with one, and with privacy placed here or there.

Hyper-parameters are fixed beforehand and the same for every arm; only what an arm is about differs. Epsilon is that
of one run: looking at several runs, or tuning on them, would cost more, and is not counted.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.data import Dataset, FederatedData, public_standardize, standardize
from privfl.engine.pool import do_pieces, usable_cores
from privfl.errors import ConfigError, StateError
from privfl.experiment import baselines
from privfl.experiment.arms import Arm, ArmSummary, Cell, json_record, read_cell
from privfl.experiment.comparison import INSIDE, Comparison
from privfl.experiment.config import Config, to_mapping
from privfl.experiment.experiment import Experiment
from privfl.experiment.federation import build_federation, load, with_public_test
from privfl.experiment.folder import LOCK
from privfl.experiment.presets import SCALED
from privfl.experiment.schemes import describe
from privfl.experiment.workers import single_threaded
from privfl.files import atomic_write, canonical_json, existing_folder, read_json
from privfl.lock import sole_writer

RESULTS: Final = "cells.jsonl"
SCRATCH: Final = ".runs-"


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
        together.sort(key=lambda at: cells[at][0].kind not in INSIDE)  # the longest first, so none starts last
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
    clients = len(federation.clients)
    if arm.kind == "independent":
        config = comparison.independent(config, clients)
    experiment = Experiment(config, data=federation, runs=tempfile.mkdtemp(dir=runs))
    if arm.kind in ("pooled", "local"):
        metrics = baselines.pooled(experiment) if arm.kind == "pooled" else baselines.local(experiment)
        return Cell(arm.name, seed, comparison.figure(metrics), (), None, None, 0.0, 0.0, "", clients)
    reports = experiment.run().reports
    outsider, server = _epsilons(comparison, arm, experiment)
    curve = tuple(comparison.figure(report.evaluation) for report in reports if report.evaluation)
    return Cell(
        arm=arm.name,
        seed=seed,
        value=curve[-1],
        curve=curve,
        epsilon=outsider,
        server_epsilon=server,
        bytes_up=float(np.mean([report.bytes_up for report in reports])),
        seconds=float(np.mean([report.seconds for report in reports])),
        model=reports[-1].model,
        clients=clients,
    )


def _epsilons(comparison: Comparison, arm: Arm, experiment: Experiment) -> tuple[float | None, float | None]:
    """Epsilon against an outsider and the server. To an independent site the server is one that sees its release."""
    if arm.kind == "independent":
        own = comparison.independent_epsilon(arm)
        return own, own
    outsider, server = experiment.epsilon(), experiment.epsilon("server")
    return None if outsider is None else outsider.epsilon, None if server is None else server.epsilon


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
                independent_epsilon=_at_equal_noise(comparison, arm, own[0].clients),
            )
        )
    return rows


def _at_equal_noise(comparison: Comparison, arm: Arm, clients: int) -> float | None:
    if comparison.unit == "client" or arm.kind != "central":
        return None
    return comparison.independent_epsilon(arm, clients)


def _max_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _sees(arm: Arm) -> str:
    scheme = arm.overrides.get("sum.scheme", "plain")
    if arm.kind == "pooled":
        return "one place sees all examples"
    if arm.kind == "local":
        return "nobody sees anything"
    if arm.kind == "independent":
        return "the server sees the gradients of each site, with the site's own noise in them"
    if arm.kind == "local DP":
        return "the server sees every update, each with its own noise"
    if arm.kind in INSIDE:
        return "the server sees the sum, with the clients' noise in it"
    return describe(str(scheme)).sentence


def who_sees(rows: Sequence[ArmSummary]) -> list[tuple[str, str]]:
    """(arms, what they show to whom): arms that show the same in one line, those that differ in epsilon as one."""
    seen: dict[str, list[str]] = {}
    for row in rows:
        name = re.sub(r"(, noise of)? [0-9.e+-]+$", "", row.arm)
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
        "base": to_mapping(comparison.config(Arm("no noise", "federated"), 0)),
        "metric": comparison.metric_name,
        "warning": comparison.warning,
        "tuning": comparison.tuning,
        "rows": [json_record(row) for row in rows],
    }
