"""A quickstart server: federated averaging for three rounds."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from quickstart.federation import open_server

from privfl.adapters.flower import ArrayLayout, SecureGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and keep the model."""
    arrays = ArrayRecord([np.zeros(1), np.zeros(1)])
    strategy = FedAvg(min_train_nodes=5, min_evaluate_nodes=5, min_available_nodes=5)
    with open_server(str(context.run_config["home"])) as server:
        secure = SecureGrid(grid, server, strategy, ArrayLayout.of(arrays))
        result = strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=secure.rounds_left)
    np.savez(str(context.run_config["model"]), *result.arrays.to_numpy_ndarrays())
