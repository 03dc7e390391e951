"""Seconds of a round as clients, length and workers grow: one plot, and the figures as JSON.

    python benchmarks/engine/growth.py

Clients: a linear model of 650 values, each alone and in batches of 32. Length: 20 clients whose training costs nothing,
so what is left is encoding and sum. Workers: 200 clients of one epoch on 20,000 values. All through a plain sum, each
figure the least of several rounds. Writes results/engine-growth.json and results/engine-growth.png.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from common import RESULTS, report

from privfl.codec import FixedPoint
from privfl.dp import Everyone, FlatClip
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.fl.chunks import EACH_ALONE, Chunking
from privfl.fl.client import ClientUpdate, Executor
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

ROUNDS, CLIP = 9, 8.0


def seconds(train: Any, length: int, clients: int, executor: Executor, chunking: Chunking = EACH_ALONE) -> float:
    """The least of several rounds, after one that does not count."""
    start, times = np.zeros(length), []
    encoding = UpdateEncoding(length, FixedPoint.fit(Ring(40), clip_norm=CLIP, cohort=clients), FlatClip(CLIP))
    parts = Parts(train, PlainSum(), executor)
    for number in range(1, ROUNDS + 2):
        plan = RoundPlan(
            run=bytes(16),
            round=number,
            model_hash=model_hash(start),
            cohort=tuple(range(clients)),
            population=clients,
            sampling=Everyone(),
            survivor_rule=SurvivorRule(1.0),
            encoding=encoding,
            scheme=PlainSum.name,
            seed=0,
            chunking=chunking,
        )
        began = time.perf_counter()
        run_round(ServerState(start), plan, parts)
        times.append(time.perf_counter() - began)
    executor.close()
    return min(times[1:])


def linear(features: int, outputs: int) -> LinearTrain:
    """A softmax model on twenty examples a client."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, features)), rng.integers(0, outputs, 64).astype(float)
    model = LinearModel("softmax", features, outputs)
    return LinearTrain(model, lambda client: (x[client % 44 :][:20], y[client % 44 :][:20]), batch_size=10)


def nothing(length: int) -> Any:
    """A training that returns one vector."""
    delta = np.random.default_rng(0).normal(size=length) / length
    return lambda model, client, round, rng: ClientUpdate(delta, 1)


def main() -> int:
    """Measure, and draw."""
    small, wide = linear(64, 10), linear(1999, 10)
    counts, lengths, workers = (10, 30, 100, 300, 1000), (10**3, 10**4, 10**5, 10**6), (0, 1, 2)
    figures = {
        "clients": {
            "each alone": {c: seconds(small, small.parameters, c, LoopExecutor()) for c in counts},
            "batches of 32": {
                c: seconds(small, small.parameters, c, LoopExecutor(), Chunking("batched", 32)) for c in counts
            },
        },
        "length": {"20 clients": {n: seconds(nothing(n), n, 20, LoopExecutor()) for n in lengths}},
        "workers": {
            "200 clients": {
                w: seconds(
                    wide, wide.parameters, 200, ProcessExecutor(w) if w else LoopExecutor(), Chunking("single", 10)
                )
                for w in workers
            }
        },
    }
    report("engine-growth", {"seconds_a_round": figures, "rounds": ROUNDS})
    draw(figures)
    return 0


def draw(figures: dict[str, dict[str, dict[int, float]]]) -> None:
    """Three panels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4))
    for axes, (what, lines) in zip(panels, figures.items(), strict=True):
        for label, points in lines.items():
            axes.plot(list(points), list(points.values()), marker="o", label=label)
        axes.set_xlabel(what)
        if what != "workers":
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(0)
            axes.set_xticks(list(next(iter(lines.values()))))
        axes.legend(frameon=False)
    panels[0].set_ylabel("seconds a round")
    figure.tight_layout()
    figure.savefig(RESULTS / "engine-growth.png", dpi=110)


if __name__ == "__main__":
    sys.exit(main())
