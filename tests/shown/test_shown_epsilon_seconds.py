"""`privfl epsilon` answers in under 2 seconds, and with curves in under 5: imports included, on one core."""

import os
import resource
import subprocess
import sys

import pytest

RUN = ["--population", "10000", "--cohort", "100", "--noise-multiplier", "1", "--rounds", "1000", "--delta", "1e-5"]
CURVES = ["--profile", "--tradeoff"]


def core_seconds(arguments: list[str]) -> float:
    """The least time of a core over three runs, which other programs on the machine lengthen little."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "privfl", "epsilon", *arguments]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (RUN, 2.0),
        (["--sampling", "one-pass", "--correlation", "toeplitz", *RUN[2:]], 2.0),
        ([*RUN, *CURVES], 5.0),
        ([*RUN, "--placement", "distributed", "--length", "10000", *CURVES], 5.0),
    ],
    ids=["epsilon", "correlated", "curves", "curves of integer noise"],
)
def test_the_command_is_fast(arguments: list[str], limit: float) -> None:
    assert core_seconds(arguments) < limit
