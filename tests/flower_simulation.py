"""A federation in Flower's own simulation: `python tests/flower_simulation.py FOLDER`, for a test.

The folder holds five sites, `directory.json`, `server.key`, and the run that the sites approved. Ray starts the
processes that open the sites' folders, so this is the in-app mode.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from flower_apps import arrays, flat, step
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from privfl.adapters.flower import ArrayLayout, SecureGrid, SecureSumMod
from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.experiment.config import Config
from privfl.experiment.server import FederationServer
from privfl.site import Site

START = np.linspace(-1, 1, 6).astype(np.float32)
SETTINGS = {"rounds": 2, "cohort.min_survivor_fraction": 0.5}
NODES = 5


def client_app(mods: list[object]) -> ClientApp:
    """An ordinary app whose training depends on the model and the node's partition."""
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        place = int(context.node_config["partition-id"])
        model = flat(message.content["arrays"])
        metrics = MetricRecord({"num-examples": 10 + place})
        content = RecordDict({"arrays": arrays(model + step(model, place)), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def open_server(folder: Path) -> FederationServer:
    """The server of the run in the folder."""
    return FederationServer(
        folder / "run",
        Config().with_overrides({"sum.scheme": "masked", **SETTINGS}),
        initial=START,
        directory=Members.read(folder / "directory.json"),
        key=SigningKey((folder / "server.key").read_bytes()),
        metrics=(),
    )


def main(folder: Path) -> None:
    """Run the rounds."""
    from flwr.simulation import run_simulation

    def open_site(context: Context, train: object) -> Site:
        return Site(folder / f"site-{context.node_config['partition-id']}", train)

    app = ServerApp()

    @app.main()
    def serve(grid: Grid, context: Context) -> None:
        with open_server(folder) as server:
            strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=NODES, min_available_nodes=NODES)
            layout = ArrayLayout.of(arrays(START))
            secure = SecureGrid(grid, server, strategy, layout, greeting_timeout=300.0)  # Ray's processes start slowly
            strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=secure.rounds_left)

    began = time.monotonic()
    clients = client_app([SecureSumMod(open_site)])
    run_simulation(app, clients, NODES, backend_config={"client_resources": {"num_cpus": 1}})
    print(f"{time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    main(Path(sys.argv[1]))
