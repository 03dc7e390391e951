"""A run's folder: one writer, one identity, and figures that no asker's settings change."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privfl.cli.app import run as command_line
from privfl.codec import Vector
from privfl.data import Dataset
from privfl.errors import BudgetExceeded, ConfigError, PrivflError, StateError
from privfl.experiment import Experiment
from privfl.experiment.folder import RunFolder, find_run, find_runs
from privfl.fl.client import ClientUpdate
from privfl.fl.dropout import nobody
from privfl.lock import sole_writer
from privfl.report.run import read_run

FEATURES = np.random.default_rng(3).normal(size=(80, 3)).astype(np.float32)
DATA = Dataset("points", "binary", FEATURES, (FEATURES[:, 0] > 0).astype(np.int64), classes=("a", "b"))
CENTRAL = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
POISSON = CENTRAL | {"cohort.sampling": "poisson", "cohort.probability": 0.5, "cohort.dropout": 0.1}


def an_experiment(runs: Path, **changes: Any) -> Experiment:
    return Experiment(data=DATA, runs=runs, overrides={"rounds": 3, "data.clients": 8, "client.steps": 2} | changes)


@contextlib.contextmanager
def another_process(runs: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that trains one round of the run `run` in `runs`, prints a line, and sleeps."""
    code = """
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_run_folder import an_experiment
        rounds = an_experiment(Path(sys.argv[1])).each_round()
        next(rounds)
        if "fork" in sys.argv:
            import os
            seen, begun = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(begun, b".")
                time.sleep(60)
                os._exit(0)
            os.read(seen, 1)  # from here on the child has closed what it may not keep
            print(child, flush=True)
        print("ready", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(runs), str(Path(__file__).parent), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    first = an_experiment(tmp_path)
    rounds = first.each_round()
    next(rounds)
    for resume in (False, True):
        with pytest.raises(StateError, match="another process is writing"):
            an_experiment(tmp_path).run(resume=resume)
    assert len(list(rounds)) == 2
    assert len(an_experiment(tmp_path, rounds=4).run(resume=True)) == 4


def test_a_generator_that_is_dropped_gives_the_folder_back(tmp_path: Path) -> None:
    rounds = an_experiment(tmp_path).each_round()
    next(rounds)
    rounds.close()
    assert len(an_experiment(tmp_path).run(resume=True)) == 3


@pytest.mark.parametrize("arguments", [(), ("fork",)])
def test_a_killed_writer_gives_the_folder_back(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Even where a child that it forked is still there."""
    children = []
    with another_process(tmp_path, *arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                break
            children.append(int(line))
        with pytest.raises(StateError, match="another process is writing"):
            an_experiment(tmp_path).run(resume=True)
    try:
        assert len(an_experiment(tmp_path).run(resume=True)) == 3
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_the_second_command_line_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "twice.toml"
    toml.write_text('name = "twice"\nrounds = 2\n[data]\nname = "breast_cancer"\n')
    rounds = Experiment.from_file(toml, runs=tmp_path).each_round()
    next(rounds)
    assert command_line(["run", str(toml), "--runs", str(tmp_path), "--resume"]) == 2
    assert "another process is writing" in capsys.readouterr().err.replace("\n", " ")
    list(rounds)
    assert command_line(["run", str(toml), "--runs", str(tmp_path), "--resume", "--json"]) == 0


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        with sole_writer(tmp_path / "lock"), pytest.raises(StateError), sole_writer(tmp_path / "lock"):
            pass


REFUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (CENTRAL | {"cohort.sampling": "fixed-size", "cohort.size": 5}, {"privacy.adjacency": "replace_one"}),
    (CENTRAL | {"privacy.epsilon": 0.5}, {"privacy.epsilon": 50.0}),
]


@pytest.mark.parametrize(("settings", "correction"), REFUSED)
def test_a_refused_claim_leaves_no_folder(tmp_path: Path, settings: Any, correction: Any) -> None:
    with pytest.raises(PrivflError):
        an_experiment(tmp_path, **settings).run()
    assert list(tmp_path.iterdir()) == []
    assert len(an_experiment(tmp_path, **settings | correction).run()) == 3


def test_an_error_before_the_first_round_leaves_no_folder(tmp_path: Path) -> None:
    def fails(model: Vector, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
        raise ValueError("a mistake")

    own: dict[str, Any] = {"data": DATA, "initial": np.zeros(2), "runs": tmp_path, "rounds": 1}
    with pytest.raises(PrivflError, match="ValueError in fails"):
        Experiment(train=fails, **own).run()
    assert list(tmp_path.iterdir()) == []
    # What was charged stays charged: the folder of a private run is kept.
    with pytest.raises(PrivflError, match="ValueError in fails"):
        Experiment(train=fails, **own, overrides=CENTRAL).run()
    assert (tmp_path / "run" / "ledger.jsonl").exists()


def test_a_refusal_removes_nothing_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(PrivflError):
        an_experiment(tmp_path, **REFUSED[0][0]).run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_an_exceeded_budget_keeps_the_rounds_before_it(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded):
        an_experiment(tmp_path, **CENTRAL, **{"privacy.epsilon": 3.0, "rounds": 50}).run()
    assert find_run(tmp_path, "run").store.rounds()[-1] >= 1


@pytest.mark.parametrize("asked", [{"rounds": 1}, {"rounds": 300}, {"data.folder": "elsewhere"}, {"engine.workers": 2}])
def test_settings_that_do_not_matter_change_no_figure(tmp_path: Path, asked: dict[str, Any]) -> None:
    experiment = an_experiment(tmp_path, **POISSON)
    truth = experiment.run().epsilon
    assert truth is not None
    assert truth.epsilon > 0
    assert an_experiment(tmp_path, **POISSON, **asked).epsilon() == truth
    assert find_run(tmp_path, "run").epsilon() == truth
    assert read_run(tmp_path / "run").epsilons["outsider"] == truth


@pytest.mark.parametrize(
    "asked",
    [
        {"cohort.dropout": 0.0},
        {"cohort.min_survivor_fraction": 0.01},
        {"cohort.probability": 0.1},
        {"privacy.noise_multiplier": 20.0},
        {"privacy.adjacency": "zero_out"},
        {"privacy.placement": "none", "privacy.noise_multiplier": None},
        {"data.clients": 9},
        {"seed": 1},
    ],
)
def test_a_figure_that_is_asked_with_other_settings_is_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    an_experiment(tmp_path, **POISSON).run()
    other = an_experiment(tmp_path, **POISSON | asked)
    for ask in (other.epsilon, lambda: other.reports, lambda: other.model):
        with pytest.raises(StateError, match=r"other settings|other data"):
            ask()


def test_a_figure_that_is_asked_with_other_dropouts_or_data_is_refused(tmp_path: Path) -> None:
    settings = {"rounds": 1, "data.clients": 8} | POISSON | {"cohort.dropout": 0.0}
    Experiment(data=DATA, runs=tmp_path, overrides=settings).run()
    with pytest.raises(StateError, match=r"the dropouts privfl\.fl\.dropout\.RandomDropouts"):
        Experiment(data=DATA, runs=tmp_path, overrides=settings, dropouts=nobody).epsilon()
    other = Dataset("points", "binary", FEATURES + 1, DATA.targets, classes=("a", "b"))
    with pytest.raises(StateError, match="other data"):
        Experiment(data=other, runs=tmp_path, overrides=settings).epsilon()


def test_every_run_has_a_nonce_of_its_own(tmp_path: Path) -> None:
    nonces = []
    for name in ("a", "b"):
        an_experiment(tmp_path, name=name, rounds=1).run()
        nonces.append(RunFolder(tmp_path / name).nonce)
        an_experiment(tmp_path, name=name, rounds=2).run(resume=True)
        assert RunFolder(tmp_path / name).nonce == nonces[-1]
    assert {len(nonce) for nonce in nonces} == {16}
    assert len(set(nonces)) == 2
    assert [run.name for run in find_runs(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize("change", ["gone", "cut", "nonce"])
def test_a_damaged_identity_is_told(tmp_path: Path, change: str) -> None:
    an_experiment(tmp_path, rounds=1).run()
    path = tmp_path / "run" / "run.json"
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"nonce": "00"}))
    with pytest.raises(StateError, match=r"run\.json"):
        an_experiment(tmp_path, rounds=2).run(resume=True)


def test_a_run_is_found_by_name_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_experiment(tmp_path / "runs", rounds=1, name="mine").run()
    monkeypatch.setenv("HOME", str(tmp_path))
    for runs, name in ((tmp_path / "runs", "mine"), ("~/runs", "mine"), ("/nowhere", "~/runs/mine")):
        assert find_run(runs, name).path == tmp_path / "runs" / "mine"
    with pytest.raises(ConfigError, match=r"there is no run 'yours' in .*; there are: mine"):
        find_run(tmp_path / "runs", "yours")


def test_the_lock_is_not_a_matter_of_time(tmp_path: Path) -> None:
    started = time.perf_counter()
    with sole_writer(tmp_path / "lock"), pytest.raises(StateError), sole_writer(tmp_path / "lock"):
        pass
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda report: report.pop("ages"), "lacks the key 'ages'"),
        (lambda report: report.update(colour=1), "has the unknown key 'colour'"),
        (lambda report: report.update(dropouts=None), "has no list under the key 'dropouts'"),
    ],
    ids=["lacks", "unknown", "no-list"],
)
def test_a_stored_report_of_other_keys_is_refused_by_file_and_key(tmp_path: Path, change: Any, problem: str) -> None:
    an_experiment(tmp_path, name="run", rounds=1).run()
    store = RunFolder(tmp_path / "run").store
    version = store.load(1)
    report = dict(version.report)
    change(report)
    store.save(1, version.state, parent=version.parent, report=report, live=version.live)
    refusal = f"000001.safetensors {problem}: start the run again under another name"
    with pytest.raises(StateError, match=refusal):
        RunFolder(tmp_path / "run").reports()
    with pytest.raises(StateError, match=refusal):
        an_experiment(tmp_path, name="run", rounds=2).run(resume=True)
