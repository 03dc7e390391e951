"""The server's folder: settings, directory and key, and the run inside it.

federation.toml   the settings of the run
directory.json    the sites and their keys, signed by the sites
server.key        the server's signing key, which sites pin in their policy
test.npz          public test examples
run/              the run: models, ledger, receipts, reports, and the charter that sites approve
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.experiment.config import load_config
from privfl.experiment.server import FederationServer
from privfl.fl.metrics import Evaluation

KEY_BYTES = 32


def server_key(home: Path) -> SigningKey:
    """The server's key, made when it is first asked for."""
    path = home / "server.key"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
    return SigningKey(path.read_bytes())


def accuracy(home: Path, model: np.ndarray) -> float:
    """The accuracy of a model on the public test examples."""
    with np.load(home / "test.npz", allow_pickle=False) as file:
        features, labels = file["features"], file["labels"]
    return float(((features @ model[:-1] + model[-1] > 0) == (labels > 0)).mean())


def open_server(home: Path) -> FederationServer:
    """The server of the run in `home`; use it as a context manager."""
    with np.load(home / "test.npz", allow_pickle=False) as file:
        width = file["features"].shape[1]
    return FederationServer(
        home / "run",
        load_config(home / "federation.toml"),
        initial=np.zeros(width + 1),
        directory=Members.read(home / "directory.json"),
        key=server_key(home),
        metrics=(),
        evaluate=lambda model: Evaluation({"accuracy": accuracy(home, model)}),
    )
