"""Files of a run that were altered: no verb and no property reads a smaller epsilon from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from privfl.cli.app import run as command
from privfl.errors import StateError
from privfl.experiment import Experiment
from privfl.experiment import folder as folder_module
from privfl.experiment.config import from_mapping, read_toml, toml_text
from privfl.experiment.folder import RunFolder
from privfl.fl.client import ClientUpdate

NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}


def still(model: np.ndarray, client: int, round: int, rng: np.random.Generator) -> ClientUpdate:
    return ClientUpdate(np.zeros(3), 1)


def an_experiment(runs: Path, *, rounds: int = 2) -> Experiment:
    overrides = NOISE | {"rounds": rounds}
    return Experiment(train=still, initial=np.zeros(3), clients=5, runs=runs, name="r", overrides=overrides)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    experiment = an_experiment(tmp_path)
    experiment.run()
    return experiment.folder


def shrunk(data: bytes) -> bytes:
    return re.sub(rb'"epsilon":[0-9.]+', b'"epsilon":0.001', data)


@pytest.mark.parametrize("alter", [shrunk, lambda data: b"", lambda data: b"null\n", lambda data: data[:40]])
def test_the_copy_of_the_reports_is_not_believed(
    folder: Path, alter: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    files = RunFolder(folder)
    truth, figures = files.epsilon(), [report.epsilon for report in files.reports()]
    assert truth is not None
    assert figures[-1] == truth.epsilon
    (folder / "metrics.jsonl").write_bytes(alter((folder / "metrics.jsonl").read_bytes()))
    assert [report.epsilon for report in files.reports()] == figures
    assert command(["runs", "list", "--runs", str(folder.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["epsilon"] == truth.epsilon
    page = folder.parent / "r.html"
    assert command(["report", "r", "--runs", str(folder.parent), "--to", str(page)]) == 0
    assert "0.001" not in page.read_text()


def test_a_report_that_was_altered_next_to_its_model_is_refused(folder: Path) -> None:
    path = folder / "models" / "000002.safetensors"
    data = path.read_bytes()
    for old in (rb"\"epsilon\":", rb"\"cohort\":5", rb"\"status\":\"trained\""):
        assert data.count(old) == 1
        at = data.index(old) + len(old) - 1
        path.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])
        with pytest.raises(StateError):
            RunFolder(folder).reports()
    for damaged in (b"", b"\xff" * 100, b"\xff" * 8 + b"{}", data[:200]):
        path.write_bytes(damaged)
        with pytest.raises(StateError):
            RunFolder(folder).reports()
    path.write_bytes(data)
    assert len(RunFolder(folder).reports()) == 2


def test_a_configuration_that_denies_the_noise_is_refused(folder: Path) -> None:
    """Without noise there is no statement, and a reader would take the run for one that never claimed any."""
    path = folder / "config.toml"
    path.write_text(path.read_text().replace('placement = "central"', 'placement = "none"'))
    for ask in (RunFolder(folder).epsilon, RunFolder(folder).epsilons):
        with pytest.raises(StateError, match="was edited after the run was started"):
            ask()
    assert command(["report", "r", "--runs", str(folder.parent), "--to", str(folder.parent / "r.html")]) == 2


KEPT = [
    ("noise_multiplier = 2.0", "noise_multiplier = 20.0"),
    ("clip_norm = 1.0", "clip_norm = 0.1"),
    ("delta = 1e-05", "delta = 0.001"),
    ("delta = 1e-05\n", ""),
    ('noise = "secure"', 'noise = "simulation"'),
    ('adjacency = "', 'adjacency = "zero_out" # "'),
    ('scheme = "', 'scheme = "masked" # "'),
    ("seed = 0", "seed = 1"),
    ('name = "r"', 'name = "another"'),
    ("evaluate_every = 1\n", ""),
    ("learning_rate = 0.1", "learning_rate = 0.2"),
    ("[sum]", "[sum]\nbits = 40"),
]


@pytest.mark.parametrize(("old", "new"), KEPT, ids=[old.strip() for old, _ in KEPT])
def test_a_setting_edited_after_the_start_is_refused(
    folder: Path, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, path, page = RunFolder(folder), folder / "config.toml", folder.parent / "r.html"
    truth, text = files.epsilon(), path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for ask in (files.epsilon, files.epsilons, lambda: files.ledger, lambda: files.config):
        with pytest.raises(StateError, match=r"config\.toml was edited after the run was started: put back"):
            ask()
    runs = ["--runs", str(folder.parent)]
    for verb in (["report", "r", "--to", str(page)], ["runs", "list"]):
        assert command([*verb, *runs]) == 2
        assert "was edited after the run was started" in " ".join(capsys.readouterr().err.split())
    assert not page.exists()
    with pytest.raises(StateError, match="was edited after"):
        an_experiment(folder.parent, rounds=3).run(resume=True)
    path.write_text(text)
    assert files.epsilon() == truth


def test_what_a_run_does_not_keep_may_be_edited(folder: Path) -> None:
    """The length of the run, where it is computed, the layout of the file, and `1` for `1.0`."""
    path = folder / "config.toml"
    truth, text = RunFolder(folder).epsilon(), path.read_text()
    loose = text.replace("rounds = 2", "rounds = 9").replace("clip_norm = 1.0", "clip_norm = 1  # the norm")
    loose = loose.replace("workers = 0", "workers = 1  # here")
    assert loose.count("#") == 2
    path.write_text("# mine\n" + loose)
    assert RunFolder(folder).epsilon() == truth
    an_experiment(folder.parent, rounds=3).run(resume=True)
    assert RunFolder(folder).config.rounds == 3
    assert len(RunFolder(folder).reports()) == 3


def test_a_file_without_a_setting_that_came_later_is_the_same(folder: Path) -> None:
    """A library that knows one setting more reads the folders of an older one."""
    config, record = folder / "config.toml", folder / "run.json"
    tree = {key: value for key, value in read_toml(config).items() if key != "evaluate_every"}
    config.write_text(toml_text(tree))
    digest = folder_module._settings_digest(from_mapping(tree), tree)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"settings": digest}))
    an_experiment(folder.parent, rounds=3).run(resume=True)
    assert "evaluate_every" not in config.read_text()
    assert RunFolder(folder).config.rounds == 3


@pytest.mark.parametrize("damage", ["gone", "without", "other"])
def test_a_record_without_the_digest_of_the_settings_is_refused(folder: Path, damage: str) -> None:
    path = folder / "run.json"
    record = json.loads(path.read_text())
    assert re.fullmatch("[0-9a-f]{64}", record["settings"])
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(json.dumps(record | {"settings": "00" * 32} if damage == "other" else {}))
    with pytest.raises(StateError, match=r"run\.json|config\.toml"):
        RunFolder(folder).epsilon()


def test_a_ledger_in_the_folder_of_a_run_without_noise_is_refused(tmp_path: Path, folder: Path) -> None:
    plain = Experiment(train=still, initial=np.zeros(3), clients=5, runs=tmp_path, name="plain", rounds=1)
    plain.run()
    assert RunFolder(plain.folder).epsilon() is None
    (plain.folder / "ledger.jsonl").write_bytes((folder / "ledger.jsonl").read_bytes())
    with pytest.raises(StateError, match="this run adds no noise"):
        RunFolder(plain.folder).epsilon()


def test_a_ledger_that_is_a_folder_is_no_ledger(folder: Path) -> None:
    (folder / "ledger.jsonl").unlink()
    (folder / "ledger.jsonl").mkdir()
    with pytest.raises(StateError, match="there is no ledger here"):
        RunFolder(folder).epsilon()
