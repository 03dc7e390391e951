"""A CSV file of 1 GB is read within 2 GB of memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

READ = """
import re, sys
from pathlib import Path
from privfl.data import propose, read_table
schema = propose(sys.argv[1], "y", "client").schema
dataset = read_table(sys.argv[1], schema)
# The peak of getrusage would include that of the process which started this one.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(dataset.example_count, int(peak[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_large_file_is_read_in_pieces(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "large.csv"
    rows, columns = 100_000, 40
    block = rng.normal(size=(rows, columns))
    labels = rng.integers(0, 2, rows)
    lines = [",".join(f"{x:.6f}" for x in row) + f",c{at % 9},{labels[at]}\n" for at, row in enumerate(block)]
    text = "".join(lines)
    with path.open("w") as file:
        file.write(",".join([*(f"x{at}" for at in range(columns)), "client", "y"]) + "\n")
        while file.tell() < 1_000_000_000:
            file.write(text)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True, timeout=3000
    )
    count, mebibytes = map(int, done.stdout.split())
    assert count >= 2 * rows
    assert mebibytes < 2048
