"""A site's work beyond plain training: client states, evaluation, and sums whose sessions are never saved."""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import SITES, Sites, small
from sites import log_of

from privfl.errors import ConfigError, PlanRejected, StateError
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate, client_rng
from privfl.fl.client_state import Stateful
from privfl.fl.exchange import LocalTransport
from privfl.site.installed import Installed, file_hash, installed_training
from privfl.site.policy import Training
from privfl.site.training import ChildTraining
from privfl.wire import ClientId

NOISE = {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def momentum(model, client, round, rng, state):  # type: ignore[no-untyped-def]
    """A step along a velocity that the client keeps."""
    update = small(model, client, round, rng)
    velocity = 0.5 * state.get("velocity", np.zeros(len(model))) + update.delta
    return ClientUpdate(velocity, update.examples, update.metrics), {"velocity": velocity}


def accuracy(model: np.ndarray) -> tuple[int, Mapping[str, float]]:
    return 7, {"accuracy": float(np.abs(model).mean())}


@pytest.fixture
def child() -> Iterator[ChildTraining]:
    made = ChildTraining(lambda: Installed(Stateful(momentum), accuracy))
    yield made
    made.close()


class Lossy:
    """Loses answers at random, and restarts the site before and after."""

    def __init__(self, sites: Sites, seed: int, *, restarts: bool = True) -> None:
        self.sites, self.draws, self.restarts = sites, random.Random(seed), restarts

    def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
        for client, frame in frames.items():
            if self.restarts and self.draws.random() < 0.3:
                self.sites.restart(client)
            answer = self.sites.site(client).answer(frame, model)
            if self.draws.random() < 0.9:
                yield client, answer


def test_states_stay_at_the_sites_and_follow_the_rounds_that_they_survived(
    tmp_path: Path, child: ChildTraining
) -> None:
    """Equal to a loop in memory that commits a state only for survivors, with losses and restarts of sites."""
    sites = Sites.make(tmp_path, {"rounds": 12, "cohort.min_survivor_fraction": 0.5})
    sites.train = child.learner()
    sites.approve(stateful=True)
    model, kept, dropped = np.zeros(6), dict[ClientId, dict[str, np.ndarray]](), 0
    transport = Lossy(sites, seed=4)
    for _ in range(3):  # the server restarts twice
        with sites.server(stateful=True) as server:
            for _ in range(4):
                report = server.train_round(transport)
                dropped += len(report.dropouts)
                if report.status == "skipped":
                    continue
                survivors = sorted(set(sites.homes) - set(report.dropouts))
                found = {
                    c: momentum(model, c, report.round, client_rng(0, report.round, c), kept.get(c, {}))
                    for c in survivors
                }
                weights = [found[c][0].examples for c in survivors]
                model = model + np.average([found[c][0].delta for c in survivors], axis=0, weights=weights)
                kept |= {c: found[c][1] for c in survivors}
                np.testing.assert_allclose(server.model, model, atol=1e-6)
    assert dropped > 0
    assert all((home / "states").is_dir() for home in sites.homes.values())
    assert not any(path.read_bytes().count(b"velocity") for path in (tmp_path / "run").rglob("*") if path.is_file())
    sites.close()


def test_training_and_charter_must_agree_about_states(tmp_path: Path) -> None:
    for stateful, train, text in ((True, small, "keeps none"), (False, Stateful(momentum), "the charter keeps none")):
        (tmp_path / str(stateful)).mkdir()
        sites = Sites.make(tmp_path / str(stateful), NOISE | {"rounds": 3})
        sites.train = train
        sites.approve(stateful=stateful)
        with sites.server(stateful=stateful) as server:
            transport = LocalTransport({client: sites.site(client) for client in sites.homes})
            assert server.train_round(transport).status == "skipped"
        for client, home in sites.homes.items():
            assert text in log_of(home)
            assert sites.site(client).spent() == 0  # it was refused before it cost anything
        sites.close()


def test_a_lost_state_is_refused_before_it_costs_anything(tmp_path: Path) -> None:
    sites = Sites.make(tmp_path, NOISE | {"rounds": 3})
    sites.train = Stateful(momentum)
    sites.approve(stateful=True)
    client = min(sites.homes)
    with sites.server(stateful=True) as server:
        transport = LocalTransport({c: sites.site(c) for c in sites.homes})
        assert server.train_round(transport).survivors == SITES
        (file,) = (sites.homes[client] / "states").iterdir()
        file.unlink()
        spent = sites.site(client).spent()
        assert server.train_round(transport).dropouts == (client,)
        assert "restore the file, or leave the federation" in log_of(sites.homes[client])
        assert sites.site(client).spent() == spent
    sites.close()


def test_a_failed_training_with_states_keeps_the_old_state(tmp_path: Path) -> None:
    def failing(model, client, round, rng, state):  # type: ignore[no-untyped-def]
        if round == 2:
            raise ValueError("no data")
        return momentum(model, client, round, rng, state)

    sites = Sites.make(tmp_path, NOISE | {"rounds": 3})
    sites.train = Stateful(failing)
    sites.approve(stateful=True)
    with sites.server(stateful=True) as server:
        transport = LocalTransport({c: sites.site(c) for c in sites.homes})
        assert [server.train_round(transport).survivors for _ in range(3)] == [SITES] * 3
    sites.close()


def test_agents_evaluate_with_the_function_that_the_policy_pins(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "from privfl.fl import ClientUpdate\n"
        "def make(data):\n"
        "    return lambda model, client, round, rng: ClientUpdate(model + 1, 10)\n"
        "def make_evaluation(data):\n"
        "    count = len(data.read_text())\n"
        "    return lambda model: (count, {'accuracy': float(model.mean()), 'secret': 5.0})\n"
    )
    (tmp_path / "data").write_text("four")
    policy = Training(sha256=file_hash(tmp_path, Training()), evaluate="make_evaluation")
    child = ChildTraining(lambda: installed_training(tmp_path, policy))
    try:
        (tmp_path / "a").mkdir()
        sites = Sites.make(tmp_path / "a", {"rounds": 3})
        sites.train, sites.evaluate, sites.agents = child.learner(), child.evaluate, frozenset(sites.homes)
        options = {"metrics": (), "evaluation": ("accuracy",)}
        sites.approve(**options)
        with sites.server(**options) as server:
            transport = LocalTransport({c: sites.site(c) for c in sites.homes})
            server.train_round(transport)
            found = server.evaluate(transport)
            assert found.metrics == pytest.approx({"accuracy": float(server.model.mean())})
            server.train_round(transport)
        assert "accuracy" in RunFolder(tmp_path / "a" / "run").reports()[0].evaluation
        sites.close()
    finally:
        child.close()


def test_an_agent_without_an_evaluation_refuses_to_evaluate_and_goes_on(tmp_path: Path) -> None:
    child = ChildTraining(lambda: small)
    try:
        sites = Sites.make(tmp_path, {"rounds": 3})
        sites.train, sites.evaluate = child.learner(), child.evaluate
        sites.approve(evaluation=("accuracy",))
        with sites.server(evaluation=("accuracy",)) as server:
            transport = LocalTransport({c: sites.site(c) for c in sites.homes})
            with pytest.raises(StateError, match="after a round"):
                server.evaluate(transport)
            assert server.train_round(transport).survivors == SITES
            assert not server.evaluate(transport).metrics
            assert "set training.evaluate" in log_of(sites.homes[min(sites.homes)])
            assert server.train_round(transport).survivors == SITES
        sites.close()
    finally:
        child.close()


def test_a_training_function_that_cannot_be_made_is_named_before_a_key_is_read() -> None:
    def broken() -> Installed:
        raise ValueError("no column 'age'")

    child = ChildTraining(broken)
    try:
        with pytest.raises(ConfigError, match=r"could not be made: ValueError in broken"):
            child.learner()
    finally:
        child.close()


@pytest.mark.parametrize("private", [False, True])
def test_agents_sum_by_ckks_and_a_restarted_one_drops_out(tmp_path: Path, private: bool) -> None:
    pytest.importorskip("tenseal")
    sites = Sites.make(tmp_path, {"sum.scheme": "ckks", "rounds": 4, **(NOISE if private else {})})
    sites.agents = frozenset(sites.homes)
    options = {"metrics": ()}
    sites.approve(**options)
    clients = sorted(sites.homes)
    with sites.server(**options) as server:
        transport = LocalTransport({c: sites.site(c) for c in sites.homes})
        report = server.train_round(transport)
        assert report.survivors == SITES
        if not private:
            updates = [small(np.zeros(6), c, 1, client_rng(0, 1, c)) for c in clients]
            mean = np.average([u.delta for u in updates], axis=0, weights=[u.examples for u in updates])
            np.testing.assert_allclose(server.model, mean, atol=1e-6)

        class Restarting:
            steps = 0

            def exchange(self, frames: Mapping[ClientId, bytes], model: bytes) -> Iterable[tuple[ClientId, bytes]]:
                self.steps += 1
                if self.steps == 2:
                    sites.restart(clients[-1])
                for client, frame in frames.items():
                    yield client, sites.site(client).answer(frame, model)

        assert server.train_round(Restarting()).dropouts == (clients[-1],)
        assert "saves no session" in log_of(sites.homes[clients[-1]])
        assert server.train_round(LocalTransport({c: sites.site(c) for c in sites.homes})).survivors == SITES
    sites.close()


def test_an_app_refuses_ckks_before_it_costs_anything(tmp_path: Path) -> None:
    pytest.importorskip("tenseal")
    sites = Sites.make(tmp_path, NOISE | {"sum.scheme": "ckks", "rounds": 2})
    sites.approve()
    with sites.server() as server:
        assert server.train_round(LocalTransport({c: sites.site(c) for c in sites.homes})).status == "skipped"
    for client, home in sites.homes.items():
        assert "answer through this site's agent, `privfl site serve`" in log_of(home)
        assert sites.site(client).spent() == 0
    sites.close()


def test_a_charter_states_that_sites_keep_a_state(tmp_path: Path) -> None:
    sites = Sites.make(tmp_path, {"rounds": 2})
    with sites.server(stateful=True) as server:
        charter = server.charter
    assert charter.in_words()["state between rounds"] == "kept at each site"
    with pytest.raises(PlanRejected, match="state_rounds"):
        charter.check(_plan_of(charter, ()))
    charter.check(_plan_of(charter, (0,) * SITES))


def _plan_of(charter, rounds):  # type: ignore[no-untyped-def]
    return replace(charter.terms, round=1, model_hash="a" * 64, state_rounds=rounds)
