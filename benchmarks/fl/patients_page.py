"""The two tables of docs/patients.md from the kept results: `python benchmarks/fl/patients_page.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[1] / "results"
ARMS = ("central", "sum", "independent")
EQUAL_NOISE = {1.0: 12.3, 3.0: 85.3, 8.0: 237.1}
"""Epsilon of one site whose noise is a tenth of the variance: `privfl epsilon` with the multiplier over sqrt(10)."""


def images(runs: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of MNIST: the mean over the repeats of each arm."""
    lines = []
    for model in ("histograms", "network"):
        for epsilon in sorted({run["epsilon"] for run in runs if run["model"] == model}):
            found = {
                arm: [r["accuracy"] for r in runs if (r["model"], r["epsilon"], r["arm"]) == (model, epsilon, arm)]
                for arm in ARMS
            }
            if all(found.values()):
                cells = " | ".join(f"{100 * np.mean(found[arm]):.1f}" for arm in ARMS)
                lines.append(f"| {model} | {epsilon:g} | {cells} | {EQUAL_NOISE[epsilon]:g} |")
    return lines


def tables(runs: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of heart disease and Adult."""
    lines = []
    for name in ("heart", "adult"):
        for epsilon in sorted({run["epsilon"] for run in runs if run["name"] == name}):
            found = {run["arm"]: run for run in runs if (run["name"], run["epsilon"]) == (name, epsilon)}
            if set(ARMS) <= set(found):
                cells = (f"{100 * found[arm]['accuracy']:.1f} ± {100 * found[arm]['spread']:.1f}" for arm in ARMS)
                lines.append(f"| {name} | {epsilon:g} | {' | '.join(cells)} |")
    return lines


def kept(name: str) -> list[dict[str, Any]]:
    """The entries of a file of results."""
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


if __name__ == "__main__":
    print("\n".join([*images(kept("patients")), "", *tables(kept("patients-tables"))]))
