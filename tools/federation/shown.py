"""The end of `make federation`: what the folders of server and sites state, and whether every promise holds."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from privfl.data import FederatedData
from privfl.dp import Accountant, Ledger
from privfl.experiment.config import Config
from privfl.experiment.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.fl.client import client_rng
from privfl.fl.metrics import MetricSums
from privfl.sums import Drop
from tools.federation.hospitals import BUDGET, DELTA, KILL_ROUND, ROUNDS, Hospital, steps, test_examples

SLACK: Final = 0.2  # in 100 in-process runs the mean was 0.928, the standard deviation 0.036, the minimum 0.771
REPEATS: Final = 10
MAX_RATIO: Final = 2.0


@dataclass
class Verdict:
    """What is printed, and which promises do not hold.

    Attributes:
        broken: the promises that do not hold.
    """

    broken: list[str] = field(default_factory=list)

    def promise(self, text: str, *, holds: bool) -> None:
        """Print a promise, and whether it holds."""
        print(f"  [{'ok' if holds else 'BROKEN'}] {text}")
        if not holds:
            self.broken.append(text)


def check_and_print(
    home: Path, hospitals: list[Hospital], config: Config, data: FederatedData, *, victim: Hospital, left: list[int]
) -> int:
    """Print what happened from the folders that are left; 1 if a promise does not hold.

    Args:
        home: the server's folder.
        hospitals: the sites.
        config: the settings of the run.
        data: the data of the in-process run.
        victim: the hospital whose agent was killed.
        left: processes that are still there.
    """
    verdict, run = Verdict(), RunFolder(home / "run")
    reports, names = run.reports(), {hospital.client: hospital.name for hospital in hospitals}
    print("\nround  status   survivors  dropped out  accuracy  bytes up  bytes down")
    for report in reports:
        absent = ", ".join(names[client] for client in report.dropouts) or "-"
        accuracy = report.evaluation.get("accuracy", float("nan"))
        print(
            f"{report.round:5}  {report.status:7}  {report.survivors:9}  {absent:11}  {accuracy:8.3f}"
            f"  {report.bytes_up:8}  {report.bytes_down:10}"
        )
    local = [in_process(hospitals, config, data, victim) for _ in range(REPEATS)]
    accuracy, mean = reports[-1].evaluation["accuracy"], statistics.mean(local)
    print(
        f"\naccuracy {accuracy:.3f} over Flower; in one process with equal seeds and other noise, {REPEATS} runs: ",
        end="",
    )
    print(f"mean {mean:.3f}, from {min(local):.3f} to {max(local):.3f}")
    epsilons = {observer: report.epsilon for observer, report in run.epsilons().items()}
    print(f"epsilon at delta {DELTA:g} from the server's ledger: " + _listed(epsilons))
    own = {hospital.name: site_epsilon(hospital) for hospital in hospitals}
    print(f"epsilon against the server from each site's own ledger, replace_one: {_listed(own)}")
    lines = [line for line in steps(home) if line["step"] > 0]
    floor, step = min(json.loads((home / "floor.json").read_text())), statistics.median(x["seconds"] for x in lines)
    print(f"seconds a step: {step:.1f} (median of {len(lines)}); a plain message of Flower: {floor:.1f}")
    print("\npromises")
    verdict.promise(f"{ROUNDS} rounds are trained", holds=[r.status for r in reports] == ["trained"] * ROUNDS)
    absent = {report.round: report.dropouts for report in reports}
    expected = {round: (victim.client,) if round == KILL_ROUND else () for round in range(1, ROUNDS + 1)}
    verdict.promise(f"only {victim.name} dropped out, of round {KILL_ROUND}, and came back", holds=absent == expected)
    verdict.promise(f"accuracy is within {SLACK} of the in-process mean", holds=accuracy > mean - SLACK)
    verdict.promise("the server's ledger holds one charge a round", holds=_charges(run) == [1, 2, 3])
    agree = all(_site_charges(hospital) == _reserved(run) for hospital in hospitals)
    verdict.promise("every site's ledger holds what the server reserved", holds=agree)
    verdict.promise(f"every site is within its budget of {BUDGET:g}", holds=all(e <= BUDGET for e in own.values()))
    quick = step <= MAX_RATIO * floor
    verdict.promise(f"a step takes at most {MAX_RATIO:g} times a plain message of Flower", holds=quick)
    verdict.promise("no example count and no update left a site in the clear", holds=not _leaks(home, hospitals))
    agents = set(run.sites.values()) == {("agent",)} and len(run.sites) == len(hospitals)
    verdict.promise("every site has signed that its own agent answered", holds=agents)
    verdict.promise("no process is left behind", holds=not left)
    page = write_report(run)
    verdict.promise("privfl report, epsilon and runs read the server's folder", holds=page is not None)
    print(f"\nreport: {page}\nrun:    {run.path}")
    if verdict.broken:
        print(f"\n{len(verdict.broken)} of the promises do not hold")
    return 1 if verdict.broken else 0


def write_report(run: RunFolder) -> Path | None:
    """Have the command line read the server's folder, as for any run; the path of the report, None if it cannot."""
    page = run.path.parent / "report.html"
    for arguments in (
        ["report", run.path, "--to", page],
        ["epsilon", "--ledger", run.ledger_path, "--delta", str(DELTA)],
        ["runs", "show", run.path],
    ):
        command = [sys.executable, "-m", "privfl", *map(str, arguments)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False).returncode:
            return None
    return page if page.exists() else None


def in_process(hospitals: list[Hospital], config: Config, data: FederatedData, victim: Hospital) -> float:
    """The accuracy of the same training in one process, with equal seeds, cohorts and dropouts."""
    from hospitals.training import make

    trains = [make(hospital.home / "data.npz") for hospital in hospitals]
    features, labels = test_examples(data)

    def train(model, client, round, rng):  # type: ignore[no-untyped-def]
        identity = hospitals[client].client
        return trains[client](model, identity, round, client_rng(config.seed, round, identity))

    def dropouts(round: int, attempt: int) -> Drop:
        gone = hospitals.index(victim)
        return lambda client, step: (round, client) == (KILL_ROUND, gone) and step >= 2

    def measure(model: np.ndarray) -> MetricSums:
        right = float((((features @ model[:-1] + model[-1]) > 0) == (labels > 0)).sum())
        return MetricSums({"rows": np.array([float(len(labels))]), "right": np.array([right])})

    overrides = {key: value for key, value in _flat(config).items() if not key.startswith(("data.", "model."))}
    experiment = Experiment(
        train=train,
        initial=np.zeros(features.shape[1] + 1),
        clients=len(hospitals),
        rounds=config.rounds,
        seed=config.seed,
        public_measure=measure,
        dropouts=dropouts,
        overrides=overrides,
    )
    return float(experiment.run().evaluation["right"])


def site_epsilon(hospital: Hospital) -> float:
    """Epsilon against the server from the ledgers in a site's own folder."""
    ledgers = [Ledger.read(path) for path in sorted((hospital.home / "ledgers").glob("*.jsonl"))]
    return Accountant(DELTA, observer="server").spent(ledgers)


def _flat(config: Config) -> dict[str, object]:
    sections = {name: getattr(config, name) for name in ("cohort", "sum", "privacy")}
    return {
        f"{name}.{key}": getattr(section, key)
        for name, section in sections.items()
        for key in section.__dataclass_fields__
        if getattr(section, key) != getattr(type(section)(), key)
    }


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


def _charge(release) -> tuple[int, float, float]:  # type: ignore[no-untyped-def]
    return release.round, release.declared_stddev, release.norm_bound


def _charges(run: RunFolder) -> list[int]:
    ledger = run.ledger
    return [] if ledger is None else [release.round for release in ledger.releases]


def _reserved(run: RunFolder) -> set[tuple[int, float, float]]:
    ledger = run.ledger
    return set() if ledger is None else {_charge(release) for release in ledger.releases}


def _site_charges(hospital: Hospital) -> set[tuple[int, float, float]]:
    (path,) = (hospital.home / "ledgers").glob("*.jsonl")
    return {_charge(release) for release in Ledger.read(path).releases}


def _leaks(home: Path, hospitals: list[Hospital]) -> list[str]:
    """Files of the server in which a site's first feature row or its name of examples stands as bytes."""
    needles = []
    for hospital in hospitals:
        with np.load(hospital.home / "data.npz", allow_pickle=False) as file:
            needles.append(np.ascontiguousarray(file["features"][0], "<f8").tobytes())
            needles.append(np.ascontiguousarray(file["features"][0], "<f4").tobytes())
    found = []
    for path in home.rglob("*"):
        if path.is_file() and path.name != "test.npz":
            content = path.read_bytes()
            found += [str(path) for needle in needles if needle in content]
            if path.suffix == ".jsonl" and re.search(rb'"examples"', content):
                found.append(str(path))
    return found
