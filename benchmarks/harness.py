"""Ratios measured in one run, and where their results are kept.

A time alone says as much about the machine as about the code. Here A and B alternate (A B A B ...) in one process,
each keeps its least time, and what is asserted is their ratio. Results are JSON beside the machine's description.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much longer `name` takes than `peer`: the quotient of their least seconds over `repeats` interleaved runs."""

    name: str
    peer: str
    seconds: float
    peer_seconds: float
    ratio: float
    limit: float | None
    repeats: int


def seconds(function: Callable[[], object]) -> float:
    """One run, with the garbage collector out of the way."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


def ratio(
    name: str,
    function: Callable[[], object],
    *,
    peer: str,
    against: Callable[[], object],
    repeats: int = 30,
    limit: float | None = None,
) -> Ratio:
    """Time `function` and `against` in turns, each warmed once."""
    function(), against()
    mine, other = [], []
    for _ in range(repeats):
        other.append(seconds(against))
        mine.append(seconds(function))
    quotient = min(mine) / min(other)
    return Ratio(name, peer, min(mine), min(other), quotient, limit, repeats)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
    }


def write(file: str, results: list[Ratio] | list[dict[str, Any]], **more: Any) -> Path:
    """Keep `results` as `benchmarks/results/<file>.json`, with the machine and whatever else describes the run."""
    rows = [asdict(row) if isinstance(row, Ratio) else row for row in results]
    path = RESULTS / f"{file}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **more, "results": rows}, indent=1) + "\n")
    return path


def check(*results: Ratio) -> None:
    """Fail where a ratio is above its limit, naming all of them."""
    told = [
        f"{r.name}: {r.ratio:.1f}x {r.peer}, allowed {r.limit:g}x" for r in results if r.limit and r.ratio > r.limit
    ]
    assert not told, "; ".join(told)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
