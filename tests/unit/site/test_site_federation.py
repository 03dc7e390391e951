"""Real sites and a real server in one process: the signed mode, the receipts that the server keeps, and their use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from federations import SITES, Sites, check_ledgers

from privfl.cli.app import run
from privfl.dp import Ledger, PrivacyUnit, epsilon
from privfl.errors import ConfigError, StateError
from privfl.experiment.folder import RECEIPTS, RunFolder
from privfl.experiment.sites import SiteTraining
from privfl.fl.client import ClientUpdate
from privfl.fl.exchange import LocalTransport
from privfl.fl.linear import LinearModel, LinearTrain
from privfl.fl.receipts import ReceiptBook
from privfl.report.page import render
from privfl.report.run import read_run
from privfl.site.reconcile import read_receipts, reconcile


def federation(folder: Path, **settings: object) -> Sites:
    sites = Sites.make(folder, {"rounds": 10, **settings})
    sites.approve()
    return sites


def local(sites: Sites) -> LocalTransport:
    return LocalTransport({client: sites.site(client) for client in sites.homes})


def test_report_and_runs_state_the_mode_that_each_site_signed(tmp_path: Path, capsys) -> None:
    sites = federation(tmp_path)
    clients = sorted(sites.homes)
    sites.agents = frozenset(clients[1:])
    with sites.server() as server:
        server.train_round(local(sites))
    folder = RunFolder(tmp_path / "run")
    assert folder.sites == {clients[0]: ("in-app",)} | dict.fromkeys(clients[1:], ("agent",))
    words = f"agent: 4 of 5 sites; in-app: 1 of 5 sites ({clients[0]})"
    page = render(read_run(folder))
    assert words in page
    assert "author of the app" in page
    assert words not in render(read_run(folder), public=True)
    assert run(["runs", "show", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sites"][str(clients[0])] == ["in-app"]
    assert run(["runs", "show", str(tmp_path / "run"), "--json", "--public"]) == 0
    assert "sites" not in json.loads(capsys.readouterr().out)
    sites.restart(clients[0])
    sites.agents = frozenset(clients)
    with sites.server() as server:
        server.train_round(local(sites))
    assert folder.sites[clients[0]] == ("in-app", "agent")  # neither is hidden by the other
    sites.close()


def test_the_servers_receipts_restore_a_site_that_lost_several_rounds(tmp_path: Path) -> None:
    sites = federation(tmp_path)
    client = min(sites.homes)
    home = sites.homes[client]
    with sites.server() as server:
        server.train_round(local(sites))
        sites.restart(client)
        shutil.copytree(home.folder, tmp_path / "copy")
        for _ in range(3):
            server.train_round(local(sites))
        sites.restart(client)
        shutil.rmtree(home.folder)
        (tmp_path / "copy").rename(home.folder)
        sites.now += 1
        assert server.train_round(local(sites)).dropouts == (client,)
        sites.restart(client)
        assert len(reconcile(home, read_receipts([tmp_path / "run" / RECEIPTS]), sites.now)) == 3 * 2
        sites.now += 1
        assert server.train_round(local(sites)).survivors == SITES
    sites.close()


def test_the_book_of_receipts_survives_a_cut_line_and_no_other_change(tmp_path: Path) -> None:
    sites = federation(tmp_path)
    with sites.server() as server:
        server.train_round(local(sites))
        path = tmp_path / "run" / RECEIPTS
        whole = path.read_bytes()
        receipts = read_receipts([path])
        assert len(receipts) == 2 * SITES
        book = ReceiptBook(path)
        assert [receipt.kind for receipt in book.newest] == ["ended"] * SITES
        book.keep(receipts)
        assert path.read_bytes() == whole
        path.write_bytes(whole[:-10])
        book = ReceiptBook(path)
        assert len(book.newest) == SITES
        book.keep(receipts)
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
        path.write_bytes(whole.replace(b"ended", b"enters", 1))
        with pytest.raises(StateError, match="line "):
            ReceiptBook(path)
    sites.close()


def test_each_site_keeps_the_newest_receipt_of_every_other(tmp_path: Path, capsys) -> None:
    """A server that lost its folder cannot hide a rollback: another site's file of receipts states the newest one."""
    sites = federation(tmp_path)
    one, two = sorted(sites.homes)[:2]
    with sites.server() as server:
        server.train_round(local(sites))
        sites.restart(two)
        shutil.copytree(sites.homes[two].folder, tmp_path / "copy")
        for _ in range(2):
            server.train_round(local(sites))
    sites.close()
    assert run(["site", "ledger", str(sites.homes[one].folder), "--receipts", str(tmp_path / "receipts.jsonl")]) == 0
    capsys.readouterr()
    told = {receipt.client for receipt in read_receipts([tmp_path / "receipts.jsonl"])}
    assert told == set(sites.homes)
    shutil.rmtree(sites.homes[two].folder)
    (tmp_path / "copy").rename(sites.homes[two].folder)
    with pytest.raises(StateError, match="one that is missing"):
        reconcile(sites.homes[two], read_receipts([tmp_path / "receipts.jsonl"]), sites.now)
    both = read_receipts([tmp_path / "receipts.jsonl", tmp_path / "run" / RECEIPTS])
    assert len(reconcile(sites.homes[two], both, sites.now)) == 2 * 2
    (sites.homes[one] / "peers.json").write_text("[1]")
    with pytest.raises(StateError, match="remove it"):
        sites.homes[one].peers()


EXAMPLES: dict[str, object] = {
    "privacy.unit": "example",
    "privacy.placement": "distributed",
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 2.0,
    "privacy.sampling_probability": 0.25,
    "privacy.denominator": 50.0,
    "privacy.delta": 1e-5,
}
ROWS = np.random.default_rng(5).normal(size=(40, 5)), np.arange(40) % 2.0


def over_examples(folder: Path, **settings: object) -> Sites:
    sites = Sites.make(folder, {**EXAMPLES, "rounds": 10, **settings})
    sites.train = LinearTrain(LinearModel("logistic", 5), lambda client: ROWS)
    return sites


@pytest.mark.parametrize("placement", ["distributed", "mesh"])
def test_server_and_sites_state_one_figure_for_examples(tmp_path: Path, placement: str, capsys) -> None:
    sites = over_examples(tmp_path, **{"privacy.placement": placement})
    sites.approve()
    with sites.server() as server:
        words = server.charter.in_words()
        for _ in range(2):
            assert server.train_round(local(sites)).survivors == SITES
        assert np.any(server.model != 0)
    assert (words["unit"], words["denominator"]) == ("one example", "50, a public constant")
    check_ledgers(tmp_path, sites)
    ledger = Ledger.read(tmp_path / "run" / "ledger.jsonl")
    assert ledger.unit == PrivacyUnit("example", "add_remove")
    figures = {observer: epsilon(ledger, 1e-5, observer=observer) for observer in ("outsider", "server", "participant")}
    assert all(0 < found.epsilon < 5 and "any single example" in found.sentence for found in figures.values())
    for home in sites.homes.values():
        (own,) = (Ledger.read(path) for path in (home / "ledgers").iterdir())
        same = Ledger(ledger.unit)  # the site's own budget is under replace_one
        for release in own.releases:
            same.reserve(release)
        assert epsilon(same, 1e-5, observer="server").epsilon == pytest.approx(figures["server"].epsilon, rel=1e-6)
    assert run(["epsilon", "--ledger", str(tmp_path / "run" / "ledger.jsonl"), "--delta", "1e-5"]) == 0
    assert "example" in capsys.readouterr().out
    assert "single example" in render(read_run(RunFolder(tmp_path / "run")))
    home = next(iter(sites.homes.values()))
    sites.close()
    assert run(["site", "ledger", str(home.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["adjacency"], found["sites_per_person"]) == ("example", "replace_one", 1)
    assert run(["site", "ledger", str(home.folder)]) == 0
    assert "for one example" in capsys.readouterr().out


def test_each_site_of_a_federation_may_have_a_probability_of_its_own(tmp_path: Path) -> None:
    rates = (0.1, 0.2, 0.3, 0.4, 0.5)
    sites = over_examples(
        tmp_path, **{"privacy.sampling_probability": None, "privacy.sampling_probabilities": list(rates)}
    )
    sites.approve()
    with sites.server() as server:
        assert server.charter.terms.encoding.examples.sampling.probabilities == tuple(
            zip(server.clients, rates, strict=True)
        )
        assert server.charter.in_words()["probabilities"].endswith(": 0.5")
        assert server.train_round(local(sites)).survivors == SITES
    sites.close()


def test_a_server_refuses_what_only_sites_know(tmp_path: Path) -> None:
    for changes, options, text in (
        ({"privacy.denominator": None}, {}, "the examples are at the sites"),
        ({"privacy.person": "patient"}, {}, "have each site's training take `persons`"),
        ({}, {"stateful": True}, "no site keeps a state"),
    ):
        (tmp_path / text).mkdir()
        sites = over_examples(tmp_path / text, **changes)
        with pytest.raises(ConfigError, match=text):
            sites.server(**options)
    stand_in = SiteTraining()
    with pytest.raises(ConfigError, match="the sites train, not the server"):
        stand_in.people(0)
    with pytest.raises(ConfigError, match="the sites train, not the server"):
        stand_in.gradients(np.zeros(6), 0, np.arange(3))


def test_without_noise_sites_of_examples_may_evaluate(tmp_path: Path) -> None:
    sites = over_examples(tmp_path, **{"privacy.placement": "none", "privacy.noise_multiplier": None})
    sites.evaluate = lambda model, client, round, rng: ClientUpdate(np.zeros(1), 7, {"accuracy": 0.5})
    options = {"evaluation": ("accuracy",)}
    sites.approve(**options)
    with sites.server(**options) as server:
        assert server.train_round(local(sites)).survivors == SITES
        assert server.evaluate(local(sites)).metrics == {"accuracy": pytest.approx(0.5)}
    sites.close()
