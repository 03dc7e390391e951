"""The server's folder of the quickstart: `directory.json`, `server.key`, and the run."""

from pathlib import Path

import numpy as np

from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.experiment.config import Config, Sum
from privfl.experiment.server import FederationServer


def open_server(home: str) -> FederationServer:
    """The server; `charter.privfl` in its run's folder is what sites approve."""
    folder = Path(home)
    return FederationServer(
        folder / "run",
        Config(rounds=3, sum=Sum("masked")),
        initial=np.zeros(2),
        directory=Members.read(folder / "directory.json"),
        key=SigningKey((folder / "server.key").read_bytes()),
        metrics=("train_loss",),
        evaluation=("eval_loss",),
    )
