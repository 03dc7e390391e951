"""`Experiment(runs="~/runs")` in an empty folder, with HOME set.
Must hold: the run goes to the home folder, or a typed error; no folder named "~" is made."""

import os
import sys
import tempfile
from pathlib import Path

from privfl.errors import PrivflError
from privfl.experiment import Experiment

with tempfile.TemporaryDirectory() as folder:
    home = Path(folder) / "home"
    home.mkdir()
    os.chdir(folder)
    os.environ["HOME"] = str(home)
    try:
        list(Experiment(rounds=1, runs="~/runs").run())
    except PrivflError as error:
        print("refused:", error)
    bad = Path("~").is_dir()
    os.chdir(os.sep)
print("FAILS: a folder named '~' was made" if bad else "holds")
sys.exit(int(bad))
