"""Accuracy of logistic regression against the epsilon of one patient: heart disease in four hospitals, Adult at banks.

    PRIVFL_DATA=FOLDER python benchmarks/fl/patients_tables.py heart

Features are scaled by public ranges. Test examples are public: a fifth of each site's. The arms are those of
`patients.py`: a trusted server, the masked sum with mesh noise, and independent noise of every site.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from privfl.data import Dataset, load
from privfl.experiment import Config, Data, Experiment, Privacy, Server, Sum

RESULTS = Path(__file__).parents[1] / "results" / "patients-tables.json"
CASES: dict[str, dict[str, Any]] = {
    "heart": {
        "data": Data(name="heart", partition="natural", standardize="public", test="public"),
        "q": 0.1, "denominator": 60.0, "steps": 150, "eta": 0.5, "delta": 1e-4,
    },
    "adult": {
        "data": Data(name="adult", clients=8, partition="quantity:1.2", min_examples=50, standardize="public",
                     test="public"),
        "q": 0.02, "denominator": 600.0, "steps": 150, "eta": 1.0, "delta": 1e-5,
    },
}  # fmt: skip


RANGES = {"age": (20, 90), "trestbps": (80, 200), "chol": (100, 500), "thalach": (60, 210), "oldpeak": (-3, 6)}
"""Ranges of a clinic's numbers that anybody may know; all other features are 0 or 1."""


def heart() -> Dataset:
    """Heart disease with public ranges."""
    found = load("heart")
    ranges = tuple(tuple(map(float, RANGES.get(name, (0, 1)))) for name in found.feature_names)
    return dataclasses.replace(found, ranges=ranges)


def an_experiment(case: dict[str, Any], seed: int, arm: str, epsilon: float) -> Experiment:
    """One run; independent sites are one central noise with the variance of all of them."""
    privacy = Privacy(
        unit="example", placement="mesh" if arm == "sum" else "central", clip_norm=1.0,
        sampling_probability=case["q"], denominator=case["denominator"], epsilon=epsilon, delta=case["delta"],
    )  # fmt: skip
    run = Experiment(
        dataclasses.replace(Config(), data=case["data"]),
        data=heart() if case["data"].name == "heart" else None,
        seed=seed,
        rounds=case["steps"],
        evaluate_every=0,
        server=Server(eta=case["eta"]),
        sum=Sum(scheme="masked" if arm == "sum" else "plain"),
        privacy=privacy,
    )
    if arm != "independent":
        return run
    sites = run.parts.clients
    noise = run.config.privacy.noise_multiplier * math.sqrt(sites)
    own = dataclasses.replace(run.config.privacy, epsilon=None, noise_multiplier=noise)
    return Experiment(dataclasses.replace(run.config, privacy=own), data=run.parts.given.data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(CASES))
    parser.add_argument("--epsilons", default="0.5,1,3,8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    for epsilon in map(float, asked.epsilons.split(",")):
        for arm in ("central", "sum", "independent"):
            runs = [an_experiment(CASES[asked.name], seed, arm, epsilon) for seed in range(asked.seeds)]
            right = [run.run().accuracy or 0.0 for run in runs]
            entry = {
                "name": asked.name, "epsilon": epsilon, "arm": arm, "accuracy": float(np.mean(right)),
                "spread": float(np.std(right)), "seeds": asked.seeds,
                "noise_multiplier": runs[0].config.privacy.noise_multiplier,
            }  # fmt: skip
            print(json.dumps(entry), flush=True)
            kept = json.loads(asked.out.read_text()) if asked.out.exists() else []
            asked.out.write_text(json.dumps([*kept, entry], indent=1) + "\n")


if __name__ == "__main__":
    main()
