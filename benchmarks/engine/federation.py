"""A round of a federation in one process against `run_round`: five real sites in the app, and nothing on a wire.

    python benchmarks/engine/federation.py [--rounds 5] [--length 1000000]

Where flwr is installed, such as in the environment of `make flower`, the same round also goes through Flower's Grid
and the mod. The limits: each at most 1.5 times `run_round` of the same round, and at most 1.02 times the bytes of the
sum's messages. All take turns, round by round, on a folder in memory: a site syncs each step to the disk, which is not
measured here. A ratio is that of the least CPU seconds, because what other programs take is no cost of a round.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import ONE_THREAD, machine, report

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]  # their sites and training
RATIO, BYTES = 1.5, 1.02
ENGINE = "flwr"
SETTINGS = {
    "sum.scheme": "masked",
    "cohort.min_survivor_fraction": 0.6,
    "evaluate_every": 0,
    "privacy.placement": "distributed",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
}
Round = Callable[[], int]
"""Runs a round, and returns the bytes of its messages."""


def main() -> int:
    """Exit code 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=1_000_000)
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        return subprocess.run([sys.executable, *sys.argv], check=False, env={**os.environ, **ONE_THREAD}).returncode
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder, ExitStack() as closing:
        seconds, sizes = measure(ways(Path(folder), options.rounds, options.length, closing), options.rounds)
    bare = seconds.pop("run_round")
    ratios = {name: min(taken) / min(bare) for name, taken in seconds.items()}
    bytes_ratio = sizes["sites"] / sizes["run_round"]
    report(
        "engine-federation",
        {
            "machine": machine(),
            "length": options.length,
            "run_round_seconds": bare,
            "federation_seconds": seconds,
            "ratios": ratios,
            "limit": RATIO,
            "bytes_ratio": bytes_ratio,
            "bytes_limit": BYTES,
        },
    )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times run_round (limit {RATIO})")
    print(f"{bytes_ratio:.4f} times its bytes (limit {BYTES})")
    return int(max(ratios.values()) > RATIO or bytes_ratio > BYTES)


def measure(rounds_of: dict[str, Round], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """CPU seconds of each round each way, after one that does not count, and the bytes of the last round."""
    seconds: dict[str, list[float]] = {name: [] for name in rounds_of}
    sizes: dict[str, int] = {}
    for _ in range(1 + rounds):
        for name, run in rounds_of.items():
            start = time.process_time()
            sizes[name] = run()
            seconds[name].append(time.process_time() - start)
    return {name: taken[1:] for name, taken in seconds.items()}, sizes


def ways(folder: Path, rounds: int, length: int, closing: ExitStack) -> dict[str, Round]:
    """Each way to run a round: without sites, with sites that stay open, and through Flower where it is installed."""
    from federations import Sites, small

    from privfl.experiment.experiment import Experiment
    from privfl.fl.exchange import LocalTransport

    settings = {**SETTINGS, "rounds": rounds + 1}

    def made(name: str, **options: Any) -> Sites:
        (folder / name).mkdir()
        sites = Sites.make(folder / name, settings, np.zeros(length))
        sites.approve(**options)
        closing.callback(sites.close)
        return sites

    (folder / "bare").mkdir()
    bare = Experiment(
        train=small, initial=np.zeros(length), clients=5, overrides=settings, runs=folder / "bare"
    ).each_round()
    closing.callback(bare.close)
    open_sites = made("sites")
    transport = LocalTransport({client: open_sites.site(client) for client in open_sites.homes})
    server = closing.enter_context(open_sites.server())
    found: dict[str, Round] = {
        "run_round": lambda: size(next(bare)),
        "sites": lambda: size(server.train_round(transport)),
    }
    if importlib.util.find_spec(ENGINE):
        sites = made(ENGINE, metrics=())
        steps = through_flower(sites, closing.enter_context(sites.server(metrics=())), length)
        found[ENGINE] = lambda: next(steps)
    return found


def size(of: Any) -> int:
    """The bytes of a round's messages."""
    return int(of.bytes_up + of.bytes_down)


def through_flower(sites: Any, server: Any, length: int) -> Iterator[int]:
    """Rounds of a strategy of Flower over `SecureGrid` and ClientApps in this process, whose mod holds the site."""
    from federations import small
    from flower_apps import LoopGrid
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp.strategy import FedAvg

    from privfl.adapters.flower import ArrayLayout, SecureGrid, SecureSumMod
    from privfl.site import Site

    def app(client: int, home: Path) -> Any:
        made = ClientApp()

        @made.train(mods=[SecureSumMod(lambda context, train: Site(home, train, clock=lambda: sites.now))])
        def train(message: Message, context: Any) -> Message:
            model = message.content["arrays"]["w"].numpy()
            update = small(model, client, 1, np.random.default_rng(client))
            arrays = ArrayRecord({"w": Array(model + update.delta)})
            content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": update.examples})}
            return Message(RecordDict(content), reply_to=message)

        return made

    grid = LoopGrid({10 + n: app(client, home.folder) for n, (client, home) in enumerate(sites.homes.items())})
    layout = ArrayLayout.of(ArrayRecord({"w": Array(np.zeros(length))}))
    count = len(sites.homes)
    while True:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
        secure = SecureGrid(grid, server, strategy, layout, poll=0.001)
        strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=1)
        yield size(server.reports[-1])


if __name__ == "__main__":
    sys.exit(main())
