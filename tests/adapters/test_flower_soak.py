"""Flower's own in-process Grid with losses, repeats, delays and restarts of both sides, and its own simulation."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="run in the environment of `make flower`, which installs flwr")

from federations import SERVER_KEY, SITES, Sites, check_ledgers
from flower_apps import Placed, arrays, flat, step
from flower_simulation import SETTINGS, client_app, open_server
from flwr.app import Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from privfl.adapters.flower import ArrayLayout, SecureGrid, SecureSumMod, relay
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate
from privfl.site import Site
from privfl.wire import ClientId

START = np.linspace(-1, 1, 6).astype(np.float32)
EXACT: dict[str, object] = {"rounds": 1000}
NOISY = EXACT | {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
EXAMPLES = 10


class Killed(Exception):
    """The server app died."""


def train(model: np.ndarray, client: ClientId, round: int, rng: np.random.Generator) -> ClientUpdate:
    """The same training, as an agent runs it."""
    return ClientUpdate(step(model, client), EXAMPLES + client % 7)


def in_app(sites: Sites, client: ClientId) -> ClientApp:
    """An app whose train function stays as it is; the site's folder is opened for each message."""
    app = ClientApp()
    home = sites.homes[client].folder
    mod = SecureSumMod(lambda context, train: Site(home, train, clock=lambda: sites.now))

    @app.train(mods=[mod])
    def train(message: Message, context: Context) -> Message:
        model = flat(message.content["arrays"])
        metrics = MetricRecord({"num-examples": EXAMPLES + client % 7})
        content = RecordDict({"arrays": arrays(model + step(model, client)), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def relayed(sites: Sites, client: ClientId) -> ClientApp:
    """An app in front of an agent that may be restarted at any time."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return relay(message, sites.site(client), client)

    return app


@dataclass
class Trouble:
    """What happens to the messages of a run, all from one seed."""

    sites: Sites
    draws: random.Random
    apps: dict[ClientId, ClientApp]
    calm: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("lost", "again", "late", "restarted"), 0))

    def happens(self, what: str, probability: float) -> bool:
        if self.calm or self.draws.random() >= probability:
            return False
        self.counts[what] = self.counts.get(what, 0) + 1
        return True


class TroubledGrid(InMemoryGrid):  # type: ignore[misc]
    """Flower's in-process Grid, whose nodes answer when the server looks for replies, and in which things go wrong."""

    def __init__(self, trouble: Trouble) -> None:
        factory = LinkStateFactory(":flwr-in-memory:", NoOpFederationManager(), ObjectStoreFactory())
        super().__init__(factory, pull_interval=0.001)
        self.trouble, self.late, self.nodes = trouble, list[Message](), dict[int, ClientId]()
        run = Run.create_empty(run_id=1)
        run.federation_id, run.primary_task_id = NOOP_FEDERATION_ID, 1
        self.state.run_ids[1] = RunRecord(run=run)
        self.state.task_store[1] = Task(task_id=1, run_id=1)
        self.set_run(run)
        for client in trouble.apps:
            key = uuid.uuid4().bytes * 2
            node = self.state.create_node("site", "site", key, heartbeat_interval=1e9)
            self.state.acknowledge_node_heartbeat(node, heartbeat_interval=1e9)
            self.nodes[node] = client

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        late, self.late = self.late, []
        for reply in late:
            self.state.store_message_res(reply)
        for node in self.nodes:
            for message in self.state.get_message_ins(node, limit=None):
                self._deliver(node, message)
        if self.trouble.happens("killed", 0.02):
            raise Killed
        return super().pull_messages(message_ids)

    def _deliver(self, node: int, message: Message) -> None:
        trouble, client = self.trouble, self.nodes[node]
        if trouble.happens("lost", 0.04):
            return
        if trouble.happens("restarted", 0.1):
            trouble.sites.restart(client)
        reply = self._answer(node, message)
        if trouble.happens("restarted", 0.1):
            trouble.sites.restart(client)
        if trouble.happens("again", 0.1):
            again = self._answer(node, message)
            if reply.has_content() and again.has_content():
                assert again.content == reply.content
        if trouble.happens("late", 0.04):
            self.late.append(reply)
        elif not trouble.happens("lost", 0.03):
            self.state.store_message_res(reply)

    def _answer(self, node: int, message: Message) -> Message:
        copy = Message(RecordDict(dict(message.content.items())), metadata=message.metadata)
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        try:
            reply = self.trouble.apps[self.nodes[node]](copy, context)
        except Exception as error:  # noqa: BLE001 - as the SuperNode does
            reply = Message(Error(0, str(error)), reply_to=copy)
        reply.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        return reply


def soak(folder: Path, settings: dict[str, object], rounds: int, seed: int) -> tuple[Sites, Trouble]:
    """Run rounds through Flower's Grid in trouble; every result is the plain sum of the survivors or nothing."""
    sites = Sites.make(folder, settings, START)
    sites.train = train
    options = {"metrics": ()}
    sites.approve(**options)
    clients = sorted(sites.homes)
    apps = {client: (in_app if place < 2 else relayed)(sites, client) for place, client in enumerate(clients)}
    trouble = Trouble(sites, random.Random(seed), apps)
    done, target = 0, rounds
    while done < target:
        grid = TroubledGrid(trouble)
        with sites.server(**options) as server:
            strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
            secure = SecureGrid(grid, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=0.02)
            with contextlib.suppress(Killed):
                strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=target - server.round)
            done = server.round
            if done == target == rounds:  # nobody is locked out
                trouble.calm, target = True, rounds + 1
    run = RunFolder(folder / sites.run)
    reports = run.reports()
    assert len(reports) == rounds + 1
    assert reports[-1].survivors == SITES
    for report in reports:
        before, after = (run.store.load(number).state.model for number in (report.round - 1, report.round))
        survivors = [client for client in clients if client not in report.dropouts]
        if report.status == "skipped":
            np.testing.assert_array_equal(after, before)
        elif settings is EXACT:
            weights = [EXAMPLES + client % 7 for client in survivors]
            mean = np.average([step(before, client) for client in survivors], axis=0, weights=weights)
            np.testing.assert_allclose(after, before + mean, atol=1e-5)
    sites.close()
    return sites, trouble


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: these tests sync thousands of files."""
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def test_rounds_through_flowers_grid_in_trouble(quick: Path) -> None:
    soak(quick, EXACT, 6, seed=1)


@pytest.mark.slow
def test_200_rounds_through_flowers_grid_in_trouble(quick: Path) -> None:
    _, trouble = soak(quick, EXACT, 200, seed=2)
    assert all(trouble.counts.get(what, 0) > 0 for what in ("lost", "again", "late", "restarted", "killed"))


@pytest.mark.slow
def test_ledgers_agree_after_200_rounds_through_flowers_grid(quick: Path) -> None:
    sites, _ = soak(quick, NOISY, 200, seed=3)
    check_ledgers(quick, sites)


@pytest.mark.slow
def test_flowers_own_simulation_gives_the_model_of_plain_flower(tmp_path: Path) -> None:
    """`run_simulation` starts Ray, whose processes open the sites' folders."""
    pytest.importorskip("ray", reason="run in the environment of `make flower-full`")
    sites = Sites.make(tmp_path, SETTINGS, START, now=time.time())
    sites.members.write(tmp_path / "directory.json")
    (tmp_path / "server.key").write_bytes(SERVER_KEY.secret)
    with open_server(tmp_path) as server:
        charter = server.charter
    for home in sites.homes.values():
        home.approve(charter)
    script = Path(__file__).parents[1] / "flower_simulation.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=600)
    plain = Placed(dict.fromkeys(range(SITES), client_app([])), {n: {"partition-id": n} for n in range(SITES)})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
    expected = strategy.start(grid=plain, initial_arrays=arrays(START), num_rounds=2)
    run = RunFolder(tmp_path / "run")
    assert [report.survivors for report in run.reports()] == [SITES] * 2
    np.testing.assert_allclose(run.store.latest().model, flat(expected.arrays), atol=1e-6)
    assert set(run.sites.values()) == {("in-app",)}


def test_agents_behind_relays_sum_by_ckks(quick: Path) -> None:
    """The agents live in memory through the five messages of a round; the server needs no TenSEAL."""
    pytest.importorskip("tenseal", reason="run in the environment of `make flower-full`")
    sites = Sites.make(quick, EXACT | {"sum.scheme": "ckks"}, START)
    sites.train, sites.agents = train, frozenset(sites.homes)
    sites.approve(metrics=())
    apps = {client: relayed(sites, client) for client in sorted(sites.homes)}
    trouble = Trouble(sites, random.Random(0), apps, calm=True)
    with sites.server(metrics=()) as server:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
        layout = ArrayLayout.of(arrays(START))
        secure = SecureGrid(TroubledGrid(trouble), server, strategy, layout, poll=0.001, step_timeout=5.0)
        found = strategy.start(grid=secure, initial_arrays=secure.arrays, num_rounds=2)
        assert [report.survivors for report in server.reports] == [SITES] * 2
    expected = START
    for _ in range(2):
        weights = [EXAMPLES + client % 7 for client in apps]
        expected = expected + np.average([step(expected, client) for client in apps], axis=0, weights=weights)
    np.testing.assert_allclose(flat(found.arrays), expected, atol=1e-5)
    assert RunFolder(quick / sites.run).sites == dict.fromkeys(sites.homes, ("agent",))
    sites.close()
