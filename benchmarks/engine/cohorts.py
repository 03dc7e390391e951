"""Clients trained at once against the loop of an earlier commit: digits, the 2NN, and the loop of a CNN.

    python benchmarks/engine/cohorts.py --before REVISION [--times 5] [--only digits]

The limits: a round of digits with 20 clients is at least 1.8 times as fast as the earlier loop, one of the 2NN with 10
clients at least twice. The loop itself, on the CNN, is at least 0.95 times as fast. All contestants take turns as child
processes with one thread, on the same examples. Examples of the 2NN and the CNN are random: the time does not depend on
them.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from common import alternate, compare, medians, report, save_job

from privfl.data import load
from privfl.data.partitions import dirichlet

HERE = Path(__file__).resolve().parent
LIMITS = {"digits": 1.8, "2nn": 2.0, "cnn": 0.95}
CHUNKS = {"digits": 20, "2nn": 10, "cnn": 0}
MODELS = {"digits": "mlp", "2nn": "two_hidden", "cnn": "cnn"}


def main() -> int:
    """Exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", required=True, help="a revision of this repository, whose loop is the yardstick")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    ratios, seconds, cpu = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = extracted(options.before, folder / "earlier")
        for task, model in [(task, MODELS[task]) for task in options.only]:
            job = folder / f"{task}.npz"
            JOBS[task](job)
            run = [str(HERE / "run_privfl.py"), str(job), model]
            commands = {
                "before": ["/usr/bin/env", f"PYTHONPATH={earlier}", sys.executable, *run],
                "now": ["/usr/bin/env", f"PYTHONPATH={HERE.parents[1]}", sys.executable, *run, str(CHUNKS[task])],
            }
            print(task)
            runs = alternate(commands, options.times)
            ratios[task] = compare(runs["before"], runs["now"])
            cpu[task] = compare(runs["before"], runs["now"], "cpu_seconds")
            seconds[task] = {contestant: medians(several) for contestant, several in runs.items()}
    report(
        "engine-cohorts",
        {
            "before": subject(options.before),
            "before_over_now": ratios,
            "before_over_now_cpu": cpu,
            "limits": LIMITS,
            "chunks": CHUNKS,
            "seconds_a_round": seconds,
            "runs": options.times,
        },
    )
    return int(any(cpu[task]["of_medians"] < LIMITS[task] for task in options.only))


def digits(job: Path) -> None:
    """The job of `against_pfl.py`: 20 of 200 clients."""
    data = load("digits")
    parts = dirichlet(data.targets, 200, 0.5, seed=1)
    settings = {"cohort": 20, "batch_size": 10, "learning_rate": 0.1, "warm": 10, "rounds": 200}
    save_job(job, data.features, data.targets, parts, **settings)


def two_hidden(job: Path) -> None:
    """10 of 20 clients with 300 examples each."""
    random_job(job, (784,), clients=20, size=300, cohort=10, rounds=8)


def cnn(job: Path) -> None:
    """10 of 20 clients with 60 examples each."""
    random_job(job, (1, 28, 28), clients=20, size=60, cohort=10, rounds=6)


def random_job(job: Path, shape: tuple[int, ...], *, clients: int, size: int, cohort: int, rounds: int) -> None:
    """Random examples for equal clients."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(clients * size, *shape)).astype(np.float32)
    targets, parts = rng.integers(0, 10, clients * size), np.split(rng.permutation(clients * size), clients)
    save_job(job, features, targets, parts, cohort=cohort, batch_size=10, learning_rate=0.05, warm=1, rounds=rounds)


JOBS = {"digits": digits, "2nn": two_hidden, "cnn": cnn}


def extracted(revision: str, folder: Path) -> Path:
    """The package of an earlier revision, in a folder of its own."""
    folder.mkdir()
    root = HERE.parents[1]
    command = ["git", "archive", revision, "privfl"]
    packed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def subject(revision: str) -> str:
    """The subject of a commit, which outlives its number."""
    command = ["git", "log", "-1", "--format=%s", revision]
    done = subprocess.run(command, cwd=HERE.parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
