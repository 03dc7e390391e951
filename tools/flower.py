"""The Flower adapter in an environment of its own, with the versions of constraints-flower.txt.

`make flower` runs its tests, and `make federation` a real federation on loopback. flwr 1.42 holds uv and certifi at
other versions than constraints.txt, so the two sets do not fit one environment. Flower's telemetry is off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from tools.common import ROOT, output_of

FOLDER: Final = ROOT / "build" / "flower"
PINS: Final = ROOT / "constraints-flower.txt"
TESTS: Final = ("tests/adapters/test_flower_grid.py", "tests/adapters/test_flower_examples.py")


def environment() -> Path:
    """The interpreter of the environment; it is made where it is absent, or holds other versions."""
    inside, mark = FOLDER / "bin" / "python", FOLDER / "pins.txt"
    if mark.exists() and mark.read_bytes() == PINS.read_bytes():
        return inside
    print("installing Flower in an environment of its own; about a minute", flush=True)
    venv.create(FOLDER, clear=True, with_pip=True)
    output_of([inside, "-m", "pip", "install", "--quiet", "--requirement", PINS])
    mark.write_bytes(PINS.read_bytes())
    return inside


def variables() -> dict[str, str]:
    """The variables of a process in that environment: this checkout first, one thread, and no telemetry."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}


def main(arguments: list[str]) -> int:
    """Run the adapter's tests, or the federation with the arguments that follow; the exit code of what ran."""
    if arguments[:1] == ["federation"]:
        command = [environment(), "-m", "tools.federation", *arguments[1:]]
    else:
        command = [environment(), "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=variables(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
