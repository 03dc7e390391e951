"""The server of a federation, over sites in this process that speak frames."""

import json
from pathlib import Path

import numpy as np
import pytest
from federations import SERVER_KEY, Directory, Federation, PlainSite, Wire, federation, train

from privfl.crypto import Credentials, SigningKey
from privfl.errors import BudgetExceeded, ConfigError, PrivflError, StateError
from privfl.experiment.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.experiment.server import FederationServer
from privfl.fl.client import ClientUpdate, client_rng
from privfl.fl.exchange import LocalTransport
from privfl.fl.metrics import Evaluation

PRIVATE = {
    "privacy.placement": "distributed",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
}


def plain_mean(model: np.ndarray, clients: list[int], round: int, seed: int = 0) -> np.ndarray:
    updates = [train(model, client, round, client_rng(seed, round, client)) for client in clients]
    weights = np.array([update.examples for update in updates], float)
    return np.average([update.delta for update in updates], axis=0, weights=weights)


def test_rounds_over_frames_equal_the_plain_mean_and_an_experiment(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    transport = LocalTransport(fed.sites)
    with fed.server() as server:
        model = fed.initial
        for round in (1, 2, 3):
            report = server.train_round(transport)
            model = model + plain_mean(model, [0, 1, 2, 3, 4], round)
            assert report.status == "trained"
            assert report.survivors == 5
            np.testing.assert_allclose(server.model, model, atol=1e-6)
        with pytest.raises(StateError, match="all 3 rounds"):
            server.train_round(transport)
    same = Experiment(
        train=train, initial=fed.initial, clients=5, rounds=3, overrides={"server.weighting": "examples"}
    ).run()
    np.testing.assert_allclose(same.model, server.files.store.latest().model, atol=1e-6)
    assert [report.survivors for report in RunFolder(tmp_path / "run").reports()] == [5, 5, 5]
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [0, 1, 2, 3, 4] * 3
    assert all(step["requests"] == step["answers"] == 5 for step in steps)


@pytest.mark.parametrize("step", range(5))
def test_one_of_five_lost_at_each_step(tmp_path: Path, step: int) -> None:
    fed = federation(tmp_path / "run")
    wire = Wire(fed.sites, lost=lambda at, client: client == 2 and at >= step)
    with fed.server() as server:
        report = server.train_round(wire)
        staying = [0, 1, 3, 4] if step <= 2 else [0, 1, 2, 3, 4]
        assert report.survivors == len(staying)
        np.testing.assert_allclose(server.model, plain_mean(fed.initial, staying, 1), atol=1e-6)


def test_repeats_foreign_and_late_answers_change_nothing(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    kept: dict[int, bytes] = {}

    def change(step: int, client: int, answer: bytes) -> list[tuple[int, bytes]]:
        late = [(client, kept[client])] if client in kept else []
        kept[client] = answer
        forged = bytearray(answer)
        forged[len(answer) // 2] ^= 1
        other = [((client + 1) % 5, answer)]
        return [*late, (client, bytes(forged)), (client, b"junk"), (77, answer), *other, (client, answer)] * 2

    with fed.server() as server:
        report = server.train_round(Wire(fed.sites, change))
        assert report.survivors == 5
        np.testing.assert_allclose(server.model, plain_mean(fed.initial, [0, 1, 2, 3, 4], 1), atol=1e-6)


def test_a_relay_that_changes_a_vector_drops_only_its_own_site(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")

    def change(step: int, client: int, answer: bytes) -> list[tuple[int, bytes]]:
        if (step, client) != (2, 1):
            return [(client, answer)]
        changed = bytearray(answer)
        changed[-100] ^= 1
        return [(client, bytes(changed))]

    with fed.server() as server:
        report = server.train_round(Wire(fed.sites, change))
        assert report.dropouts == (1,)
        np.testing.assert_allclose(server.model, plain_mean(fed.initial, [0, 2, 3, 4], 1), atol=1e-6)


def test_too_few_survivors_keep_the_model_and_the_next_round_goes_on(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server() as server:
        report = server.train_round(Wire(fed.sites, lost=lambda at, client: client > 0))
        assert (report.status, report.survivors) == ("skipped", 0)
        np.testing.assert_array_equal(server.model, fed.initial)
        assert server.train_round(LocalTransport(fed.sites)).survivors == 5


class Stopped(Exception):
    """The server's process was killed."""


CRASHES = [(step, received, {}) for step in range(5) for received in (0, 3)]
CRASHES += [(step, 5, PRIVATE) for step in range(5)]


@pytest.mark.parametrize(("step", "received", "settings"), CRASHES)
def test_a_killed_server_goes_on_where_it_stood(
    tmp_path: Path, step: int, received: int, settings: dict[str, object]
) -> None:
    fed = federation(tmp_path / "run", settings=settings)

    class Dying(Wire):
        def exchange(self, frames, model):  # type: ignore[no-untyped-def]
            for count, pair in enumerate(super().exchange(frames, model)):
                if (self.step, count) == (step, received):
                    raise Stopped
                yield pair
            if (self.step, received) == (step, 5):
                raise Stopped

    with pytest.raises(Stopped), fed.server() as server:
        server.train_round(Dying(fed.sites))
    for site in fed.sites.values():
        site.restart()
    with fed.server() as server:
        report = server.train_round(Wire(fed.sites, step=step - 1))
        assert report.survivors == 5
        if not settings:
            np.testing.assert_allclose(server.model, plain_mean(fed.initial, [0, 1, 2, 3, 4], 1), atol=1e-6)
        ledger = server.files.ledger
        if ledger is not None:  # paid once: the same attempt went on
            assert [(release.round, release.attempt) for release in ledger.releases] == [(1, 0)]
            assert not ledger.unsettled
    assert all(site.entered == [(1, 0)] for site in fed.sites.values())


def lose_next_model(server: FederationServer) -> None:
    """The process is killed after the sum was opened, and before its model is stored."""

    def dying(*_: object, **__: object) -> None:
        raise Stopped

    server._entered.run.store.save = dying  # type: ignore[method-assign]


def test_a_round_whose_opened_sum_was_lost_is_charged_again(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run", settings=PRIVATE)
    with fed.server() as server:
        lose_next_model(server)
        with pytest.raises(Stopped):
            server.train_round(LocalTransport(fed.sites))
    with fed.server() as server:
        assert server.train_round(LocalTransport(fed.sites)).status == "trained"
        assert [(r.round, r.attempt) for r in server.files.ledger.releases] == [(1, 0), (1, 1)]
    assert all(site.entered == [(1, 0), (1, 1)] for site in fed.sites.values())


def run_all(server: FederationServer, fed: Federation) -> None:
    while server.round < server.rounds:
        server.train_round(LocalTransport(fed.sites))


def test_a_plain_sum_is_tried_again_after_a_crash(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run", settings={"sum.scheme": "plain"})

    class Dying(Wire):
        def exchange(self, frames, model):  # type: ignore[no-untyped-def]
            raise Stopped

    with pytest.raises(Stopped), fed.server() as server:
        server.train_round(Dying(fed.sites))
    with fed.server() as server:
        assert server.train_round(LocalTransport(fed.sites)).survivors == 5
        np.testing.assert_allclose(server.model, plain_mean(fed.initial, [0, 1, 2, 3, 4], 1), atol=1e-6)


def test_a_spent_budget_ends_the_run_with_the_last_paid_model(tmp_path: Path) -> None:
    settings = PRIVATE | {"privacy.epsilon": 4.0, "privacy.noise_multiplier": 1.5, "privacy.delta": 1e-3}
    fed = federation(tmp_path / "run", settings={**settings, "rounds": 50})
    with fed.server() as server:
        with pytest.raises(BudgetExceeded):
            run_all(server, fed)
        assert 0 < server.round < 50
        assert RunFolder(tmp_path / "run").epsilon().epsilon <= 4.0
        np.testing.assert_array_equal(server.model, server.files.store.latest().model)


def test_two_runs_from_one_model_do_not_meet(tmp_path: Path) -> None:
    first = federation(tmp_path / "one")
    second = Federation(tmp_path / "two", first.config, first.sites, first.directory, first.initial)
    taken: list[tuple[int, bytes]] = []

    def keep(step: int, client: int, answer: bytes) -> list[tuple[int, bytes]]:
        taken.append((client, answer))
        return [(client, answer)]

    with first.server() as one, second.server() as two:
        one.train_round(
            Wire(first.sites, lambda step, client, answer: taken.append((client, answer)) or [(client, answer)])
        )
        report = two.train_round(Wire(first.sites, lambda step, client, answer: [*taken, (client, answer)]))
        assert report.survivors == 5
        np.testing.assert_array_equal(one.model, two.model)
        assert one.charter.digest() != two.charter.digest()


def test_a_strategy_makes_the_next_model(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server() as server:
        server.train_round(LocalTransport(fed.sites), fed.initial)
        made = server.model * 0.5
        server.train_round(LocalTransport(fed.sites), made)
        np.testing.assert_allclose(server.model, made + plain_mean(made, [0, 1, 2, 3, 4], 2), atol=1e-6)
        last = server.model + 1.0
        server.adopt(last)
    versions = list(RunFolder(tmp_path / "run").store.lineage())
    np.testing.assert_array_equal(versions[1].model, made)
    np.testing.assert_array_equal(versions[2].model, last)
    assert RunFolder(tmp_path / "run").reports()[-1].model == versions[2].hash
    with fed.server() as server, pytest.raises(StateError, match="not the stored one of round 2"):
        server.train_round(LocalTransport(fed.sites), fed.initial)


def test_settings_that_contradict_the_charter_are_refused(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server() as server:
        assert server.charter.terms.run == server.files.nonce
    with pytest.raises(StateError, match="states other terms"), fed.server(min_interval=5.0):
        pass
    other = Federation(tmp_path / "run", fed.config, fed.sites, fed.directory, fed.initial)
    own = Credentials.generate(4)
    other.directory = Directory({c: fed.directory.verify_key(c) for c in range(4)} | {4: own.signing.public})
    with pytest.raises(StateError, match="other"), other.server():
        pass
    with pytest.raises(StateError, match="enter the server first"):
        fed.server().train_round(LocalTransport({}))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {"training": "nonsense"}),
        ({}, {"min_interval": -1.0}),
        (PRIVATE, {"evaluation": ("error",)}),
        (PRIVATE | {"privacy.epsilon": 0.5, "privacy.noise_multiplier": 0.1}, {}),
    ],
    ids=["training", "interval", "evaluation", "budget"],
)
def test_a_refused_server_leaves_no_folder(
    tmp_path: Path, settings: dict[str, object], options: dict[str, object]
) -> None:
    fed = federation(tmp_path / "run", settings=settings)
    with pytest.raises(PrivflError), fed.server(**options):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_after_the_charter_keeps_the_run_that_sites_approved(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    first = fed.server()
    with pytest.raises(ConfigError, match="entries"), first:
        first.train_round(LocalTransport(fed.sites), np.zeros(7))
    charter = first.charter.digest()
    with fed.server() as server:
        assert server.charter.digest() == charter
        assert server.train_round(LocalTransport(fed.sites)).status == "trained"


@pytest.mark.parametrize("lifetime", [0, -3.0, float("nan"), "60"])
def test_a_lifetime_is_a_positive_number_of_seconds(tmp_path: Path, lifetime: object) -> None:
    with pytest.raises(ConfigError, match="lifetime must be a positive finite number"):
        federation(tmp_path / "run").server(lifetime=lifetime)


def test_sites_refuse_another_server(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    assert SERVER_KEY.public != SigningKey.generate().public
    fed.config = fed.config.with_overrides({"cohort.too_few": "skip"})
    server = FederationServer(
        fed.folder, fed.config, initial=fed.initial, directory=fed.directory, key=SigningKey.generate()
    )
    with server:
        assert server.train_round(LocalTransport(fed.sites)).status == "skipped"
    assert not any(site.entered for site in fed.sites.values())


def test_identities_of_sites_need_not_be_places(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    names = {0: 17, 1: 400, 2: 1000, 3: 2**31, 4: 2**32 - 2}
    credentials = {names[c]: Credentials(names[c], s.own.signing, s.own.box) for c, s in fed.sites.items()}
    fed.directory = Directory({client: own.signing.public for client, own in credentials.items()})

    def named(model, client, round, rng):  # type: ignore[no-untyped-def]
        return train(model, {v: k for k, v in names.items()}[client], round, rng)

    fed.sites = {c: PlainSite(own, fed.directory, fed.config, named) for c, own in credentials.items()}
    with fed.server() as server:
        assert server.train_round(Wire(fed.sites, lost=lambda at, c: c == 400)).dropouts == (400,)


def test_a_model_of_another_length_is_refused(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server() as server, pytest.raises(ConfigError, match="entries"):
        server.train_round(LocalTransport(fed.sites), np.zeros(7))


def measure(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    """What a site's evaluation returns: a zero of one entry, test examples and means over them."""
    return ClientUpdate(np.zeros(1), 1000 * client, {"error": float(np.abs(model - client).mean())})


def test_sites_evaluate_through_a_sum_of_its_own(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server(evaluation=("error",)) as server:
        server.train_round(LocalTransport(fed.sites))
        for site in fed.sites.values():
            site.train = measure
        found = server.evaluate(LocalTransport(fed.sites))
        errors = [np.abs(server.model - client).mean() for client in range(5)]
        expected = np.average(errors, weights=[0, 1, 2, 3, 4])
        assert found.metrics == pytest.approx({"error": expected}, rel=1e-6)
        assert server.reports[-1].evaluation == found.metrics
        sites = {client: site for client, site in fed.sites.items() if client < 2}
        assert "nothing is evaluated" in server.evaluate(LocalTransport(sites)).caveats[0]
        for site in fed.sites.values():
            site.train = train
        assert server.train_round(LocalTransport(fed.sites)).status == "trained"
    assert RunFolder(tmp_path / "run").reports()[0].evaluation == found.metrics


def test_the_server_evaluates_on_public_examples(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server(evaluate=lambda model: Evaluation({"norm": float(np.abs(model).sum())})) as server:
        report = server.train_round(LocalTransport(fed.sites))
        assert report.evaluation == {"norm": float(np.abs(server.model).sum())}


def test_an_evaluation_that_no_charter_states_is_refused(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run")
    with fed.server() as server, pytest.raises(ConfigError, match="name the metrics"):
        server.evaluate(LocalTransport(fed.sites))
