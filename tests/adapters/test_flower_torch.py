"""The torch quickstart of examples/flower: real sites, Flower's FedAvg, and the averages that torch alone gives."""

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="run in the environment of `make flower-full`")
pytest.importorskip("torch", reason="run in the environment of `make flower-full`")

import torch
from federations import SERVER_KEY, SITES, Sites
from flower_apps import Placed
from flwr.app import Context, RecordDict

from privfl.experiment.folder import RunFolder

APPS = Path(__file__).parents[2] / "examples" / "flower"


@pytest.fixture(autouse=True)
def apps() -> Iterator[None]:
    sys.path.insert(0, str(APPS))
    yield
    sys.path.remove(str(APPS))
    for name in [name for name in sys.modules if name.split(".")[0] == "quickstart_torch"]:
        del sys.modules[name]


def test_the_torch_quickstart_averages_state_dicts_through_masked_sums(tmp_path: Path) -> None:
    server_app = importlib.import_module("quickstart_torch.server_app")
    task = importlib.import_module("quickstart_torch.task")
    sites = Sites.make(tmp_path, {}, np.zeros(1, np.float32), now=time.time())
    (tmp_path / "server.key").write_bytes(SERVER_KEY.secret)
    sites.members.write(tmp_path / "directory.json")
    with server_app.open_server(tmp_path) as server:
        charter = server.charter
    configs = {}
    for place, home in enumerate(sites.homes.values()):
        home.approve(charter)
        configs[place] = {"partition-id": place, "site": str(home.folder)}
    client = importlib.import_module("quickstart_torch.client_app").app
    grid = Placed(dict.fromkeys(range(SITES), client), configs)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"home": str(tmp_path)})
    server_app.app(grid, context)

    model = task.network().state_dict()
    for _ in range(5):
        trained, weights = [], []
        for place in range(SITES):
            module = task.network()
            module.load_state_dict(model)
            points, labels = task.examples(place)
            task.train(module, points, labels)
            trained.append(module.state_dict())
            weights.append(len(labels))
        total = float(sum(weights))
        model = {
            name: sum(state[name] * (weight / total) for state, weight in zip(trained, weights, strict=True))
            for name in model
        }
    expected = torch.cat([tensor.reshape(-1) for tensor in model.values()]).numpy()
    run = RunFolder(tmp_path / "run")
    np.testing.assert_allclose(run.store.latest().model, expected, atol=1e-5)
    assert [report.survivors for report in run.reports()] == [SITES] * 5
    assert run.reports()[-1].evaluation["accuracy"] > 0.8
