"""Every path that a user gives may start with `~`, and none that is wrong makes a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import typer.main

from privfl.adapters.ledgers import ClientLedgers
from privfl.cli import app as cli
from privfl.crypto import generate_identities
from privfl.crypto.identity import FileDirectory, load_credentials, save_credentials
from privfl.crypto.memory import TasksInFolder
from privfl.dp import Ledger, PrivacyUnit
from privfl.errors import ConfigError, PrivflError
from privfl.experiment import Experiment
from privfl.experiment.compare import run_comparison
from privfl.experiment.comparison import Comparison
from privfl.experiment.sweep import Sweep, run_sweep
from privfl.files import atomic_write, made_folder, user_path
from privfl.fl.client_state import SiteState
from privfl.sums.store import SessionStore

CREDENTIALS, DIRECTORY = generate_identities(range(2))


def commands(command: Any, name: str = "privfl") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for key, each in command.commands.items():
            yield from commands(each, f"{name} {key}")
    else:
        yield name, command


def test_every_path_of_a_verb_is_read_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = 0
    for name, command in commands(typer.main.get_command(cli.app)):
        for parameter in command.params:
            kind = parameter.type
            assert type(kind).__name__ not in ("Path", "TyperPath"), f"{name} {parameter.name}: give parser=user_path"
            if type(kind).__name__ == "FuncParamType":
                try:
                    path = kind.convert("~/x.png", parameter, None)
                except (typer.BadParameter, PrivflError):
                    continue  # not of a path
                if isinstance(path, Path):
                    assert path == tmp_path / "x.png", f"{name} {parameter.name}"
                    found += 1
    assert found > 30


def task_memory(path: str) -> None:
    TasksInFolder(path).begin(bytes(32))


def session(path: str) -> None:
    SessionStore(path).put("one", b"state")


def ledger(path: str) -> None:
    Ledger(PrivacyUnit("client", "zero_out"), path)
    Ledger.read(path).publish(path)


def keys(path: str) -> None:
    made_folder(user_path(path), mode=0o700)
    save_credentials(f"{path}/keys.json", CREDENTIALS[0], passphrase="a long one")
    load_credentials(f"{path}/keys.json", passphrase="a long one")
    FileDirectory.write(f"{path}/directory.json", {0: DIRECTORY.verify_key(0)})


def state(path: str) -> None:
    atomic_write(SiteState(path, 0).path, b"")


def runs(path: str) -> None:
    Experiment(rounds=1, runs=path, name="mine").run()


def comparison(path: str) -> None:
    next(run_comparison(Comparison(data="breast_cancer", clients=3, rounds=1, seeds=1), path, workers=0))


def sweep(path: str) -> None:
    list(run_sweep(Sweep(Experiment(rounds=1).config, {"client.epochs": (1,)}), path, workers=0))


def plot(path: str) -> None:
    pytest.importorskip("matplotlib")
    from privfl.report.epsilon import plot_sweep

    made_folder(user_path(path))
    plot_sweep({"a": [(1.0, 1.0), (2.0, 2.0)]}, Path(path) / "x.svg", x="x", y="y")


def example_ledgers(path: str) -> None:
    ClientLedgers(PrivacyUnit("example", "add_remove"), path)


USES: dict[str, Callable[[str], Any]] = {
    use.__name__: use
    for use in (task_memory, session, ledger, example_ledgers, keys, state, runs, comparison, sweep, plot)
}


@pytest.mark.parametrize("name", USES)
def test_a_path_of_the_api_may_start_with_a_tilde(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    USES[name]("~/place")
    assert [path.name for path in home.iterdir() if path.name[0] != "."] == ["place"]
    assert not list(here.iterdir())


@pytest.mark.parametrize("name", USES)
def test_a_wrong_path_of_the_api_makes_no_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"typo(/deeper)? does not exist: make it, or correct the path"):
        USES[name]("typo/deeper/place")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_own_is_taken_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_equal(made_folder(tmp_path), tmp_path)
    inner = made_folder(tmp_path / "inner", mode=0o700)
    assert inner.stat().st_mode & 0o777 == 0o700
    assert made_folder(inner) == inner
