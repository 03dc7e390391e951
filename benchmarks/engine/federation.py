"""A round of a federation in one process against `run_round`: five real sites in the app, and nothing on a wire.

    python benchmarks/engine/federation.py [--rounds 5] [--length 1000000]

The limits: at most 1.5 times `run_round` of the same round, and at most 1.02 times the bytes of the sum's messages.
Both take turns, round by round, on a folder in memory: a site syncs each step to the disk, which is not measured here.
The ratio is that of the least CPU seconds, because what other programs take is no cost of a round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ONE_THREAD, machine, report

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]  # their sites and training
RATIO, BYTES = 1.5, 1.02
SETTINGS = {
    "sum.scheme": "masked",
    "cohort.min_survivor_fraction": 0.6,
    "evaluate_every": 0,
    "privacy.placement": "distributed",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
}


def main() -> int:
    """Exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=1_000_000)
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        return subprocess.run([sys.executable, *sys.argv], check=False, env={**os.environ, **ONE_THREAD}).returncode
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        ours, bare, up, bare_up = measure(Path(folder), options.rounds, options.length)
    ratio, bytes_ratio = min(ours) / min(bare), up / bare_up
    report(
        "engine-federation",
        {
            "machine": machine(),
            "length": options.length,
            "run_round_seconds": bare,
            "federation_seconds": ours,
            "ratio": ratio,
            "limit": RATIO,
            "bytes_ratio": bytes_ratio,
            "bytes_limit": BYTES,
        },
    )
    print(f"{ratio:.2f} times run_round (limit {RATIO}), {bytes_ratio:.4f} times its bytes (limit {BYTES})")
    return int(ratio > RATIO or bytes_ratio > BYTES)


def measure(folder: Path, rounds: int, length: int) -> tuple[list[float], list[float], int, int]:
    """CPU seconds of each round with sites and without, and the bytes of one round, both ways together."""
    from federations import Sites, small

    from privfl.experiment.experiment import Experiment
    from privfl.fl.exchange import LocalTransport

    settings = {**SETTINGS, "rounds": rounds + 1}
    (folder / "bare").mkdir()
    bare = Experiment(
        train=small, initial=np.zeros(length), clients=5, overrides=settings, runs=folder / "bare"
    ).each_round()
    sites = Sites.make(folder, settings, np.zeros(length))
    sites.approve()
    transport = LocalTransport({client: sites.site(client) for client in sites.homes})
    times: tuple[list[float], list[float]] = ([], [])
    with sites.server() as server:
        for _ in range(1 + rounds):
            start = time.process_time()
            report_bare = next(bare)
            middle = time.process_time()
            report_ours = server.train_round(transport)
            times[0].append(time.process_time() - middle)
            times[1].append(middle - start)
    bare.close()
    sites.close()
    totals = [one.bytes_up + one.bytes_down for one in (report_ours, report_bare)]
    return times[0][1:], times[1][1:], totals[0], totals[1]


if __name__ == "__main__":
    sys.exit(main())
