"""Rounds and accuracy of the algorithms on digits and MNIST, over clients that differ in labels or in size.

    python benchmarks/fl/algorithms.py                 # digits: the table of docs/algorithms.md, some minutes
    python benchmarks/fl/algorithms.py --mnist DATA    # MNIST, two shards a client: SCAFFOLD against FedAvg

Every figure is the mean over seeds, and goes to benchmarks/results/algorithms-*.json with the machine's description.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from privfl.experiment import Experiment

RESULTS = Path(__file__).parents[1] / "results"
ROUNDS, SEEDS = 60, (0, 1, 2)
DIGITS = {
    "data.name": "digits",
    "data.clients": 20,
    "data.test": "local",
    "cohort.sampling": "fixed-size",
    "cohort.size": 10,
    "model.kind": "mlp",
    "model.hidden": [32],
    "client.learning_rate": 0.1,
    "client.batch_size": 10,
}
SPLITS = {
    "alike": {"data.partition": "iid", "client.epochs": 5},
    "two labels a client": {"data.partition": "shards:2", "client.epochs": 5},
    "sizes differ": {"data.partition": "quantity:1.5", "client.epochs": 5},
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"client.algorithm": "fedprox", "client.proximal": 0.1},
    "scaffold": {"client.algorithm": "scaffold"},
    "fednova": {"client.algorithm": "fednova"},
    "fedavg, tuned": {"client.tuning": 1},
    "local layers": {"client.algorithm": "local-layers", "client.local_layers": ["2"]},
}


def curve(settings: dict[str, Any], metric: str = "accuracy", stop: float = 2.0) -> list[float]:
    """The metric after each round, up to the first that reaches `stop`."""
    with tempfile.TemporaryDirectory() as runs:
        found = []
        for report in Experiment(runs=runs, overrides=settings).each_round():
            found.append(report.evaluation[metric])
            if found[-1] >= stop:
                break
        return found


def rounds_to(accuracies: list[float], target: float) -> int | None:
    return next((number for number, accuracy in enumerate(accuracies, 1) if accuracy >= target), None)


def digits() -> dict[str, Any]:
    table: dict[str, Any] = {}
    for split, dealt in SPLITS.items():
        for name, algorithm in ALGORITHMS.items():
            metric = "tuned_accuracy" if name.endswith("tuned") else "accuracy"
            settings = DIGITS | dealt | algorithm | {"rounds": ROUNDS}
            found = [curve(settings | {"seed": seed}, metric) for seed in SEEDS]
            last = sum(sum(one[-5:]) / 5 for one in found) / len(found)
            reached = [rounds_to(one, 0.9) for one in found]
            table.setdefault(split, {})[name] = {
                "accuracy": round(last, 4),
                "rounds to 90 %": None if None in reached else round(sum(filter(None, reached)) / len(reached), 1),
            }
            print(split, name, table[split][name], flush=True)
    return {"rounds": ROUNDS, "seeds": SEEDS, "settings": DIGITS, "splits": SPLITS, "table": table}


def mnist(folder: str, limit: int) -> dict[str, Any]:
    common = {"data.name": "mnist", "data.folder": folder, "data.clients": 20, "data.partition": "shards:2",
              "model.kind": "mlp", "model.hidden": [64], "client.batch_size": 20, "cohort.sampling": "fixed-size",
              "cohort.size": 10, "rounds": limit, "server.weighting": "uniform"}  # fmt: skip
    found: dict[str, Any] = {}
    for name in ("fedavg", "scaffold"):
        for rate in (0.1, 0.2):
            accuracies = curve(common | {"client.algorithm": name, "client.learning_rate": rate}, stop=0.95)
            found[f"{name}, rate {rate}"] = {"rounds to 95 %": rounds_to(accuracies, 0.95), "best": max(accuracies)}
            print(name, rate, found[f"{name}, rate {rate}"], flush=True)
    return {"settings": {k: v for k, v in common.items() if k != "data.folder"}, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist", metavar="DATA")
    parser.add_argument("--limit", type=int, default=250)
    asked = parser.parse_args()
    name = "algorithms-mnist" if asked.mnist else "algorithms-digits"
    result = mnist(asked.mnist, asked.limit) if asked.mnist else digits()
    machine = {"machine": platform.platform(), "python": sys.version.split()[0]}
    text = json.dumps(machine | result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
