"""The federation of the hello app: its server, and its sites, in the folder that FEDERATION_HOME names."""

import os
from pathlib import Path

import numpy as np

from privfl.adapters.nvflare import NamedLayout
from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.experiment.config import Cohort, Config, Sum
from privfl.experiment.server import FederationServer
from privfl.fl.client import Train
from privfl.site import Site

MODEL = {"numpy_key": np.arange(1, 10, dtype=np.float32).reshape(3, 3)}


def home() -> Path:
    return Path(os.environ["FEDERATION_HOME"])


def open_server() -> tuple[FederationServer, NamedLayout]:
    """The server; `charter.privfl` in its run's folder is what sites approve."""
    layout = NamedLayout.of(MODEL)
    server = FederationServer(
        home() / "run",
        Config(rounds=3, sum=Sum("masked"), cohort=Cohort(min_survivor_fraction=1.0)),
        initial=layout.flatten(MODEL),
        directory=Members.read(home() / "directory.json"),
        key=SigningKey((home() / "server.key").read_bytes()),
        metrics=("weight_mean",),
        layout=layout.digest(),
    )
    return server, layout


def open_site(name: str, train: Train) -> Site:
    """The site of the client with this name."""
    return Site(home() / name, train)
