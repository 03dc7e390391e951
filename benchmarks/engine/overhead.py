"""privfl against PyTorch alone, and two workers against the loop: a small CNN on 28x28.

    python benchmarks/engine/overhead.py [--times 5]

The limits: a round with clipping, encoding and the sum takes at most 5 % longer than the bare training of the same
batches, and two workers are at least 1.6 times as fast as the loop (on two idle cores).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import alternate, compare, medians, report, save_job

HERE = Path(__file__).resolve().parent
OVERHEAD, SPEEDUP = 1.05, 1.6


def main() -> int:
    """Exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    clients, rows = 40, 60
    features = rng.normal(size=(clients * rows, 1, 28, 28)).astype(np.float32)  # the time does not depend on values
    parts = np.split(rng.permutation(clients * rows), clients)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.npz"
        targets = rng.integers(0, 10, clients * rows)
        settings = {"cohort": 20, "batch_size": 10, "learning_rate": 0.05, "warm": 1, "rounds": options.rounds}
        save_job(job, features, targets, parts, **settings)
        privfl = [sys.executable, str(HERE / "run_privfl.py"), str(job), "cnn"]
        bare = [sys.executable, str(HERE / "run_bare.py"), str(job), "cnn"]
        commands = {"bare": bare, "loop": [*privfl, "0"], "2 workers": [*privfl, "2"]}
        runs = alternate(commands, options.times)
    overhead, speedup = compare(runs["loop"], runs["bare"]), compare(runs["loop"], runs["2 workers"])
    report(
        "engine-overhead",
        {
            "loop_over_bare": overhead,
            "loop_over_bare_cpu": compare(runs["loop"], runs["bare"], "cpu_seconds"),
            "loop_over_bare_limit": OVERHEAD,
            "loop_over_two_workers": speedup,
            "loop_over_two_workers_limit": SPEEDUP,
            "seconds_a_round": {name: medians(several) for name, several in runs.items()},
            "same_model": len({run["accuracy"] for name in ("loop", "2 workers") for run in runs[name]}) == 1,
            "runs": options.times,
        },
    )
    return int(overhead["of_medians"] > OVERHEAD or speedup["of_medians"] < SPEEDUP)


if __name__ == "__main__":
    sys.exit(main())
