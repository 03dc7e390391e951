"""privfl against PyTorch alone, and two workers against the loop: a small CNN on 28x28.

    python benchmarks/engine/overhead.py [--rounds 9]

The limits: a round with clipping, encoding and the sum takes at most 5 % longer than the bare training of the same
batches, and two workers are at least 1.6 times as fast as the loop (on two idle cores). All three take turns, round
by round, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import models
import numpy as np
import torch
from common import ONE_THREAD, compare, differences, medians, report
from pipeline import Rounds

OVERHEAD, SPEEDUP = 1.05, 1.6
SETTINGS: dict[str, Any] = {"cohort": 20, "batch_size": 10, "learning_rate": 0.05}
CLIENTS, ROWS = 40, 60


def main() -> int:
    """Exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # it is read when numpy is imported, which is done already
        return subprocess.run([sys.executable, *sys.argv], check=False, env={**os.environ, **ONE_THREAD}).returncode

    rng = np.random.default_rng(0)
    features = rng.normal(size=(CLIENTS * ROWS, 1, 28, 28)).astype(np.float32)  # the time does not depend on values
    targets = rng.integers(0, 10, CLIENTS * ROWS)
    parts = np.split(rng.permutation(CLIENTS * ROWS), CLIENTS)
    loop, pool = (Rounds(models.cnn(), features, targets, parts, SETTINGS, workers=count) for count in (0, 2))
    turns: dict[str, Callable[[int], None]] = {
        "bare": bare(models.cnn(), features, targets, parts),
        "loop": loop,
        "2 workers": pool,
    }
    times: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    for number in range(1 + options.rounds):
        for name, step in turns.items():
            start = (time.perf_counter(), time.process_time())
            step(number)
            times[name].append(differences([start, (time.perf_counter(), time.process_time())]))
    pool.executor.close()
    runs = {name: several[1:] for name, several in times.items()}
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
            "same_model": loop.model.tobytes() == pool.model.tobytes(),
            "rounds": options.rounds,
        },
    )
    return int(overhead["of_medians"] > OVERHEAD or speedup["of_medians"] < SPEEDUP)


def bare(model: Any, features: Any, targets: Any, parts: Any) -> Callable[[int], None]:
    """The loop of the tutorials - shuffle, forward, backward, step - over one client after the other."""
    torch.set_num_threads(1)
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    indices = [torch.from_numpy(part) for part in parts]
    optimizer = torch.optim.SGD(model.parameters(), lr=SETTINGS["learning_rate"])
    draws = np.random.default_rng(0)

    def step(number: int) -> None:
        for client in draws.choice(len(parts), SETTINGS["cohort"], replace=False):
            mine = indices[client]
            for batch in mine[torch.randperm(len(mine))].split(SETTINGS["batch_size"]):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
