"""One run is started a second time (by another process, with --resume) while the first is between two rounds.
Must hold: the second is refused with a sentence; once the first has ended, resuming works."""

import subprocess
import sys
import tempfile
from pathlib import Path

from privfl.experiment import Experiment

with tempfile.TemporaryDirectory() as runs:
    toml = Path(runs) / "twice.toml"
    toml.write_text('name = "twice"\nrounds = 4\n[data]\nname = "breast_cancer"\n')
    command = [sys.executable, "-m", "privfl", "run", str(toml), "--runs", runs, "--resume"]
    first = Experiment.from_file(toml, runs=runs)
    rounds = first.each_round()
    next(rounds)
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    ended = ""
    try:
        list(rounds)
    except Exception as error:
        ended = f"; the first ends in {type(error).__name__}: {error}".replace(runs, "runs")
    after = subprocess.run(command, capture_output=True, text=True, timeout=60)
bad = second.returncode == 0 or bool(ended) or after.returncode != 0
print(
    "FAILS:" if bad else "holds:",
    f"the second writer's exit code is {second.returncode}, and {after.returncode} afterwards{ended}",
)
sys.exit(int(bad))
