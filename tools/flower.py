"""The Flower adapter in an environment of its own, with the versions of constraints-flower.txt.

`make flower` runs its tests, and `make federation` a real federation on loopback. flwr 1.42 holds uv and certifi at
other versions than constraints.txt, so the two sets do not fit one environment. `make flower-full` adds torch, TenSEAL
and Ray (constraints-flower-full.txt), and runs every test of the adapter, slow ones included. Telemetry is off.

`make flower-bench` holds a round through Flower in one process to 1.5 times `run_round`.
"""

from __future__ import annotations

import sys
from typing import Final

from tools.engines import Engine

QUIET: Final = {"FLWR_TELEMETRY_ENABLED": "0"}
FLOWER: Final = Engine(
    "flower",
    (
        "tests/adapters/test_flower_grid.py",
        "tests/adapters/test_flower_sites.py",
        "tests/adapters/test_flower_examples.py",
        "tests/adapters/test_flower_soak.py",
    ),
    QUIET,
)
FULL: Final = Engine("flower-full", (*FLOWER.tests, "tests/adapters/test_flower_torch.py"), QUIET)


def main(arguments: list[str]) -> int:
    """Run the adapter's tests, its benchmark or the federation, with the arguments that follow; the exit code."""
    if arguments[:1] == ["federation"]:
        return FLOWER.run(["-m", "tools.federation", *arguments[1:]])
    if arguments[:1] == ["bench"]:
        return FLOWER.run(["benchmarks/engine/federation.py", *arguments[1:]])
    if arguments[:1] == ["full"]:
        return FULL.test("-m", "slow or not slow", "--timeout", "3600", *arguments[1:])
    return FLOWER.test()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
