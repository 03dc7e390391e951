"""The server of the torch quickstart: federated averaging over masked sums."""

from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from privfl.adapters.flower import ArrayLayout, SecureGrid
from privfl.crypto import SigningKey
from privfl.crypto.members import Members
from privfl.experiment.config import Config, Sum
from privfl.experiment.server import FederationServer
from quickstart_torch import task

app = ServerApp()


def open_server(home: Path) -> FederationServer:
    """The server of the run in `home`, with `directory.json` and `server.key`; sites approve its charter."""
    arrays = ArrayRecord(task.network().state_dict())
    return FederationServer(
        home / "run",
        Config(rounds=5, sum=Sum("masked")),
        initial=ArrayLayout.of(arrays).flatten(arrays),
        directory=Members.read(home / "directory.json"),
        key=SigningKey((home / "server.key").read_bytes()),
        metrics=("train_loss",),
        evaluation=("accuracy",),
    )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train; the run's folder keeps each model, its report and the sites' receipts."""
    strategy = FedAvg(min_train_nodes=5, min_evaluate_nodes=5, min_available_nodes=5)
    layout = ArrayLayout.of(ArrayRecord(task.network().state_dict()))
    with open_server(Path(str(context.run_config["home"]))) as server:
        secure = SecureGrid(grid, server, strategy, layout)
        result = strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=secure.rounds_left)
        if result.arrays:
            secure.finish(result.arrays)
