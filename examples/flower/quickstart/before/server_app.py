"""A quickstart server: federated averaging for three rounds."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and keep the model."""
    arrays = ArrayRecord([np.zeros(1), np.zeros(1)])
    strategy = FedAvg(min_train_nodes=5, min_evaluate_nodes=5, min_available_nodes=5)
    result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)
    np.savez(str(context.run_config["model"]), *result.arrays.to_numpy_ndarrays())
