"""The app that runs at the server: an ordinary strategy behind a SecureGrid."""

from pathlib import Path

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from hospitals.federation import open_server
from hospitals.floor import measure
from privfl.adapters.flower import ArrayLayout, SecureGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that are left; a second `flwr run` goes on where the first stopped."""
    home = Path(str(context.run_config["home"]))
    if context.run_config["floor"]:
        measure(grid, list(grid.get_node_ids()), home / "floor.json")
        return
    with open_server(home) as server:
        layout = ArrayLayout.of(ArrayRecord({"weights": Array(server.model)}))
        sites = len(server.clients)
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        secure = SecureGrid(grid, server, strategy, layout, step_timeout=float(context.run_config["step-timeout"]))
        result = strategy.start(secure, secure.arrays, num_rounds=secure.rounds_left)
        if result.arrays:
            secure.finish(result.arrays)
