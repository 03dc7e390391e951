"""Draws benchmarks/results/secagg-growth.json: `python benchmarks/secagg/plot.py [growth.png]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"


def main(target: str) -> None:
    """Three panels: over clients, over length, over dropouts."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / "secagg-growth.json").read_text())["results"]
    panels = [
        ("clients", [r for r in rows if r["length"] == 2_000 and not r["dropped"]]),
        ("length", [r for r in rows if r["clients"] == 20 and r["length"] != 2_000]),
        ("dropped", [r for r in rows if r["clients"] == 50 and r["dropped"]]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (name, points) in zip(axes, panels, strict=True):
        points.sort(key=lambda row: row[name])
        for party in ("client", "server"):
            axis.plot([r[name] for r in points], [r[f"{party}_seconds"] for r in points], marker="o", label=party)
        axis.set(xlabel=name, ylabel="seconds", yscale="log", xscale="linear" if name == "dropped" else "log")
        axis.legend()
    figure.suptitle("Masked sum: seconds of one client and of the server, one core")
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESULTS / "secagg-growth.png"))
