"""The tables and the picture of docs/patients.md from the kept results.

python benchmarks/fl/patients_page.py --plot docs/images/patients.png
"""

from __future__ import annotations

import argparse
import json
import math
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.dp import Poisson, PrivacyUnit, what_if
from privfl.report.canvas import BLUE, GRAY, GREEN, ORANGE, RED, new_figure, save, style

RESULTS: Final = Path(__file__).parents[1] / "results"
ARMS: Final = ("central", "sum", "independent")
Q, STEPS, SITES, DELTA = 1 / 60, 600, 10, 1e-5
"""The terms of `patients.py`."""

PATIENTS: Final = ("central", "mesh", "distributed", "independent")
CLIENTS: Final = ("central", "mesh", "distributed", "local")
PANELS: Final = {
    "heart-example": "Heart: a patient of four hospitals",
    "digits-example": "Digits: an image of ten sites",
    "adult-example": "Adult: a person of eight banks",
    "digits-client": "Digits: a client of 32",
    "adult-client": "Adult: a bank of 32",
}
LINES: Final = {
    "central": ("trusted server", BLUE, "o", "-"),
    "mesh": ("through the sum, mesh", GREEN, "D", "-"),
    "distributed": ("through the sum, shares", ORANGE, "s", "--"),
    "independent": ("independent sites", RED, "v", ":"),
    "local": ("each client alone (local)", RED, "v", ":"),
}


def kept(name: str) -> Any:
    """The contents of a file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


@cache
def at_equal_noise(noise_multiplier: float) -> float:
    """Epsilon against the server of each of ten sites whose independent noises add up to this one."""
    report = what_if(
        sampling=Poisson(Q), noise_multiplier=noise_multiplier / math.sqrt(SITES), rounds=STEPS, delta=DELTA,
        unit=PrivacyUnit("example"), cross_checks=False,
    )  # fmt: skip
    return report.epsilon


def of_images(runs: list[dict[str, Any]], model: str, epsilon: float) -> dict[str, list[float]]:
    """The accuracies of MNIST by arm, in percent."""
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for run in runs:
        if (run["model"], run["epsilon"]) == (model, epsilon):
            found[run["arm"]].append(100 * run["accuracy"])
    return found


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def images(runs: list[dict[str, Any]]) -> list[str]:
    """The lines of the table of MNIST: mean and standard deviation over the repeats of each arm."""
    lines = []
    for model in ("histograms", "network"):
        for epsilon in sorted({run["epsilon"] for run in runs if run["model"] == model}):
            found = of_images(runs, model, epsilon)
            noise = next(r["noise_multiplier"] for r in runs if (r["model"], r["epsilon"]) == (model, epsilon))
            counts = sorted({len(values) for values in found.values()})
            cells = " | ".join(_spread(found[arm]) for arm in ARMS)
            n = "-".join(map(str, counts))
            lines.append(f"| {model} | {epsilon:g} | {cells} | {at_equal_noise(noise):.1f} | {n} |")
    return lines


def tables(cases: dict[str, Any], unit: str) -> list[str]:
    """The lines of the table of `privfl compare` for one unit.

    Args:
        cases: The contents of patients-tables.json.
        unit: "example" or "client".
    """
    lines = []
    for name in PANELS:
        data, _, of = name.partition("-")
        if of != unit:
            continue
        rows = {row["arm"]: row for row in cases[name]["rows"]}
        for epsilon in cases[name]["settings"]["epsilons"]:
            found = [_row(rows, arm, epsilon) for arm in (PATIENTS if unit == "example" else CLIENTS)]
            cells = [f"{100 * row['value']:.1f} ± {100 * row['stddev']:.1f}" for row in found]
            equal = [f"{found[0]['independent_epsilon']:.1f}"] if unit == "example" else []
            lines.append(f"| {data} | {epsilon:g} | {' | '.join([*cells, *equal])} |")
    return lines


def _row(rows: dict[str, Any], arm: str, epsilon: float) -> Any:
    name = f"{arm} DP {epsilon:g}"
    return rows[name] if name in rows else rows[f"{arm} DP, noise of {epsilon:g}"]


def plot(cases: dict[str, Any], runs: list[dict[str, Any]], path: Path) -> Path:
    """Draw accuracy over epsilon: a panel for each case of `PANELS`, and one for the network on MNIST."""
    figure = new_figure(13.0, 7.6)
    panels = figure.subplots(2, 3).ravel()
    for axes, (name, title) in zip(panels, PANELS.items(), strict=False):
        rows = {row["arm"]: row for row in cases[name]["rows"]}
        epsilons = cases[name]["settings"]["epsilons"]
        for arm in PATIENTS if name.endswith("example") else CLIENTS:
            found = [_row(rows, arm, epsilon) for epsilon in epsilons]
            _line(axes, arm, epsilons, [(100 * row["value"], 100 * row["stddev"]) for row in found])
        whole = rows["no noise" if name.endswith("example") else "FedAvg"]
        axes.axhline(100 * whole["value"], color=GRAY, linestyle="-.", label="no noise")
        _finish(axes, f"{title} ({cases[name]['settings']['seeds']} seeds)", epsilons)
    epsilons = sorted({run["epsilon"] for run in runs})
    for arm, line in zip(ARMS, ("central", "mesh", "independent"), strict=True):
        found = [of_images(runs, "network", epsilon)[arm] for epsilon in epsilons]
        points = [(float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0) for v in found]
        _line(panels[-1], line, epsilons, points)
    _finish(panels[-1], "MNIST: an image of ten sites, 784-64-10", epsilons)
    figure.supxlabel(
        "Bars: one standard deviation. A trusted server sees the sum before the noise: its own epsilon is infinite.",
        fontsize=9,
    )
    return save(figure, path)


def _line(axes: Any, arm: str, epsilons: list[float], points: list[tuple[float, float]]) -> None:
    label, color, marker, style_of = LINES[arm]
    values, spreads = zip(*points, strict=True)
    axes.errorbar(
        epsilons, values, spreads, color=color, marker=marker, markersize=5, linestyle=style_of, capsize=3, label=label
    )


def _finish(axes: Any, title: str, epsilons: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    style(axes, title, f"epsilon at delta {DELTA:g}", "% of test examples correct")
    axes.legend(fontsize=7, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    runs, cases = kept("patients"), kept("patients-tables")
    print("\n".join([*images(runs), "", *tables(cases, "example"), "", *tables(cases, "client")]))
    if asked.plot is not None:
        print(plot(cases, runs, asked.plot))


if __name__ == "__main__":
    main()
