"""What the engine's benchmarks share: jobs as files, child processes in turn, and results as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parents[1] / "results"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def machine() -> dict[str, Any]:
    """The machine as a reader needs to know it."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def timed(step: Callable[[int], None], *, warm: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each of `rounds` calls, after `warm` that do not count: by the clock, and of this process's CPU.

    By the clock is what a user waits for; the CPU's time is the steadier of the two where a machine is shared.
    """
    stamps = [(time.perf_counter(), time.process_time())]
    for number in range(warm + rounds):
        step(number)
        stamps.append((time.perf_counter(), time.process_time()))
    return differences(stamps[warm:])


def differences(stamps: list[tuple[float, float]]) -> dict[str, list[float]]:
    """Seconds between (clock, CPU) stamps."""
    clock, cpu = np.diff(np.array(stamps), axis=0).T
    return {"seconds": clock.tolist(), "cpu_seconds": cpu.tolist()}


def alternate(commands: Mapping[str, Sequence[str]], times: int) -> dict[str, list[dict[str, Any]]]:
    """Run the commands A B A B ..., each `times` times, with one thread; each prints one line of JSON at its end."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **ONE_THREAD})
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            clock, cpu = (1e3 * statistics.median(results[name][-1][key]) for key in ("seconds", "cpu_seconds"))
            print(f"{name:>12}: {clock:8.2f} ms a round, {cpu:8.2f} ms of CPU", flush=True)
    return results


def medians(runs: list[dict[str, Any]], key: str = "seconds") -> dict[str, float]:
    """Of every run its median round; of these the median and the least, in seconds."""
    each = [statistics.median(run[key]) for run in runs]
    return {"median": statistics.median(each), "least": min(each)}


def compare(slow: list[dict[str, Any]], fast: list[dict[str, Any]], key: str = "seconds") -> dict[str, float]:
    """How many times as long `slow` takes as `fast`: by their medians, and by their least."""
    a, b = medians(slow, key), medians(fast, key)
    return {"of_medians": a["median"] / b["median"], "of_least": a["least"] / b["least"]}


def report(name: str, result: dict[str, Any]) -> None:
    """Keep the result as JSON beside the others, and print it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": name, "machine": machine(), **result}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)


def save_job(path: Path, features: Any, targets: Any, parts: Sequence[Any], **settings: float) -> None:
    """One job for all contestants: rows, each client's row numbers, and numbers as settings."""
    ends = np.cumsum([len(part) for part in parts])
    arrays = {"features": features, "targets": targets, "order": np.concatenate(parts), "ends": ends}
    np.savez(path, **arrays, **{key: np.asarray(value) for key, value in settings.items()})


def load_job(path: str) -> tuple[Any, Any, list[Any], dict[str, Any]]:
    """Features, targets, each client's row numbers, and the settings."""
    with np.load(path) as file:
        arrays = dict(file)
    features, targets = arrays.pop("features"), arrays.pop("targets")
    parts = np.split(arrays.pop("order"), arrays.pop("ends")[:-1])
    return features, targets, parts, {key: value.item() for key, value in arrays.items()}
