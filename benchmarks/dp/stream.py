"""Accuracy of correlated and of independent noise at equal epsilon, over a stream of clients that each come once.

    python benchmarks/dp/stream.py        # the figure and the table of docs/noise.md, about ten minutes

1400 clients hold one or two digits each and come in 100 rounds of 14. For each epsilon and each kind of noise the clip
norm is the best of three by the accuracy of the first seed, and the other seeds are shown. The results go to
benchmarks/results/stream-digits.json with the machine's description.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

from privfl.experiment import Experiment
from privfl.report.canvas import BLUE, GRAY, ORANGE, new_figure, save, style

ROOT = Path(__file__).parents[2]
EPSILONS, CLIPS, SEEDS = (1.0, 2.0, 4.0, 8.0), (0.3, 1.0, 3.0), (1, 2, 3)
KINDS = {
    "none": ("independent noise", ORANGE, "s"),
    "toeplitz": ("noise correlated across rounds (toeplitz)", BLUE, "o"),
}
STREAM: dict[str, Any] = {
    "data.name": "digits",
    "data.clients": 1400,
    "data.test": "public",
    "data.test_fraction": 0.2,
    "client.learning_rate": 3.0,
    "cohort.sampling": "one-pass",
    "cohort.size": 14,
    "rounds": 100,
    "evaluate_every": 0,
}


def accuracy(seed: int, **privacy: Any) -> tuple[float, float | None]:
    """The accuracy after the last round, and the noise multiplier."""
    overrides = STREAM | {"seed": seed} | {f"privacy.{name}": value for name, value in privacy.items()}
    with tempfile.TemporaryDirectory() as runs:
        experiment = Experiment(runs=runs, overrides=overrides)
        reports = list(experiment.each_round())
        return reports[-1].evaluation["accuracy"], experiment.config.privacy.noise_multiplier


def measured(epsilon: float, correlation: str) -> dict[str, Any]:
    """One point of the figure."""
    settings = {"placement": "central", "correlation": correlation, "epsilon": epsilon, "noise": "simulation"}
    tried = {clip: accuracy(0, clip_norm=clip, **settings)[0] for clip in CLIPS}
    clip = max(tried, key=lambda each: tried[each])
    runs = [accuracy(seed, clip_norm=clip, **settings) for seed in SEEDS]
    point = {
        "epsilon": epsilon,
        "correlation": correlation,
        "clip_norm": clip,
        "noise_multiplier": runs[0][1],
        "accuracies": [found for found, _ in runs],
    }
    print(point, flush=True)
    return point


def drawn(points: list[dict[str, Any]], bare: float, path: Path) -> None:
    """The figure: the mean of the seeds, with the least and the largest."""
    figure = new_figure(6.5, 4.0)
    axes = figure.subplots()
    for kind, (label, color, marker) in KINDS.items():
        own = [point for point in points if point["correlation"] == kind]
        means = [sum(point["accuracies"]) / len(point["accuracies"]) for point in own]
        errors = [
            [mean - min(point["accuracies"]) for mean, point in zip(means, own, strict=True)],
            [max(point["accuracies"]) - mean for mean, point in zip(means, own, strict=True)],
        ]
        at = [point["epsilon"] for point in own]
        axes.errorbar(at, means, errors, marker=marker, color=color, capsize=3, label=label)
    axes.axhline(bare, color=GRAY, linestyle=":", label="no noise")
    style(axes, "A stream of clients that come once", "epsilon", "accuracy after 100 rounds")
    axes.set(xscale="log", ylim=(0, 1))
    axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.supxlabel("digits, 1400 clients, 100 rounds of 14; mean, least and largest of three seeds", fontsize=8)
    save(figure, path)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    bare = max(sum(accuracy(seed, clip_norm=clip)[0] for seed in SEEDS) / len(SEEDS) for clip in CLIPS)
    points = [measured(epsilon, kind) for epsilon in EPSILONS for kind in KINDS]
    record = {"machine": platform.platform(), "python": platform.python_version(), "no noise": bare, "points": points}
    path = ROOT / "benchmarks" / "results" / "stream-digits.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    drawn(points, bare, ROOT / "docs" / "images" / "stream.png")


if __name__ == "__main__":
    main()
