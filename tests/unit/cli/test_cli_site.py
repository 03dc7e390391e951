"""`privfl site`: from an empty folder to an approved charter, an account, and the agent of another process."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sites import Federation, a_federation, real_now, set_policy

from privfl.cli.app import run
from privfl.crypto.members import Members
from privfl.dp import Poisson
from privfl.fl.examples import ExampleRule
from privfl.site.home import SiteHome

TRAIN = """
import numpy as np
from privfl.fl import ClientUpdate
def make(data):
    patients = data.read_text().splitlines()[1:]
    def train(model, client, round, rng):
        return ClientUpdate(np.full(len(model), 0.1), len(patients), {"loss": 0.5})
    return train
"""


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_directory_from_cards_to_its_signatures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words").write_text("a passphrase\n")
    homes = [str(tmp_path / name) for name in ("north", "south", "east")]
    sealed = ["--passphrase-file", str(tmp_path / "words")]
    for home in homes[:2]:
        assert run(["site", "new", home, "--name", Path(home).name]) == 0
    assert run(["site", "new", homes[2], "--name", "east", *sealed]) == 0
    cards = [str(Path(home) / f"{Path(home).name}.pub") for home in homes]
    file = str(tmp_path / "directory.json")
    assert run(["site", "directory", *cards, "-o", file]) == 0
    assert run(["site", "sign", homes[0], file]) == 0
    capsys.readouterr()
    assert run(["site", "check", homes[0], "--json"]) == 1
    findings = {(f["about"], f["level"]): f for f in said(capsys)["findings"]}
    assert "1 of 2 signatures" in findings["directory", "fault"]["text"]
    assert "server.key" in findings["policy", "fault"]["step"]
    assert run(["site", "sign", homes[2], file]) == 2  # the keys are sealed, and there is no terminal to ask
    capsys.readouterr()
    assert run(["site", "sign", homes[2], file, *sealed]) == 0
    assert run(["site", "sign", homes[1], file, "--install-only"]) == 0
    members = Members.read(file)
    members.check(time.time())
    assert sorted(members.names) == ["east", "north", "south"]
    capsys.readouterr()
    assert run(["site", "show", homes[0], "--json"]) == 0
    facts = said(capsys)
    assert (facts["name"], facts["client"]) == ("north", members.names["north"])
    assert [len(group) for group in facts["fingerprint"].split()] == [4] * 8
    assert run(["site", "renew", homes[0], "--days", "10"]) == 0
    assert run(["site", "check", homes[0]]) == 1
    assert "this site's card is not in it" in capsys.readouterr().out
    assert run(["site", "new", homes[0], "--name", "north"]) == 2
    assert run(["site", "show", str(tmp_path)]) == 2
    assert run(["site", "sign", homes[0], cards[0]]) == 2


@pytest.fixture
def trial(tmp_path: Path) -> Federation:
    made = a_federation(tmp_path, now=real_now(), policy="answer_after = 0.0")
    for home in made.homes.values():
        (home / "train.py").write_text(TRAIN)
        (home / "data").write_text("age,name\n61,PATIENT\n")
    return made


def pin(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run(["site", "check", str(home.folder), "--json"])
    step = next(f["step"] for f in said(capsys)["findings"] if f["about"] == "training" and f["level"] == "fault")
    set_policy(home, {"sha256": step.rpartition("= ")[2]})


def test_a_charter_is_approved_by_its_digest_and_withdrawn(
    trial: Federation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, file = next(iter(trial.homes.values())), trial.folder / "charter.json"
    trial.charter.write(file)
    digest = trial.charter.digest().hex()
    assert run(["site", "withdraw", str(home.folder), digest]) == 0
    assert run(["site", "withdraw", str(home.folder), digest]) == 2
    assert run(["site", "approve", str(home.folder), str(file), "--digest", "0" * 64]) == 2
    assert run(["site", "approve", str(home.folder), str(file)]) != 0  # nobody is there to say yes
    assert home.charters() == {}
    assert run(["site", "approve", str(home.folder), str(file), "--digest", digest]) == 0
    assert "multiplier 2" in capsys.readouterr().out
    assert set(home.charters()) == {trial.charter.digest()}
    pin(home, capsys)
    assert run(["site", "check", str(home.folder)]) == 0


def test_training_is_tried_and_mocked_without_a_charge(trial: Federation, capsys: pytest.CaptureFixture[str]) -> None:
    home = next(iter(trial.homes.values()))
    folder = str(home.folder)
    assert run(["site", "try", folder, "--entries", "4"]) == 2  # no hash is pinned
    pin(home, capsys)
    assert run(["site", "try", folder, "--entries", "4"]) == 0
    shown = capsys.readouterr().out
    assert "0.2" in shown
    assert "metric loss" in shown
    model = trial.folder / "model"
    model.write_bytes(bytes(32))
    assert run(["site", "try", folder, "--model", str(model)]) == 0
    model.write_bytes(bytes(31))
    assert run(["site", "try", folder, "--model", str(model)]) == 2
    assert run(["site", "try", folder]) == 2
    shutil.move(home / "data", home / "data.csv")
    set_policy(home, {"data": '"data.csv"'})
    mocked = trial.folder / "mock"
    assert run(["site", "mock", folder, str(mocked), "--examples", "5"]) == 0
    lines = (mocked / "data.csv").read_text().splitlines()
    assert lines[0] == "age,name"
    assert len(lines) == 6
    assert "PATIENT" not in "".join(lines)
    assert run(["site", "mock", folder, str(mocked)]) == 2
    capsys.readouterr()
    assert run(["site", "ledger", folder, "--json"]) == 0
    account = said(capsys)
    assert (account["spent"], account["receipts"]) == (0.0, [])


PATIENTS = """
import numpy as np
from privfl.fl.linear import LinearModel, LinearTrain
def make(data):
    table = np.loadtxt(data, delimiter=",", skiprows=1)
    rows, person = (table[:, 1:-1], table[:, -1]), table[:, 0]
    return LinearTrain(LinearModel("logistic", 2), lambda client: rows, persons=lambda client: person)
"""


def test_gradients_of_a_sites_own_people_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three people have finite gradients; a mock of the same columns serves the author of the function."""
    made = a_federation(tmp_path, now=real_now(), examples=ExampleRule(Poisson(0.5), 20.0, 40.0), length=3)
    home = next(iter(made.homes.values()))
    folder = str(home.folder)
    (home / "train.py").write_text(PATIENTS)
    (home / "data.csv").write_text("patient,age,dose,died\n7,0.5,1,1\n7,0.5,2,1\n8,0.1,30,0\n9,inf,1,0\n")
    set_policy(home, {"data": '"data.csv"', "max_clip_norm": "2.0"})
    pin(home, capsys)
    assert run(["site", "try", folder, "--entries", "3"]) == 0
    shown = capsys.readouterr().out
    for words in ("people 3", "gradients that count as zeros 1", "longer than demands.max_clip_norm 50.0%"):
        assert words in " ".join(shown.replace("│", " ").split())
    assert run(["site", "mock", folder, str(made.folder / "mock"), "--examples", "8"]) == 0
    set_policy(home, {"data": f'"{made.folder / "mock" / "data.csv"}"'})
    assert run(["site", "try", folder, "--entries", "3"]) == 0
    assert "people" in capsys.readouterr().out
    set_policy(home, {"unit": '"client"'})
    assert run(["site", "try", folder, "--entries", "3"]) == 0  # the same function trains the whole site, too
    assert "l2 norm of the update" in capsys.readouterr().out
    (home / "train.py").write_text(TRAIN)
    pin(home, capsys)
    set_policy(home, {"unit": '"example"'})
    assert run(["site", "try", folder, "--entries", "3"]) != 0
    assert "no gradients of single examples" in capsys.readouterr().err


def test_the_agent_serves_a_round_and_its_child_dies_with_it(
    trial: Federation, capsys: pytest.CaptureFixture[str], gone: Callable[[int], bool], tmp_path: Path
) -> None:
    me = min(trial.homes)
    home = trial.homes[me]
    pin(home, capsys)
    socket = Path(f"/tmp/privfl-{os.getpid()}-serve") / "agent.sock"  # noqa: S108 (a socket's path is short)
    set_policy(home, {"socket": f'"{socket}"'})
    command = [sys.executable, "-m", "privfl", "site", "serve", str(home.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as agent:
        assert agent.stdout is not None
        assert "serves" in agent.stdout.readline()
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        relay = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "site_relay.py"))["Relay"](str(socket))
        answers = {client: trial.site(client).answer for client in trial.homes if client != me} | {me: relay.answer}
        trial.clock.now = time.time()
        assert trial.round(answers).outcome.survivors == set(trial.homes)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 143
    assert len(children) == 1
    assert gone(int(children[0]))
    assert not socket.exists()
    socket.parent.rmdir()
    receipts = tmp_path / "all.jsonl"
    capsys.readouterr()
    assert run(["site", "ledger", str(home.folder), "--json", "--receipts", str(receipts)]) == 0
    account = said(capsys)
    assert account["spent"] > 0
    assert [record["kind"] for record in account["receipts"]] == ["entered", "ended"]
    assert run(["site", "ledger", str(home.folder)]) == 0
    assert run(["site", "reconcile", str(home.folder), str(receipts)]) == 0
    assert "took up 0 receipts" in capsys.readouterr().out
