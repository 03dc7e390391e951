"""Ray's actors against the built-in processes: 1000 clients of one step on one machine.

    build/ray/bin/python benchmarks/engine/ray_actors.py [--rounds 7]

The limit: a round in two actors takes at most 1.5 times as long as one in two processes. Both take turns. The fastest
rounds of both are compared too, because other work on the machine disturbs a cluster's many processes more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import numpy as np
from common import report

from privfl.codec import FixedPoint
from privfl.dp import Everyone, FlatClip
from privfl.engine import ProcessExecutor
from privfl.engine.ray import RayExecutor
from privfl.fl.chunks import Chunking
from privfl.fl.encoding import UpdateEncoding
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.plan import RoundPlan, model_hash
from privfl.fl.round import Parts, run_round
from privfl.fl.state import ServerState
from privfl.fl.survivors import SurvivorRule
from privfl.ring import Ring
from privfl.sums import PlainSum

CLIENTS, LIMIT, CLIP = 1000, 1.5, 8.0
MODEL = LinearModel("softmax", 64, 10)


def rows(client: int) -> Any:
    """Ten examples of one client."""
    rng = np.random.default_rng(client)
    return rng.normal(size=(10, 64)), rng.integers(0, 10, 10).astype(float)


def main() -> int:
    """Exit code 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    train, start = LinearTrain(MODEL, rows, steps=1), MODEL.initial()
    encoding = UpdateEncoding(len(start), FixedPoint.fit(Ring(32), clip_norm=CLIP, cohort=CLIENTS), FlatClip(CLIP))
    contestants = {"processes": ProcessExecutor(2), "ray": RayExecutor(2)}
    parts = {name: Parts(train, PlainSum(), executor) for name, executor in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    models: dict[str, bytes] = {}
    for number in range(1, options.rounds + 2):
        for name, own in parts.items():
            plan = RoundPlan(
                run=bytes(16),
                round=number,
                model_hash=model_hash(start),
                cohort=tuple(range(CLIENTS)),
                population=CLIENTS,
                sampling=Everyone(),
                survivor_rule=SurvivorRule(1.0),
                encoding=encoding,
                scheme=PlainSum.name,
                seed=0,
                chunking=Chunking("single", 10),
            )
            began = time.perf_counter()
            models[name] = run_round(ServerState(start), plan, own).outcome.state.model.tobytes()
            seconds[name].append(time.perf_counter() - began)
    for executor in contestants.values():
        executor.close()
    medians = {name: statistics.median(several[1:]) for name, several in seconds.items()}
    ratio = medians["ray"] / medians["processes"]
    report(
        "engine-ray",
        {
            "clients": CLIENTS,
            "ray_over_processes": ratio,
            "ray_over_processes_least": min(seconds["ray"][1:]) / min(seconds["processes"][1:]),
            "limit": LIMIT,
            "seconds_a_round": medians,
            "same_model": len(set(models.values())) == 1,
            "rounds": options.rounds,
        },
    )
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
