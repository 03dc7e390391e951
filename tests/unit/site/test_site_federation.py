"""Real sites and a real server in one process: the signed mode, the receipts that the server keeps, and their use."""

import json
import shutil
from pathlib import Path

import pytest
from federations import SITES, Sites

from privfl.cli.app import run
from privfl.errors import StateError
from privfl.experiment.folder import RECEIPTS, RunFolder
from privfl.fl.exchange import LocalTransport
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
