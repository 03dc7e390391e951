"""Time to accuracy of asynchronous rounds against synchronous ones with stragglers, on digits.

    python benchmarks/fl/buffered.py [--seeds 3]

100 clients with Dirichlet(0.5) labels train a softmax model; a fifth of them is ten times as slow. Synchronous rounds
ask 20 clients and wait for the slowest. FedBuff keeps 20 clients busy and closes a buffer at 5 or 10 arrivals. Time is
virtual: it depends on the seeds alone, and no machine has a part in it. Every mode takes the server's learning rate
that is best for it among four. Writes results/buffered-digits.json and results/buffered-digits.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from privfl.codec import FixedPoint
from privfl.data import load
from privfl.data.partitions import dirichlet
from privfl.dp import FlatClip
from privfl.engine import LoopExecutor
from privfl.fl.arrivals import SeededTimes
from privfl.fl.buffered import ArrivalSampler, Schedule
from privfl.fl.chunks import Chunking
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.keep import Keep
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.optimizers import ServerSGD
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.run import FederatedRun
from privfl.fl.sampling import FixedSizeSampler, seeded_uniforms
from privfl.fl.state import ServerState
from privfl.fl.store import ModelStore
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLIENTS, COHORT, GOAL, END = 100, 20, 0.92, 400.0
ETAS = (0.5, 1.0, 2.0, 4.0)
MODEL = LinearModel("softmax", 64, 10)
Curve = list[tuple[float, float]]


class Federation:
    """Digits over clients, with a test set of every fifth example."""

    def __init__(self, seed: int) -> None:
        data = load("digits")
        held = np.arange(len(data.targets)) % 5 == 0
        self.test = data.features[held].astype(float), data.targets[held]
        x, y = data.features[~held].astype(float), data.targets[~held]
        self.parts = dirichlet(y, CLIENTS, 0.5, seed=seed)
        self.train = LinearTrain(
            MODEL, lambda client: (x[self.parts[client]], y[self.parts[client]].astype(float)), 0.5, batch_size=10
        )
        self.times = SeededTimes(seed, spread=0.3, stragglers=0.2, slowdown=10.0)
        codec = FixedPoint.fit(Ring(40), clip_norm=64.0, cohort=CLIENTS)
        self.encoding = UpdateEncoding(MODEL.length, codec, FlatClip(64.0))

    def accuracy(self, model: Any) -> float:
        """On the test set."""
        return float((MODEL.scores(model, self.test[0]).argmax(1) == self.test[1]).mean())

    def buffered(self, size: int, eta: float, seed: int) -> Curve:
        """Accuracy over time of FedBuff."""
        curve: Curve = []
        with TemporaryDirectory() as folder:
            run = FederatedRun(
                population=CLIENTS,
                parts=Parts(self.train, PlainSum(), LoopExecutor(), ServerSGD(eta)),
                encoding=self.encoding,
                sampler=ArrivalSampler(Schedule(CLIENTS, size, COHORT, self.times, seed=seed)),
                store=ModelStore(Path(folder), Keep("last")),
                seed=seed,
                survivor_rule=SurvivorRule(1.0),
                chunking=Chunking("batched", 32),
            )
            for report in run.run(MODEL.initial(), 10**6):
                time = report.virtual_time or 0.0
                curve.append((time, self.accuracy(run.store.load(report.round).model)))
                if time > END or curve[-1][1] >= GOAL + 0.03:
                    break
        return curve

    def synchronous(self, eta: float, seed: int) -> Curve:
        """Accuracy over time of rounds that wait for the slowest client."""
        state, time, job, curve = ServerState(MODEL.initial()), 0.0, 0, list[tuple[float, float]]()
        parts, sampler = Parts(self.train, PlainSum(), LoopExecutor(), ServerSGD(eta)), FixedSizeSampler(COHORT)
        for round in range(1, 10**6):
            cohort = sampler.sample(CLIENTS, seeded_uniforms(seed, round))
            plan = RoundPlan(
                run=bytes(16),
                round=round,
                model_hash=model_hash(state.model),
                cohort=cohort,
                population=CLIENTS,
                sampling=sampler.declare(CLIENTS),
                survivor_rule=SurvivorRule(1.0),
                encoding=self.encoding,
                scheme=PlainSum.name,
                seed=seed,
                chunking=Chunking("batched", 32),
            )
            state = run_round(state, plan, parts).outcome.state
            time += max(self.times.seconds(client, job + place) for place, client in enumerate(cohort))
            job += COHORT
            curve.append((time, self.accuracy(state.model)))
            if time > END or curve[-1][1] >= GOAL + 0.03:
                break
        return curve


def time_to(curve: Curve, goal: float) -> float:
    """The first virtual time at which the accuracy has reached a goal; infinity if it never does."""
    return next((time for time, value in curve if value >= goal), math.inf)


def main() -> int:
    """Write the figures and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    federations = {seed: Federation(seed) for seed in seeds}
    modes = {"synchronous, 20 clients": 0, "FedBuff, buffer of 10": 10, "FedBuff, buffer of 5": 5}
    rows, best_curves = {}, {}
    for name, size in modes.items():
        choices = {}
        for eta in ETAS:
            curves = [
                federations[s].buffered(size, eta, s) if size else federations[s].synchronous(eta, s) for s in seeds
            ]
            choices[eta] = float(np.median([time_to(curve, GOAL) for curve in curves])), curves
        eta = min(choices, key=lambda eta: choices[eta][0])
        rows[name] = {
            "seconds_to_goal": choices[eta][0],
            "eta": eta,
            "others": {str(e): (t if math.isfinite(t) else None) for e, (t, _) in choices.items()},
        }
        best_curves[name] = choices[eta][1][0]
        print(name, rows[name], flush=True)
    record = {
        "benchmark": "buffered-digits",
        "goal": GOAL,
        "clients": CLIENTS,
        "concurrency": COHORT,
        "stragglers": {"fraction": 0.2, "slowdown": 10.0},
        "seeds": len(seeds),
        "rows": rows,
    }
    (RESULTS / "buffered-digits.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(best_curves)
    return 0


def draw(curves: dict[str, Curve]) -> None:
    """Accuracy over virtual time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        axes.plot([time for time, _ in curve], [value for _, value in curve], label=name)
    axes.axhline(GOAL, color="gray", linewidth=0.8, linestyle="dashed")
    axes.set_xlabel("virtual seconds (a typical client trains in 1, a straggler in 10)")
    axes.set_ylabel("accuracy on the test set")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(RESULTS / "buffered-digits.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
