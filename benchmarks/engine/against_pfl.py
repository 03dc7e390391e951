"""privfl against pfl 0.6.0: digits, an MLP, 20 of 200 Dirichlet clients, one local epoch in batches of 10.

    python benchmarks/engine/against_pfl.py [--times 5] [--peer-python PATH]

Builds pfl's environment in a temporary folder (about a minute, 1 GB), unless given the interpreter of one; then runs
both in turn as child processes on the same rows, timed inside, and keeps the ratio of the medians as JSON.
privfl trains the cohort at once. The limit: it takes at most a fifth of pfl's time for a round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from common import alternate, compare, medians, report, save_job

from privfl.data import load
from privfl.data.partitions import dirichlet

HERE = Path(__file__).resolve().parent
LIMIT = 5.0


def main() -> int:
    """Exit code 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--peer-python", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer = options.peer_python or build(Path(folder) / "venv")
        job = Path(folder) / "job.npz"
        digits = load("digits")
        parts = dirichlet(digits.targets, 200, 0.5, seed=1)
        save_job(
            job,
            digits.features,
            digits.targets,
            parts,
            cohort=20,
            batch_size=10,
            learning_rate=0.1,
            warm=10,
            rounds=options.rounds,
        )
        commands = {
            "privfl": [sys.executable, str(HERE / "run_privfl.py"), str(job), "mlp", "20"],
            "pfl": [str(peer), str(HERE / "run_pfl.py"), str(job), "mlp"],
        }
        runs = alternate(commands, options.times)
    ratio = compare(runs["pfl"], runs["privfl"])
    report(
        "engine-against-pfl",
        {
            "peer": "pfl 0.6.0",
            "pfl_over_privfl": ratio,
            "pfl_over_privfl_cpu": compare(runs["pfl"], runs["privfl"], "cpu_seconds"),
            "limit": LIMIT,
            "seconds_a_round": {name: medians(several) for name, several in runs.items()},
            "accuracy": {name: runs[name][0]["accuracy"] for name in runs},
            "runs": options.times,
        },
    )
    return int(ratio["of_medians"] < LIMIT)


def build(folder: Path) -> Path:
    """pfl's environment; returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pins = HERE.parent / "peers" / "pfl.txt"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(pins)], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main())
