"""The sections of a configuration are made as Python values, with a misspelled choice, a negative norm, and a string.
Must hold: ConfigError from each, as from the same TOML; neither silence nor a bare TypeError."""

import sys

from privfl.errors import ConfigError
from privfl.experiment import Config
from privfl.experiment.config import Data, Privacy, Sum

wrong = []
for name, make in (
    ("Sum(scheme='maskd')", lambda: Config(sum=Sum(scheme="maskd"))),
    ("Privacy(clip_norm=-1.0)", lambda: Config(privacy=Privacy(clip_norm=-1.0))),
    ("Data(clients='5')", lambda: Config(data=Data(clients="5"))),
):
    try:
        make()
        wrong.append(f"{name} is accepted")
    except ConfigError as error:
        print(name, "refused:", error)
    except Exception as error:
        wrong.append(f"{name}: {type(error).__name__}: {error}")
print("FAILS: " + "; ".join(wrong) if wrong else "holds")
sys.exit(int(bool(wrong)))
