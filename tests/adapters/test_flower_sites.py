"""Real sites behind Flower's grid, in this process: behind a relay, and in an app that opens the site's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="run in the environment of `make flower`, which installs flwr")

from federations import Sites, check_ledgers
from flower_apps import LoopGrid, arrays, client_app
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from privfl.adapters.flower import ArrayLayout, SecureGrid, SecureSumMod, relay
from privfl.adapters.flower.records import frame_record
from privfl.dp import Ledger
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.site import Site

START = np.linspace(-1, 1, 6).astype(np.float32)


def test_sites_with_their_own_examples_take_one_step_a_round(tmp_path: Path) -> None:
    """Real sites behind agents and in apps: the app's own training is not asked, and no count travels."""
    step = {
        "privacy.unit": "example",
        "privacy.placement": "distributed",
        "privacy.clip_norm": 1.0,
        "privacy.noise_multiplier": 0.5,
        "privacy.sampling_probability": 0.5,
        "privacy.denominator": 100.0,
        "privacy.delta": 1e-5,
        "rounds": 3,
    }
    sites = Sites.make(tmp_path, step, START)
    rows = np.random.default_rng(5).normal(size=(40, 5)), np.arange(40) % 2.0
    sites.train = LinearTrain(LinearModel("logistic", 5), lambda client: rows)
    sites.approve()

    def relaying(client: int) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Any) -> Message:
            return relay(message, sites.site(client), client)

        return app

    def in_app(client: int) -> ClientApp:
        def opened(context: Any, train: Any) -> Any:
            sites.restart(client)  # each message opens the folder, as a process for each would
            return Site(sites.homes[client].folder, sites.train, clock=lambda: sites.now)

        return client_app(client % 7, [SecureSumMod(opened)])

    clients = sorted(sites.homes)
    apps = [relaying(client) for client in clients[:3]] + [in_app(client) for client in clients[3:]]
    inner = LoopGrid(dict(enumerate(apps, start=10)))
    replies: list[Message] = []
    inner.change = lambda reply: replies.append(reply) or reply  # type: ignore[func-returns-value]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=5, min_evaluate_nodes=5, min_available_nodes=5)
    with sites.server() as server:
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=5.0)
        found = strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=3)
        grid.finish(found.arrays)
        model = server.model
        assert [report.survivors for report in server.reports] == [5, 5, 5]
    assert all(set(frame_record(reply.content)) <= {"frame", "client"} for reply in replies)
    expected = START.astype(float)
    for _ in range(3):  # the mean step of these coins is close to the one over all examples
        each = np.concatenate(list(sites.train.gradients(expected, 0, np.arange(40))))
        each *= np.minimum(1, 1 / np.linalg.norm(each, axis=1))[:, None]
        expected = expected - 5 * 0.5 * each.sum(0) / 100.0
    assert np.linalg.norm(model - expected) < 0.5 * np.linalg.norm(START - expected)
    check_ledgers(tmp_path, sites)
    assert Ledger.read(tmp_path / "run" / "ledger.jsonl").unit.level == "example"
    sites.close()
