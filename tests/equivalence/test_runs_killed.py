"""A run that is killed with SIGKILL, at moments nobody chose, goes on to the very model of a run that never was."""

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import privfl
from privfl.data import Dataset
from privfl.dp import CorrelatedNoise, Ledger, RoundNoise, epsilon, mechanism
from privfl.dp.unit import CLIENT_UNIT, PrivacyUnit
from privfl.experiment import Experiment, RoundReport
from privfl.fl.store import ModelStore

ROUNDS = 12
NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
BUFFER = {"buffer.size": 3, "buffer.concurrency": 4, "buffer.stragglers": 0.3, "buffer.availability": 0.8}
MODES: dict[str, dict[str, Any]] = {
    "plain": {"cohort.dropout": 0.2},
    "masked": {"cohort.dropout": 0.1, "sum.scheme": "masked", "server.optimizer": "fedadam", "rounds": 6},
    "scaffold": {"client.algorithm": "scaffold", "cohort.dropout": 0.3, "engine.workers": 2},
    "buffered": BUFFER | {"keep": "last:1", "cohort.dropout": 0.2, "server.optimizer": "fedadam"},
    "buffered masked": BUFFER
    | {"sum.scheme": "masked", "cohort.dropout": 0.05, "cohort.too_few": "retry", "rounds": 6},
    "buffered secure": BUFFER | NOISE | {"privacy.adjacency": "zero_out", "cohort.dropout": 0.2},
    "simulation": NOISE | {"privacy.noise": "simulation", "cohort.too_few": "retry", "cohort.dropout": 0.4},
    "secure": NOISE | {"cohort.dropout": 0.2},
    "correlated": NOISE
    | {
        "privacy.correlation": "toeplitz",
        "cohort.sampling": "one-pass",
        "cohort.size": 2,
        "data.clients": 24,
        "cohort.dropout": 0.2,
    },
}


def an_experiment(runs: Path, mode: str) -> Experiment:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
    common = {"name": mode, "rounds": ROUNDS, "data.clients": 8, "client.steps": 20, "client.batch_size": 5}
    return Experiment(data=data, runs=runs, overrides=common | MODES[mode])


def openings_written_to(log: Path) -> Callable[..., Any]:
    """The sampler of noise, noting each draw on the disk first: what was truly opened, or was about to be."""
    genuine = mechanism.rounded_gaussian

    def noting(*args: Any, **kwargs: Any) -> Any:
        with log.open("ab", buffering=0) as file:
            file.write(b".")
        return genuine(*args, **kwargs)

    return noting


def correlated_noise_written_to(log: Path) -> Callable[..., Any]:
    """The opener's noise, noting each round and what it releases on the disk before anybody sees it."""
    genuine = CorrelatedNoise._add

    def noting(self: CorrelatedNoise, noise: RoundNoise, round: int, *args: Any) -> Any:
        noisy = genuine(self, noise, round, *args)
        with log.open("ab", buffering=0) as file:
            file.write(f"{round} {hashlib.sha256(noisy.tobytes()).hexdigest()}\n".encode())
        return noisy

    return noting


def child(runs: str, mode: str) -> None:
    CorrelatedNoise._add = correlated_noise_written_to(Path(runs) / "released")  # type: ignore[method-assign]
    mechanism.rounded_gaussian = openings_written_to(Path(runs) / "openings")  # type: ignore[attr-defined]
    experiment = an_experiment(Path(runs), mode)
    os.write(1, b"ready\n")
    list(experiment.run(resume=True))


def run_child(runs: Path, mode: str, *, kill_after: float | None) -> bool:
    """Start or resume the run in a process of its own; True when it came to its end before it was killed."""
    home = str(Path(privfl.__file__).parents[1])
    command = [sys.executable, __file__, str(runs), mode]
    environment = {**os.environ, "PYTHONPATH": home}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            _, errors = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    assert (ready, process.returncode) == (b"ready\n", 0), errors.decode()
    return True


def versions(runs: Path, mode: str) -> dict[int, str]:
    return {version.round: version.hash for version in ModelStore(runs / mode / "models").history()}


def killed_until_done(runs: Path, mode: str, seed: int, kills: int) -> tuple[int, list[dict[int, str]]]:
    """How often the run was really killed, and what was stored after each time."""
    dice, seen = random.Random(f"{mode} {seed}"), []
    for _ in range(kills):
        # Squared: half of the kills come in the first quarter, when a run is being set up or resumed.
        if run_child(runs, mode, kill_after=0.4 * dice.random() ** 2):
            break
        seen.append(versions(runs, mode))
    assert run_child(runs, mode, kill_after=None)
    return len(seen), seen


def check_plain(runs: Path, mode: str, seed: int, kills: int) -> None:
    whole = list(an_experiment(runs / "whole", mode).run())
    killed_until_done(runs, mode, seed, kills)
    assert versions(runs, mode) == versions(runs / "whole", mode)
    stored = [RoundReport.read(v.report) for v in ModelStore(runs / mode / "models").history() if v.report]
    for one, other in zip(whole, stored, strict=True):
        for name in (
            "status",
            "attempts",
            "cohort",
            "dropouts",
            "evaluation",
            "metrics",
            "epsilon",
            "ages",
            "virtual_time",
        ):
            assert getattr(one, name) == getattr(other, name), name
    lines = (runs / mode / "metrics.jsonl").read_bytes().splitlines()
    assert len(lines) == len(whole)


def check_simulation(runs: Path, mode: str, seed: int, kills: int) -> None:
    check_plain(runs, mode, seed, kills)
    mine, whole = (Ledger(CLIENT_UNIT, folder / mode / "ledger.jsonl") for folder in (runs, runs / "whole"))
    assert mine.releases == whole.releases
    # What is left unsettled are tries below the threshold, whose vectors the server of a plain sum has seen.
    left = [[ledger.reserved(token) for token in ledger.unsettled] for ledger in (mine, whole)]
    assert left[0] == left[1]


def check_secure(runs: Path, mode: str, seed: int, kills: int) -> None:
    unit = PrivacyUnit("client", MODES[mode].get("privacy.adjacency", "add_remove"))
    count, seen = killed_until_done(runs, mode, seed, kills)
    final = versions(runs, mode)
    for stored in seen:
        assert stored.items() <= final.items()
    ledger = Ledger(unit, runs / mode / "ledger.jsonl")
    charged = Counter(release.round for release in ledger.releases)
    reports = [RoundReport.read(v.report) for v in ModelStore(runs / mode / "models").history() if v.report]
    trained = {report.round for report in reports if report.status == "trained"}
    assert trained <= set(charged)
    # A round below the threshold is charged too, because the server of a plain sum has seen its vectors.
    openings, settled = (runs / "openings").stat().st_size, len(ledger.releases) - len(ledger.unsettled)
    assert len(trained) <= openings <= settled <= openings + count  # noise is paid for before it is sampled
    assert len(ledger.releases) <= len(reports) + count
    if "buffer.size" not in MODES[mode]:  # arrivals are no secret
        assert (runs / mode / "cohorts.key").stat().st_mode & 0o077 == 0


def check_correlated(runs: Path, mode: str, seed: int, kills: int) -> None:
    """A round has one noise and one release, however often it was run, and kills cost nothing."""
    _, seen = killed_until_done(runs, mode, seed, kills)
    final = versions(runs, mode)
    for stored in seen:
        assert stored.items() <= final.items()
    released = dict[int, set[str]]()
    for line in (runs / "released").read_text().splitlines():
        round, digest = line.split()
        released.setdefault(int(round), set()).add(digest)
    assert {round: len(each) for round, each in released.items()} == dict.fromkeys(range(1, ROUNDS + 1), 1)
    noise = runs / mode / "noise.jsonl"
    assert CorrelatedNoise(noise).rounds == frozenset(range(1, ROUNDS + 1))
    assert noise.stat().st_mode & 0o077 == 0
    ledger = Ledger(CLIENT_UNIT, runs / mode / "ledger.jsonl")
    assert len({release.round for release in ledger.releases}) == ROUNDS
    planned = an_experiment(runs, mode).parts.planned_epsilon()
    for observer in ("outsider", "participant"):
        assert epsilon(ledger, 1e-5, observer=observer).epsilon == pytest.approx(planned, rel=1e-9)


CHECKS = {
    "plain": check_plain,
    "masked": check_plain,
    "scaffold": check_plain,
    "buffered": check_plain,
    "buffered masked": check_plain,
    "buffered secure": check_secure,
    "simulation": check_simulation,
    "secure": check_secure,
    "correlated": check_correlated,
}


@pytest.mark.parametrize("mode", ["simulation", "secure", "correlated"])
def test_a_killed_run_goes_on(tmp_path: Path, mode: str) -> None:
    CHECKS[mode](tmp_path, mode, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("mode", sorted(MODES))
def test_many_killed_runs_go_on(tmp_path: Path, mode: str, seed: int) -> None:
    CHECKS[mode](tmp_path, mode, seed, 8)


if __name__ == "__main__":
    child(*sys.argv[1:])
